"""Predictions for new rows, by an exported student or by the student of a run.

predict = Predictor("exported")
print(predict(["a fine film"]).predictions)
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from pipeline import images
from pipeline.datasets import Kind, parts_of, rows_called
from pipeline.errors import UserError
from pipeline.exports import Model, export_format
from pipeline.files import read_regular, refuse_url
from pipeline.machine import Machine
from pipeline.params import parse
from pipeline.project import Project
from pipeline.records import ExportRecord, ManifestRecord, RunRecord
from pipeline.students import STUDENT, Blueprint
from pipeline.tasks import Task, build
from pipeline.verified import VerifiedFiles

VERSION = 1
"""The version of the layout of an exported folder."""

EXPORT = "export.json"

BATCH_SIZE = 512
"""The default batch size, as in the evaluation of a run."""

IMAGE_BYTES = 1 << 30
"""The largest file that is read as an image, in bytes."""

THREADS = 4
"""The number of images that are read and decoded at the same time."""

NewContent = str | Path | bytes | Image.Image | np.ndarray
"""A text; or an image: its path, its encoded bytes, opened by Pillow, or its pixels, uint8 [h, w] or [h, w, c]."""

NewRow = NewContent | tuple[NewContent, NewContent]
"""A text or an image, or a pair."""


@dataclass(frozen=True)
class Predictions:
    """A student's predictions for n rows.

    Attributes:
        outputs: the student's outputs [n, C], float32: logits, or values in the unit of the labels.
        classes: names of the outputs.
        predictions: per row the class, a tuple of labels, or the value.
        probabilities: the probability of every class or label [n, C]; None for a regression.
    """

    outputs: Float[np.ndarray, "n c"]
    classes: tuple[str, ...]
    predictions: list[Any]
    probabilities: Float[np.ndarray, "n c"] | None

    def __len__(self) -> int:
        return len(self.outputs)


class Predictor:
    """A student, ready to predict.

    Args:
        path: the folder of an export, or of a run in its project, such as `runs/aft`.
        seed: which student of a run; the best on validation rows if None.
        device: as in `machine.device`.
        batch_size: rows per batch.
        trust: also load formats whose files may contain code, which is then run.

    Attributes:
        kind: what its rows hold; see `pipeline.datasets.Kind`.
        task: what its outputs mean.
        table: which columns of a table hold what, as in training: settings of `text_table`, or of `image_table`.
        in_python: whether most of its work is done by Python, on one thread, and the rest also works in a copy of
            this process.

    Raises:
        UserError: there is no student, it is damaged or of another version, it reads features of teachers, or its
            format needs `trust`.
    """

    def __init__(
        self,
        path: str | Path,
        seed: int | None = None,
        device: str = "auto",
        batch_size: int = BATCH_SIZE,
        trust: bool = False,
    ):
        self.path, self.batch_size = Path(path), batch_size
        self.device = parse(Machine, {"device": device}, "aft predict").torch_device()
        folder, format, self.kind, self.task, self.table = _open(self.path, seed)
        blueprint = Blueprint.read(folder / STUDENT)
        if blueprint.classes != self.task.outputs:
            raise UserError(
                f"{folder / STUDENT}: a student of other outputs than {path} says; export it again, or train it again"
            )
        self._preprocess = blueprint.preprocessing()
        self.in_python = format == "native" and self.device.type == "cpu" and self._preprocess.in_python
        found = export_format(format)
        if found.RUNS_CODE and not trust:
            raise UserError(
                f"{path}: loading the format {format} may run code in its files; pass --trust (in Python trust=True) "
                "if you trust their origin"
            )
        if blueprint.runs_code and not trust:
            raise UserError(
                f"{path}: loading a student of the family {blueprint.family} runs the function "
                f"{blueprint.settings.get('factory')!a}; pass --trust (in Python trust=True) if you trust its origin"
            )
        self._model: Model = found.load(folder, blueprint, self.device)

    def __call__(self, rows: Sequence[NewRow]) -> Predictions:
        """Predict rows.

        Raises:
            UserError: a row cannot be read; the message has its number, from 0.
        """
        blocks = [np.empty((0, len(self.task.outputs)), np.float32)]
        with ThreadPoolExecutor(THREADS) as pool:
            for start in range(0, len(rows), self.batch_size):
                read, unread = self.read_all(rows[start : start + self.batch_size], pool)
                for number, problem in unread.items():
                    raise UserError(f"row {start + number}: {problem}")
                try:
                    blocks.append(self.outputs(self.encode(read)))
                except ValueError as error:
                    raise UserError(f"rows from {start}: {error}") from None
        return self.predictions(np.concatenate(blocks))

    def read_all(self, rows: Sequence[NewRow], pool: ThreadPoolExecutor) -> tuple[Sequence[Any], dict[int, str]]:
        """Rows as `encode` takes them, and by number, from 0, why some cannot be read.

        Images and pairs are read by the threads of `pool`.
        """
        if self.kind == "text" and _all_are_texts(rows):
            return rows, {}
        found = list(map(self.read, rows) if self.kind == "text" else pool.map(self.read, rows))
        return found, {number: str(one) for number, one in enumerate(found) if isinstance(one, ValueError)}

    def read(self, row: NewRow) -> Any:
        """A row as `encode` takes it, or a `ValueError` with the reason why it cannot be read."""
        parts = parts_of(self.kind)
        contents = row if isinstance(row, tuple) else (row,)
        try:
            if len(contents) != len(parts):
                raise ValueError(f"this student reads {rows_called(self.kind)}; a pair is a tuple of two, others none")
            read = [_text(one) if part == "text" else _image(one) for part, one in zip(parts, contents, strict=True)]
        except ValueError as error:
            return error
        return read[0] if len(read) == 1 else tuple(read)

    def encode(self, rows: Sequence[Any]) -> Any:
        """Rows from `read` as a batch for the student.

        Raises:
            ValueError: a text has no token.
        """
        return self._preprocess(rows)

    def outputs(self, batch: Any) -> Float[np.ndarray, "n c"]:
        """The outputs for a batch from `encode`, float32."""
        return self._model(batch)

    def predictions(self, outputs: Float[np.ndarray, "n c"]) -> Predictions:
        """The predictions and probabilities for outputs."""
        task = self.task
        return Predictions(outputs, task.outputs, task.predictions(outputs), task.probabilities(outputs))


def _open(path: Path, seed: int | None) -> tuple[Path, str, Kind, Task, dict[str, str]]:
    """The folder of a student, its format, what it reads, its task, and how its texts are made from a table."""
    if (path / EXPORT).exists():
        if seed is not None:
            raise UserError(f"{path}: an export holds one student; leave --seed out")
        export = ExportRecord.read(path / EXPORT, str(path))
        if export.version != VERSION:
            raise UserError(f"{path}: has version {export.version} instead of {VERSION}; export the run again")
        VerifiedFiles(path, export.files, "export the run again").finish()
        return path, export.format, export.kind, build(export.task, export.outputs, export.unit), export.table
    if not (path / "run.json").exists():
        refuse_url(path)
        raise UserError(
            f"{path}: neither an export nor a run that was trained; run `aft train RUN`, or `aft export RUN --output "
            f"{path}`"
        )
    run = RunRecord.read(path / "run.json", path.name)
    VerifiedFiles(path, run.files, f"run `aft train {path.name}` again").finish()
    manifest = ManifestRecord.read(Project(path.parent.parent).data / "manifest.json")
    task = build(manifest.task, manifest.outputs, manifest.unit)
    return path / "students" / str(seed_of(run, path, seed)), "native", manifest.kind, task, table_of(manifest)


def seed_of(run: RunRecord, path: Path, seed: int | None) -> int:
    """The seed of a run's student: `seed`, or the best on validation rows if it is None.

    Raises:
        UserError: the run has no such seed.
    """
    if seed is not None and seed not in run.seeds:
        raise UserError(f"{path}: no seed {seed}; it was trained with {', '.join(map(str, run.seeds))}")
    return run.best_seed if seed is None else seed


def table_of(manifest: ManifestRecord) -> dict[str, str]:
    """Which columns of a table hold the contents of rows like a dataset's."""
    source = manifest.settings["source"]
    images = "image" in manifest.kind
    keys = ("image_column", "second_column") if images else ("text_column", "template", "second_column")
    kept = {key: str(source[key]) for key in keys if source.get(key) is not None}
    if manifest.kind == "image+text":
        kept = {"second_column": "text"} | kept
    return kept if images else {"text_column": "text", **kept}


