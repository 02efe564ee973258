"""New rows to predict: texts from tables or lines, images from folders, tar files or files; read as they are needed.

On object storage they are read as `aft prepare` reads sources there.
"""

import glob
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow.parquet as pq
from pyarrow import ArrowException

from pipeline.datasets import NewRows, Row
from pipeline.errors import UserError
from pipeline.files import refuse_url, regular_size
from pipeline.objects import ObjectPath, Place, is_url, place
from pipeline.params import parse
from pipeline.plugins import plugin

STDIN = "-"
"""Stands for texts on standard input, one per line."""

LINE = 1 << 26
"""More than a line of standard input has, in characters: it may never end."""

BLOCK = 1 << 22

TAR = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2")
"""Endings of tar files of images, as of `webdataset`."""

LINES = {".csv": 1, ".tsv": 1, ".jsonl": 0, ".ndjson": 0, ".txt": 0}
"""Formats with one row per line, and the lines of their header."""


def exactly(size: int, blocks: Iterable[NewRows]) -> Iterator[NewRows]:
    """The rows of blocks that have at most `size`, in blocks of just that many; the last has the rest."""
    rest = NewRows([], [], [], [])
    for block in blocks:
        rest = rest + block if rest else block
        if len(rest) >= size:
            yield rest[:size]
            rest = rest[size:]
    if rest:
        yield rest


def lines(stream: Any) -> Iterator[str]:
    """The lines of standard input. Raises `UserError` if one does not end."""
    for number, line in enumerate(iter(lambda: stream.readline(LINE), ""), start=1):
        if len(line) == LINE:
            raise UserError(f"stdin: line {number} has more than {LINE:,} characters; give a text a line")
        yield line


class TextInputs:
    """Texts of tables, and of standard input.

    Args:
        names: names of files, URLs of object storage, also as patterns, or `-`.
        table: settings of `text_table`, such as `text_column`; if `id_column` is None, the row number is the id.
        stdin: the lines that `-` reads.

    Raises:
        UserError: a file does not exist.
    """

    skipped = 0

    def __init__(self, names: Sequence[str], table: Mapping[str, str | None], stdin: Iterable[str]):
        self.table, self.stdin = table, stdin
        self.names = _matching(names)
        for name in self.names:
            if name != STDIN:
                _check_there(name, "file", f", or give {STDIN} for texts on standard input")
            if name == STDIN and table.get("second_column"):
                raise UserError(f"{STDIN}: this student reads pairs; give a table with both columns")

    def count(self) -> int | None:
        """The number of rows, approximately, as cells may hold several lines; None if it is not known in advance."""
        rows = [None if name == STDIN else _rows_of(name) for name in self.names]
        return None if None in rows else sum(filter(None, rows))

    def blocks(self, size: int) -> Iterator[NewRows]:
        """All rows, in blocks of at most `size`. A row's id is a cell of its table, or its number, from 1; if there are
        several inputs, after the name of its own.
        """
        for name in self.names:
            shown = "stdin" if name == STDIN else name
            start = f"{shown}:" if len(self.names) > 1 else ""
            if name == STDIN:
                numbered = ((f"{start}{number}", line.rstrip("\r\n")) for number, line in enumerate(self.stdin, 1))
                yield from _blocks_of(numbered, size)
            else:
                yield from _in_table("text_table", self.table, name, start, size)


