"""New rows to predict: texts from tables or lines, images from folders or files; read as they are needed."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
from pyarrow import ArrowException

from pipeline.errors import UserError
from pipeline.files import regular_size
from pipeline.params import parse
from pipeline.plugins import plugin

STDIN = "-"
"""Stands for texts on standard input, one per line."""

LINE = 1 << 26
"""More than a line of standard input has, in characters: it may never end."""

BLOCK = 1 << 22

LINES = {".csv": 1, ".tsv": 1, ".jsonl": 0, ".ndjson": 0, ".txt": 0}
"""Formats with one row per line, and the lines of their header."""


class NewInput(NamedTuple):
    """One row to predict.

    Attributes:
        id: in a table, a cell or the number of the row, from 1; for an image, its path in the folder. If there are
            several inputs, the name of the row's own input comes first.
        content: a text, the path of an image, or a pair of texts.
        problem: why it cannot be read; empty if no problem is known.
    """

    id: str
    content: str | Path | tuple[str, str]
    problem: str = ""


def lines(stream: Any) -> Iterator[str]:
    """The lines of standard input. Raises `UserError` if one does not end."""
    for number, line in enumerate(iter(lambda: stream.readline(LINE), ""), start=1):
        if len(line) == LINE:
            raise UserError(f"stdin: line {number} has more than {LINE:,} characters; give a text a line")
        yield line


class TextInputs:
    """Texts of tables, and of standard input.

    Args:
        names: names of files, or `-`.
        table: settings of `text_table`, such as `text_column`; if `id_column` is None, the row number is the id.
        stdin: the lines that `-` reads.

    Raises:
        UserError: a file does not exist.
    """

    skipped = 0

    def __init__(self, names: Sequence[str], table: Mapping[str, str | None], stdin: Iterable[str]):
        self.names, self.table, self.stdin = names, table, stdin
        for name in names:
            if name != STDIN and not Path(name).exists():
                raise UserError(f"{name}: no such file")
            if name == STDIN and table.get("second_column"):
                raise UserError(f"{STDIN}: this student reads pairs; give a table with both columns")

    def count(self) -> int | None:
        """The number of rows, approximately, as cells may hold several lines; None if it is not known in advance."""
        rows = [None if name == STDIN else _rows_of(name) for name in self.names]
        return None if None in rows else sum(filter(None, rows))

    def __iter__(self) -> Iterator[NewInput]:
        for name in self.names:
            shown = "stdin" if name == STDIN else name
            start = f"{shown}:" if len(self.names) > 1 else ""
            if name == STDIN:
                for number, line in enumerate(self.stdin, start=1):
                    yield NewInput(f"{start}{number}", line.rstrip("\r\n"))
                continue
            family = plugin("datasets", "text_table")
            for id, text, problem in family.texts(parse(family.Settings, {**self.table, "path": name}, "aft predict")):
                yield NewInput(start + id, text, problem)


class ImageInputs:
    """Images in folders, at any depth, and files. Other files in folders are skipped and counted.

    Raises:
        UserError: a folder or file does not exist, or a folder holds no image.
    """

    def __init__(self, names: Sequence[str]):
        self.names, self.skipped = names, 0
        for name in names:
            if name == STDIN:
                raise UserError(f"{STDIN}: this student reads images; give folders or files of images")
            if not Path(name).exists():
                raise UserError(f"{name}: no such file or folder")

    def count(self) -> int:
        """The number of images."""
        found = 0
        for name in self.names:
            images = sum(1 for _ in self._of(name))
            if not images:
                raise UserError(f"{name}: no images there")
            found += images
        return found

    def __iter__(self) -> Iterator[NewInput]:
        self.skipped = 0
        for name in self.names:
            for path in self._of(name):
                inside = path.relative_to(name) if len(self.names) == 1 and path != Path(name) else path
                yield NewInput(str(inside), path)

    def _of(self, name: str) -> Iterator[Path]:
        if not Path(name).is_dir():
            yield Path(name)
            return
        for path, is_image in plugin("datasets", "image_folder").images_below(Path(name)):
            if is_image:
                yield path
            else:
                self.skipped += 1


def _rows_of(name: str) -> int | None:
    """The number of rows of a table, from its lines if it has any; None if that needs reading all of it."""
    path, suffix = Path(name), Path(name).suffix.lower()
    if path.is_dir():
        raise UserError(f"{path}: is a folder, and this student reads texts; give a table, or - for standard input")
    regular_size(path)  # a pipe would hang
    if suffix == ".parquet":
        try:
            return int(pq.read_metadata(path).num_rows)
        except (OSError, ArrowException):
            return None  # reading the file gives the error
    if suffix not in LINES:
        return None
    with path.open("rb") as file:
        lines = sum(block.count(b"\n") for block in iter(lambda: file.read(BLOCK), b""))
    return max(lines - LINES[suffix], 0)