def _text(row: NewContent) -> str:
    if not isinstance(row, str):
        raise ValueError(f"this student reads texts, not {type(row).__name__}")
    if not row.strip():
        raise ValueError("empty text")
    try:
        row.encode()
    except UnicodeEncodeError:
        raise ValueError("not text in UTF-8, or with half a character") from None
    return row


def _all_are_texts(rows: Sequence[Any]) -> bool:
    """Whether `_text` takes all rows; looking at them together takes a fifth of the time."""
    try:
        "".join(rows).encode()
    except (TypeError, UnicodeEncodeError):
        return False
    return all(map(str.strip, rows))


def _image(row: NewContent) -> Image.Image:
    if isinstance(row, bytes):
        return images.decode(row)
    if isinstance(row, Image.Image):
        return images.upright(row)
    if isinstance(row, np.ndarray):
        if row.dtype != np.uint8:
            raise ValueError(f"pixels of type {row.dtype}; give bytes (uint8), [h, w] or [h, w, channels]")
        if row.ndim not in (2, 3) or row.shape[2:] not in ((), (3,), (4,)):
            raise ValueError(
                f"pixels of shape {list(row.shape)}; give [h, w], [h, w, 3] or, with transparency, [h, w, 4]"
            )
        return images.upright(Image.fromarray(row))
    try:
        return images.decode(read_regular(Path(row), IMAGE_BYTES))
    except OSError as error:
        raise ValueError(f"{row}: cannot be read: {error.strerror}") from None
    except UserError as error:
        raise ValueError(str(error)) from None
