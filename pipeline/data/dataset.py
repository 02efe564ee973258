"""A prepared dataset on disk: written by `pipeline.data.preparation`, and the only data that later stages read.

A folder with three files and a list of what was left out:

- `content.arrow`: id, content and content digest of every row, in an Arrow file that is memory-mapped; of pairs
  both contents. With `dataset.content: reference` it has the place of each content instead. Its bytes depend on ids and
  content only, so a stage that depends on this file does not run again when labels or splits change.
- `rows.parquet`: per row its id, its label as the task encodes it, its group, and its role in each split.
- `manifest.json`: kind, task, counts, settings, and the content digest that identifies feature stores. It is written
  last: without it the folder is unfinished.
- `quarantine.csv`: the rows of the source that were left out, and why.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64, UInt8
from numpy.typing import DTypeLike
from PIL import Image

from pipeline import images
from pipeline.datasets import SIDES, Kind, Location, RowContent, parts_of
from pipeline.errors import UserError, count, system_error
from pipeline.files import file_exists
from pipeline.ids import Ids
from pipeline.records import ManifestRecord
from pipeline.tasks import ClassWeights, Task, build
from pipeline.verified import VerifiedFiles

FORMAT = 3
CONTENT, ROWS, MANIFEST, QUARANTINE = "content.arrow", "rows.parquet", "manifest.json", "quarantine.csv"


CONTENTS = ["content", "second"]
"""The columns of contents; the second one only for pairs."""


LOCATION = {"file": pa.string(), "offset": pa.int64(), "size": pa.int64()}
"""The columns instead of contents in a dataset that refers to them; see `pipeline.datasets.Location`."""


class Role(IntEnum):
    """The use of a row in one split."""

    LABELLED = 0
    """Training row whose label may be used."""
    UNLABELLED = 1
    """Training row that has no label, or whose label is hidden."""
    VAL = 2
    TEST = 3


@dataclass(frozen=True)
class Split:
    """The rows of each role in one split: sorted, disjoint, and together all rows."""

    labelled: Int64[np.ndarray, " a"]
    unlabelled: Int64[np.ndarray, " b"]
    val: Int64[np.ndarray, " c"]
    test: Int64[np.ndarray, " d"]

    @property
    def train(self) -> Int64[np.ndarray, " e"]:
        """All training rows, with or without a visible label, sorted."""
        return np.sort(np.concatenate([self.labelled, self.unlabelled]))


class Dataset:
    """A prepared dataset, opened for reading. Rows are numbers from 0, in the order of the source.

    Its files are compared with their checksums when they are opened for the first time; after that, also in other
    processes, opening takes milliseconds for any size. No content is kept in memory. It may be used after a fork, in
    threads, and pickled: a copy opens the same folder again.

    Attributes:
        path: the folder.
        manifest: the record that `pipeline.data.preparation` wrote.
        kind: "text" or "image".
        task: what a label is, and the names of a model's outputs.
        digest: of the ids and the content of all rows; labels and roles are not part of it. Of a side of pairs, that of
            the pairs.
        side: `first` or `second`, if this is one side of a dataset of pairs; else empty.
        splits: the number of independent splits.
    """

    def __init__(
        self,
        path: Path,
        manifest: ManifestRecord,
        rows: pa.Table,
        side: str = "",
        roles: Sequence[UInt8[np.ndarray, " n"]] = (),
    ):
        self.path = path
        self.manifest = manifest
        self.side = side
        parts = parts_of(manifest.kind)
        self.kind: Kind = parts[SIDES.index(side)] if side else manifest.kind  # type: ignore[assignment]
        self._columns = [CONTENTS[SIDES.index(side)]] if side else CONTENTS[: len(parts)]
        self.task: Task = build(manifest.task, manifest.outputs, manifest.unit)
        self.digest: str = manifest.digest
        self.splits: int = manifest.splits
        self._rows = rows
        self._roles = tuple(roles)
        self._refers = "file" in rows.column_names

    @classmethod
    def open(cls, path: str | Path) -> "Dataset":
        """Open the folder `path`.

        Raises:
            UserError: it does not exist, is unfinished or damaged, or was written by another version of aft.
        """
        path = Path(path)
        if not file_exists(path / MANIFEST):
            raise UserError(f"{path}: no prepared dataset there; run `aft prepare` first")
        manifest = ManifestRecord.read(path / MANIFEST)
        if manifest.format != FORMAT:
            raise UserError(f"{path}: has format {manifest.format} instead of {FORMAT}; run `aft prepare`")
        try:
            VerifiedFiles(path, manifest.files, "run `aft prepare` again").finish()
            rows = pa.ipc.open_file(pa.memory_map(str(path / CONTENT))).read_all()
            if len(rows) != manifest.rows:
                raise ValueError(f"{CONTENT} has {count(len(rows), 'row')} instead of {manifest.rows:,}")
            return cls(path, manifest, rows)
        except PermissionError as error:
            raise system_error(error, path / CONTENT) from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
            what = " ".join(str(error).split())
            raise UserError(f"{path}: the prepared dataset is damaged ({what}); run `aft prepare` again") from None

    def __len__(self) -> int:
        return self._rows.num_rows

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened, (self.path, self.side, self._roles)

    def of(self, side: str) -> "Dataset":
        """The same rows, of whose contents only one side is seen; all of it if `side` is empty."""
        return Dataset(self.path, self.manifest, self._rows, side, self._roles) if side else self

    def with_roles(self, roles: Sequence[UInt8[np.ndarray, " n"]]) -> "Dataset":
        """The same rows, with other roles in every split; see `pipeline.data.labels`."""
        return Dataset(self.path, self.manifest, self._rows, self.side, roles)

    def seen_by(self, kind: str, side: str | None, where: str) -> "Dataset":
        """What a reader of one kind of rows sees of this dataset: all of it, or a side of its pairs.

        Args:
            kind: of rows that it reads, or "id".
            side: what its settings say, None if nothing; needed where both sides are of its kind.
            where: of these settings, for messages.

        Raises:
            UserError: nothing is of that kind, or the settings do not fit.
        """
        parts = parts_of(self.kind)
        if len(parts) == 1 or kind == "id":
            if side is not None:
                raise UserError(f"{where}.reads: {side}: the dataset holds {self.kind} rows, not pairs; remove it")
            return self
        fitting = [name for name, part in zip(SIDES, parts, strict=True) if part == kind]
        if side is None and len(fitting) == 2:
            raise UserError(f"{where}: both sides of a pair are {kind}; write `reads: first` or `reads: second`")
        if not fitting or side not in (None, *fitting):
            raise UserError(f"{where}: it reads {kind} rows, and the dataset holds {self.kind}; choose another")
        return self.of(side or fitting[0])

    @cached_property
    def ids(self) -> Ids:
        """The ids of all rows, read from the file as they are needed."""
        return Ids.of_arrow(self._rows["id"])

    @cached_property
    def row_digests(self) -> UInt8[np.ndarray, "n 16"]:
        """The digest of each row's content, `content_digest`; of a side of pairs, that of the side's."""
        if self.side:
            digests = np.empty((len(self), 16), np.uint8)
            for row, part in enumerate(self._rows[self._columns[0]]):
                digests[row] = np.frombuffer(content_digest(part.as_py()), np.uint8)
            return digests
        return _values(self._rows["digest"], np.dtype((np.uint8, 16)))

    @cached_property
    def labels(self) -> np.ndarray:
        """The label of every row [n, ...]; the task's `missing` if the source has none.

        Training code must use `visible_labels`.

        Raises:
            UserError: they are damaged, or of more classes than the record names.
        """
        labels = self._column("label", (self.task.dtype, tuple(self.manifest.label_shape)))
        numbered = labels.ndim == 1 and labels.dtype.kind == "i"
        classes = int(labels.max(initial=-1)) + 1 if numbered else int(np.prod(labels.shape[1:]))
        if classes > len(self.task.outputs):
            record = f"{self.path / MANIFEST}: names {count(len(self.task.outputs), 'output')}"
            raise UserError(f"{record}, and {ROWS} has labels of {classes:,}; run `aft prepare` again")
        return labels

    def split(self, number: int) -> Split:
        """The rows of each role in a split, 0 <= number < splits. A run with seed k uses split k mod splits."""
        if not 0 <= number < self.splits:
            raise UserError(f"{self.path}: no split {number}; dataset.splits made {self.splits}, from 0")
        roles = self.roles(number)
        return Split(*(np.flatnonzero(roles == role) for role in Role))

    def roles(self, number: int) -> UInt8[np.ndarray, " n"]:
        """The `Role` of every row in a split."""
        return self._roles[number] if self._roles else self._column(role_column(number), np.uint8)

    def visible_labels(self, number: int) -> np.ndarray:
        """The labels of a split's labelled training rows, `missing` for all others."""
        visible = np.full_like(self.labels, self.task.missing)
        labelled = self.split(number).labelled
        visible[labelled] = self.labels[labelled]
        return visible

    def split_task(self, number: int, weights: ClassWeights | None = None) -> Task:
        """The task, with outputs and losses scaled by the labelled training rows of a split."""
        return self.task.fitted(self.labels[self.split(number).labelled], weights)

    def split_digest(self, number: int) -> str:
        """A digest of what training sees of a split: rows, roles and visible labels, 32 hex digits.

        A model that was fitted on one split must not be used with another, whose test rows it may have seen.
        """
        hasher = blake2b(self.digest.encode(), digest_size=16)
        hasher.update(self.roles(number).tobytes())
        hasher.update(self.visible_labels(number).tobytes())
        return hasher.hexdigest()

    def content(self, rows: Sequence[int] | np.ndarray) -> list[Any]:
        """The texts, the encoded bytes of the images, or the pairs, of `rows` in the given order.

        Raises:
            UserError: the dataset refers to a content that is not there any more, or has changed.
        """
        if self._refers:
            return [self._referred(int(row)) for row in rows]
        parts = [[column[int(row)].as_py() for row in rows] for column in map(self._rows.column, self._columns)]
        return parts[0] if len(parts) == 1 else list(zip(*parts, strict=True))

    def image(self, row: int) -> Image.Image:
        """A row as an image at its own size, of mode L or RGB; see `pipeline.images`."""
        row = int(row)
        return images.decode(self._referred(row) if self._refers else self._rows[self._columns[0]][row].as_py())

    def _referred(self, row: int) -> bytes:
        """A content that lies elsewhere, compared with its digest."""
        place = Location(*(self._rows[column][row].as_py() for column in LOCATION))
        content = place.read(self.path.parent)
        if content_digest(content) != self.row_digests[row].tobytes():
            raise UserError(f"{place.file}: row {self.ids[row]} has changed since it was prepared; run `aft prepare`")
        return content

    def verify(self) -> None:
        """Read all content and compare it with its digests.

        Raises:
            UserError: bytes have changed since they were written; the message names the first row.
        """
        for row, digest in enumerate(self.row_digests):
            if content_digest(self.content([row])[0]) != digest.tobytes():
                raise UserError(f"{self.path}: the content of row {self.ids[row]} has changed; run `aft prepare` again")

    def _column(self, name: str, dtype: DTypeLike) -> np.ndarray:
        try:
            with pq.ParquetFile(self.path / ROWS) as file:  # read_table would do, but imports pandas
                column = file.read(columns=[name])[name]
        except PermissionError as error:
            raise system_error(error, self.path / ROWS) from None
        except (OSError, KeyError, pa.ArrowException) as error:
            what = " ".join(str(error).split())
            raise UserError(f"{self.path / ROWS}: damaged ({what}); run `aft prepare` again") from None
        if len(column) != len(self):
            found = count(len(column), "row")
            raise UserError(f"{self.path / ROWS}: has {found}, not {len(self):,}; run `aft prepare` again")
        return _values(column, dtype)


def _values(column: pa.ChunkedArray, dtype: DTypeLike) -> np.ndarray:
    """A column of fixed width without nulls, from its bytes; Arrow's to_numpy would do the same, but imports pandas."""
    chunks = [np.frombuffer(chunk.buffers()[1], dtype)[chunk.offset :][: len(chunk)] for chunk in column.chunks]
    return np.concatenate(chunks)


def role_column(split: int) -> str:
    """The column of `rows.parquet` with the roles of one split."""
    return f"split_{split}"


def _opened(path: Path, side: str, roles: Sequence[np.ndarray]) -> Dataset:
    found = Dataset.open(path)
    return (found.with_roles(roles) if roles else found).of(side)


def content_digest(content: RowContent) -> bytes:
    """A digest of a row's content, 16 bytes; of a pair, that of the digests of both sides."""
    if isinstance(content, tuple):
        content = b"".join(map(content_digest, content))
    return blake2b(content.encode() if isinstance(content, str) else content, digest_size=16).digest()
