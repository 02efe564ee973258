"""Export: a run's student as a folder that needs neither the project nor, in some formats, this library.

    export.json                what it is, and the checksum of every other file
    student.json               family, settings, what was fitted to the training rows, names of the outputs
    README.md                  the model card
    weights.safetensors ...    the files of the format

The folder gets its name only when it is complete, and another process has loaded it and computed the same outputs as
the run's student.
"""

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.data import Dataset
from pipeline.errors import UserError, count
from pipeline.exports import export_format
from pipeline.files import explained, refuse_url, replace_folder, scratch_folder, write_atomically
from pipeline.params import Params
from pipeline.predict import EXPORT, VERSION, Predictor, seed_of, table_of
from pipeline.processes import as_parent, end_with, starting_children
from pipeline.project import Project
from pipeline.provenance import versions
from pipeline.records import ExportRecord, RunRecord
from pipeline.serving.card import model_card
from pipeline.students import load_student, predict
from pipeline.training import refit
from pipeline.verified import VerifiedFiles, checksums

COMPARED = 256
"""The number of rows that are compared."""

TOLERANCE = 1e-4
"""The largest allowed difference of outputs, as a share of the largest output (or of 1, if that is more)."""

LIBRARIES = ("aft-pipeline", "torch", "numpy", "safetensors", "tokenizers", "transformers", "timm", "onnx")


@dataclass(frozen=True)
class Export:
    """What `export` did.

    Attributes:
        path: the folder.
        record: what is in it.
        bytes: the size of all its files.
    """

    path: Path
    record: ExportRecord
    bytes: int

    def __str__(self) -> str:
        record = self.record
        student = f"{record.run}, seed {record.seed}{', refit' if record.refit else ''}, as {record.format}"
        return (
            f"{self.path}: {student}, {self.bytes:,} bytes; {count(record.compared, 'row')} in a fresh process differ "
            f"by {record.largest_difference:.2g} at most"
        )


def export(
    name: str,
    params: Params,
    project: Project,
    output: Path,
    format: str = "native",
    seed: int | None = None,
    again: bool = False,
) -> Export:
    """Write a student of the run `name` to the folder `output`.

    Args:
        name: a run of params.yaml that was trained.
        params: all settings; the model card names the teachers in them.
        project: where the run is.
        output: the folder; an existing export there is replaced.
        format: a file in pipeline/exports/.
        seed: the student's seed; the best on validation rows if None.
        again: train it once more, on the labels of training and validation rows.

    Raises:
        UserError: the run was not trained, or on other data; the format cannot hold the student; `output` holds
            something else; or the exported student gives other outputs.
    """
    sweep, slash, _ = name.partition("/")
    if slash and sweep in params.section("sweep"):
        raise UserError(
            f"{name}: a point of a sweep; add it to `runs`, under a name of its own, run `aft train NAME`, which finds "
            "its trainings, and export that"
        )
    params.section(f"runs.{name}")
    chosen = export_format(format)
    _check_output(output)
    folder = project.run(name)
    run = RunRecord.read(folder / "run.json", name)
    VerifiedFiles(folder, run.files, f"run `aft train {name}` again").finish()
    data = Dataset.open(project.data)
    seed = seed_of(run, folder, seed)
    number = seed % data.splits
    if run.splits[str(seed)] != data.split_digest(number):
        raise UserError(f"{folder}: trained on other rows, splits or labels than these; run `aft train {name}`")
    kept = folder / "students" / str(seed)
    blueprint, student = load_student(kept, data.task.outputs)
    blueprint.preprocessing()  # refuses a student that reads teachers' features
    if reason := chosen.refusal(blueprint):
        raise UserError(f"--format {format}: {reason} as a {blueprint.family} student; use --format native")
    if again:
        blueprint, student = refit(name, params, project, run, seed)
    rows = _rows(data, number)
    contents = data.content(rows)
    expected = predict(student, blueprint.inputs(data), rows, torch.device("cpu"))
    try:
        with scratch_folder(output) as scratch:
            partial = scratch / output.name
            partial.mkdir()
            example = [data.image(int(row)) for row in rows[:4]] if data.kind == "image" else contents[:4]
            chosen.write(partial, blueprint, student, example)
            record = ExportRecord(
                version=VERSION,
                format=chosen.__name__.rpartition(".")[2],
                run=name,
                seed=seed,
                refit=again,
                kind=data.kind,
                task=data.task.name,
                outputs=data.task.outputs,
                unit=data.manifest.unit,
                table=table_of(data.manifest),
                compared=len(rows),
                largest_difference=0.0,
                versions=versions(*LIBRARIES),
                files=checksums(partial),
            )
            record.write(partial / EXPORT)
            record = record.model_copy(update={"largest_difference": _difference(partial, contents, expected, format)})
            write_atomically(partial / "README.md", model_card(record, run, params, project, data.manifest))
            (partial / EXPORT).unlink()
            record = record.model_copy(update={"files": checksums(partial)})
            record.write(partial / EXPORT)
            size = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
            _check_output(output)
            replace_folder(partial, output)
    except OSError as error:
        raise explained(error, output) from error
    return Export(output, record, size)


def _check_output(output: Path) -> None:
    """Make sure that a folder may be written.

    Raises:
        UserError: it is a URL, its parent folder does not exist, or it holds something other than an export.
    """
    refuse_url(output)
    if not output.parent.is_dir():
        raise UserError(f"{output}: no folder {output.parent}; make it first")
    if output.is_file() or (output.is_dir() and any(output.iterdir()) and not (output / EXPORT).is_file()):
        raise UserError(f"{output}: holds something other than an export; choose another folder, or remove it")


def _rows(data: Dataset, number: int) -> np.ndarray:
    """Validation and test rows of a split, evenly spaced."""
    split = data.split(number)
    rows = np.concatenate([split.val, split.test])
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), COMPARED)).astype(int))]


def _difference(folder: Path, contents: Sequence[Any], expected: np.ndarray, format: str) -> float:
    """The largest difference between the outputs of an export, loaded in a new process, and the student's.

    Raises:
        UserError: it is more than rounding.
    """
    # Spawned, so it inherits nothing and imports what it needs.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=end_with, initargs=as_parent()) as process:
        try:
            with starting_children():
                outputs = process.submit(outputs_of, folder, contents)
            together, alone = outputs.result()
        except BrokenProcessPool:
            raise UserError(
                f"--format {format}: the process that loads the export to check it was killed, perhaps for its memory; "
                "close other programs, and run it again"
            ) from None
        except KeyboardInterrupt:
            for child in multiprocessing.active_children():
                child.kill()
            raise
    found = max(float(np.abs(a - b).max()) for a, b in ((together, expected), (alone, expected[: len(alone)])))
    if not found <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise UserError(
            f"--format {format}: the exported model differs from the student by {found:.3g} in an output, which is "
            "more than rounding; use --format native"
        )
    return found


def outputs_of(folder: Path, contents: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """The outputs of an exported folder for all rows in one batch, and for the first three, each in its own batch."""
    predict = Predictor(folder, device="cpu", trust=True)
    return predict(contents).outputs, np.concatenate([predict([content]).outputs for content in contents[:3]])