class ImageInputs:
    """Images in folders, at any depth, in files, and in tables with a column of images. In folders, other files are
    skipped and counted. Pairs of an image and a text come from tables alone.

    Args:
        names: names of folders and files, or URLs of object storage, also as patterns.
        table: settings of `image_table`; with a `second_column`, rows are pairs. If `id_column` is None, the row number
            is the id.

    Raises:
        UserError: a folder or file does not exist or holds no image, or pairs are asked for and it is no table.
    """

    def __init__(self, names: Sequence[str], table: Mapping[str, str | None] = MappingProxyType({})):
        self.names, self.table, self.skipped = _matching(names), table, 0
        self.is_table = plugin("datasets", "image_table").is_table
        for name in self.names:
            if name == STDIN:
                raise UserError(f"{STDIN}: this student reads images; give folders, files or tables of images")
            _check_there(name, "file or folder")
            if table.get("second_column") and not self.is_table(Path(name)):
                raise UserError(
                    f"{name}: this student reads pairs of an image and a text; give a table with both columns"
                )

    def count(self) -> int | None:
        """The number of images; None if it is not known in advance."""
        found: list[int | None] = []
        for name in self.names:
            if self.is_table(Path(name)) or _is_source(name):
                found.append(None if _is_source(name) else _rows_of(name))
                continue
            found.append(sum(1 for _ in self._of(name)))
            if not found[-1]:
                raise UserError(f"{name}: no images there")
        return None if None in found else sum(filter(None, found))

    def blocks(self, size: int) -> Iterator[NewRows]:
        """All rows, in blocks of at most `size`. The id of an image in a folder is its path there; see `TextInputs`."""
        self.skipped = 0
        for name in self.names:
            if self.is_table(Path(name)):
                yield from _in_table("image_table", self.table, name, f"{name}:" if len(self.names) > 1 else "", size)
            elif _is_source(name):
                yield from self._of_source(name, size)
            else:
                yield from _blocks_of(((self._id(name, path), path) for path in self._of(name)), size)

    def _of_source(self, name: str, size: int) -> Iterator[NewRows]:
        """The images of a tar file, or of a folder or an object of object storage."""
        file, start = _place(name), name.rstrip("/") if len(self.names) > 1 else ""
        rows: Iterator[Row]
        if name.lower().endswith(TAR):
            family, start = plugin("datasets", "webdataset"), f"{start}:" if start else ""
            rows = family.rows(family.Settings(path=name))
        elif file.is_dir():
            family, start = plugin("datasets", "image_folder"), f"{start}/" if start else ""
            rows = family.rows(family.Settings(path=name, labels=False))
        else:
            content, problem = plugin("datasets", "image_folder").read_image(file)
            rows, start = iter([Row(name, content, problem=problem)]), ""
        while block := list(islice(rows, size)):
            found = [row for row in block if not row.skipped]
            self.skipped += len(block) - len(found)
            ids, contents = [start + row.id for row in found], [row.content for row in found]
            yield NewRows(ids, contents, [row.problem or "" for row in found], [row.remarks for row in found])

    def _id(self, name: str, path: Path) -> str:
        return str(path.relative_to(name) if len(self.names) == 1 and path != Path(name) else path)

    def _of(self, name: str) -> Iterator[Path]:
        if not Path(name).is_dir():
            yield Path(name)
            return
        for path, is_image in plugin("datasets", "image_folder").images_below(Path(name)):
            if is_image:
                yield path
            else:
                self.skipped += 1


def _place(name: str) -> Place:
    """A path of this machine, or an object. Raises `UserError` if it is a URL of another kind."""
    if not is_url(name):
        refuse_url(Path(name))
    return place(name)


def _check_there(name: str, kinds: str, instead: str = "") -> None:
    """Make sure that an input exists, and is not something that is read once, or never ends.

    Raises:
        UserError: it does not, or it is a pipe, a socket or a device.
    """
    found = _place(name)
    if not (found.exists() or found.is_dir()):
        raise UserError(f"{name}: no such {kinds}")
    if isinstance(found, Path) and not (found.is_file() or found.is_dir()):
        raise UserError(f"{name}: a pipe, socket or device; copy what it gives to a file{instead}")


def _matching(names: Sequence[str]) -> list[str]:
    """The names, with the objects that patterns match instead of these; those of this machine are the shell's."""
    found: list[str] = []
    for name in names:
        at = _place(name) if is_url(name) else None
        if isinstance(at, ObjectPath) and glob.has_magic(name) and not at.exists():
            if not (fitting := at.matching()):
                raise UserError(f"{name}: no object matches this pattern; check the URL")
            found += map(str, fitting)
        else:
            found.append(name)
    return found


def _is_source(name: str) -> bool:
    """Whether images come from a tar file or from object storage, and not from files of this machine."""
    return is_url(name) or name.lower().endswith(TAR)


def _in_table(family: str, table: Mapping[str, str | None], name: str, start: str, size: int) -> Iterator[NewRows]:
    """The rows of a table, read by a family of datasets; `start` comes before every id."""
    found = plugin("datasets", family)
    for block in found.contents(parse(found.Settings, {**table, "path": name}, "aft predict"), size):
        yield replace(block, ids=[start + id for id in block.ids]) if start else block


def _blocks_of(rows: Iterator[tuple[str, Any]], size: int) -> Iterator[NewRows]:
    """Ids and contents in blocks."""
    while block := list(islice(rows, size)):
        ids, contents = zip(*block, strict=True)
        yield NewRows(list(ids), list(contents), [""] * len(block), [()] * len(block))


def _rows_of(name: str) -> int | None:
    """The number of rows of a table, from its lines if it has any; None if that needs reading all of it."""
    path, suffix = Path(name), Path(name).suffix.lower()
    if is_url(name):
        return None
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
