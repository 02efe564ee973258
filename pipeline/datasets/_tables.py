"""Tables: files of rows with named columns, in several formats, read as records.

`.csv`, `.tsv`, `.jsonl` or `.ndjson` (one object per line), `.json` (a list of objects), `.txt` (one text per line, in
the column `text`), `.parquet`, `.arrow` or `.feather`. All except the last three may be compressed by gz, zst, xz or
bz2, as in `.csv.gz`.
"""

import bz2
import glob
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import Field

from pipeline.datasets import Passed, _csv
from pipeline.datasets._arrow import ARROW, arrow_blocks, unreadable
from pipeline.datasets._encodings import START, Decoding, encoding_of, is_utf8, remarks_of
from pipeline.datasets._rows import TableBlock, TableRow, Wanted, behind, blocks_of, check
from pipeline.errors import UserError, listed
from pipeline.files import refuse_bomb
from pipeline.objects import ObjectPath, Place, place, size_of
from pipeline.params import Settings as Section

BLOCK = 1 << 7
"""Rows that are read together if a caller takes them one by one."""

TEXT = "text"
"""The column of a `.txt` file."""


class TableFiles(Section):
    """Where a table is.

    Attributes:
        path: the file; or several, as a list or a pattern such as `raw/part-*.csv.gz`, read one after another. Also on
            object storage, as s3://bucket/part-*.parquet.
        encoding: of text files, such as `cp1252`. None: UTF-8, or that of the byte order mark at the start of a file.
        quotes: what quotes in CSV and TSV mean. `doubled`: they enclose cells, and are doubled inside cells.
            `backslash`: they enclose cells, and have a backslash before them inside cells. `none`: they are part of
            the texts. None: as `doubled`, but ambiguous files are refused.
        delimiter: between the cells of a CSV, such as `;`. None: a comma, or a tab in TSV.
    """

    path: str | list[str]
    encoding: str | None = None
    quotes: _csv.Quotes | None = None
    delimiter: str | None = Field(default=None, min_length=1, max_length=1)


def files(path: str | Sequence[str]) -> list[Place]:
    """The files that a setting names, sorted within each pattern.

    Raises:
        UserError: a pattern matches no file, or a file occurs twice; or it is a URL of another kind.
    """
    found: list[Place] = []
    for name in [path] if isinstance(path, str) else path:
        file = place(name)
        if not glob.has_magic(name) or file.exists():
            if "{" in name and not file.exists():
                raise UserError(f"{name}: no such file; braces are not expanded: write a pattern with *, or a list")
            found.append(file)
        elif fitting := _matching(file):
            found += fitting
        else:
            raise UserError(f"{name}: no file matches this pattern; check dataset.source.path")
    if twice := sorted({str(file) for file in found if found.count(file) > 1}):
        raise UserError(f"{twice[0]}: is in dataset.source.path twice; remove one")
    if not found:
        raise UserError("dataset.source.path: an empty list; name a file")
    return found


def _matching(pattern: Place) -> Sequence[Place]:
    if isinstance(pattern, ObjectPath):
        return pattern.matching()
    return list(map(Path, sorted(glob.glob(str(pattern), recursive=True))))


def records(settings: TableFiles, wanted: Wanted, passed: Passed | None = None) -> Iterator[TableRow]:
    """The rows of all files, in order, but for those that have passed.

    What comes before the first row of a file of text is read again, because it decides what the rest means: by quotes
    in CSV, by keys in JSON. That takes a small part of the time of looking at it, and holds for compressed files too.

    Raises:
        UserError: a file is missing, damaged, or not a table; a column is missing; or a row cannot be read.
    """
    for block in blocks(settings, wanted, BLOCK, passed):
        yield from block.rows()


def blocks(settings: TableFiles, wanted: Wanted, size: int, passed: Passed | None = None) -> Iterator[TableBlock]:
    """The rows of all files in blocks of at most `size`; see `records`."""
    for path in files(settings.path):
        first = passed.first_row(path) if passed else 0
        if first is not None:
            with _reading(path):
                yield from _file(path, settings, wanted, size, first)


@contextmanager
def _reading(path: Place) -> Iterator[None]:
    """What stops reading a file becomes a `UserError`."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check dataset.source.path") from None
    except (OSError, EOFError, pa.ArrowException, UnicodeDecodeError, lzma.LZMAError, zlib.error) as error:
        raise unreadable(path, error) from None


def is_table(path: Place) -> bool:
    """Whether a file's name is that of a table."""
    return _form(path)[0] in (*ARROW, *TEXTS)


def _form(path: Place) -> tuple[str, str | None]:
    """The format and the compression of a file, by the end of its name."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    compression = suffixes.pop() if suffixes and suffixes[-1] in OPENERS else None
    return suffixes[-1] if suffixes else "", compression


def _file(path: Place, settings: TableFiles, wanted: Wanted, size: int, first: int) -> Iterator[TableBlock]:
    """The rows of a file from one on, counted from 0."""
    form, compression = _form(path)
    if form in ARROW and compression:
        raise UserError(f"{path}: {form} is compressed by itself; decompress it first")
    if form not in (*ARROW, *TEXTS):
        formats = [*TEXTS, *ARROW]
        raise UserError(
            f"{path}: not a table; its name must end in {listed(formats)}, of which {listed(list(TEXTS))} may be "
            f"compressed ({listed(list(OPENERS))})"
        )
    size_of(path)  # a pipe would hang
    if form in ARROW:
        table, number = ARROW[form](path, wanted, first)
        yield from arrow_blocks(table, str(path), wanted, size, number, first)
        return
    with _opened(path, compression) as file:
        encoding = settings.encoding or encoding_of(path, file.peek(START)[:START])
        try:
            text = io.TextIOWrapper(
                file, "utf-8-sig" if is_utf8(encoding) else encoding, "surrogateescape", newline=_NEWLINES.get(form)
            )
            decoding = Decoding(encoding, partial(_opened, path, compression))
            remarks = remarks_of(encoding, settings.encoding is not None)
            for block in behind(TEXTS[form](path, text, settings, wanted, size), first):
                remarked = block.remarked or not is_utf8(encoding)
                yield TableBlock(block.cells, partial(_decoded, block, decoding, remarks), remarked)
        except LookupError:
            raise UserError(f"{path}: no encoding is called {encoding!r}; write one such as utf-8 or latin-1") from None
        except UnicodeError as error:  # in UTF-8 single rows are refused; other encodings cannot go on after an error
            raise UserError(
                f"{path}: not {encoding} ({getattr(error, 'reason', error)}); set `encoding` to what it "
                "is in, or save it as utf-8"
            ) from None


def _decoded(
    block: TableBlock, decoding: Decoding, remarks: Callable[[Mapping[str, Any]], Iterator[str]]
) -> Iterator[TableRow]:
    """The rows of a file of text."""
    for row in block.rows():
        found = (*row.remarks, *remarks(row.cells))
        yield TableRow(row.cells, row.file, row.number, row.in_lines, found, decoding)


def _opened(path: Place, compression: str | None) -> AbstractContextManager[io.BufferedReader]:
    return decompressed(path, compression) if compression else path.open("rb")


@contextmanager
def decompressed(path: Place, compression: str) -> Iterator[io.BufferedReader]:
    """What a file of one of the `OPENERS` becomes. Reading raises `UserError` where that is too much for its bytes."""
    with path.open("rb") as file, OPENERS[compression](file) as packed:
        yield io.BufferedReader(_Bounded(path, packed))


class _Bounded(io.RawIOBase):
    """The decompressed bytes of a file, as long as they are not too many for its size."""

    def __init__(self, path: Place, packed: Any):
        self._path, self._packed, self._becomes = path, packed, 0
        self._size = size_of(path)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        found = self._packed.read(len(buffer))
        buffer[: len(found)] = found
        self._becomes += len(found)
        refuse_bomb(self._path, self._becomes, self._size)
        return len(found)


def _delimited(
    path: Place, text: io.TextIOBase, settings: TableFiles, wanted: Wanted, size: int
) -> Iterator[TableBlock]:
    is_tsv = ".tsv" in (suffix.lower() for suffix in path.suffixes)
    delimiter = settings.delimiter or ("\t" if is_tsv else ",")
    yield from _csv.read(iter(text), str(path), delimiter, settings.quotes, wanted, size)


Reader = Callable[[Place, io.TextIOBase, TableFiles, Wanted, int], Iterator[TableBlock]]


def _in_blocks(rows: Callable[[Place, io.TextIOBase, Wanted], Iterator[TableRow]]) -> Reader:
    """A reader that reads row by row."""

    def read(path: Place, text: io.TextIOBase, settings: TableFiles, wanted: Wanted, size: int) -> Iterator[TableBlock]:
        return blocks_of(rows(path, text, wanted), wanted.columns, size)

    return read


@_in_blocks
def _json_lines(path: Place, text: io.TextIOBase, wanted: Wanted) -> Iterator[TableRow]:
    """One object per line. A record may leave out columns, except those in `wanted.always`."""
    names: dict[str, None] = {}
    for number, line in enumerate(text, start=1):
        if not line.strip():
            continue
        record = _parsed(line, f"{path}: line {number}")
        if not isinstance(record, dict):
            raise UserError(f"{path}: line {number} is not a JSON object")
        if not names:
            check(str(path), wanted.always, list(record))
        names.update(dict.fromkeys(record))
        yield TableRow(record, str(path), number, True)
    check(str(path), wanted.columns, list(names))


@_in_blocks
def _json(path: Place, text: io.TextIOBase, wanted: Wanted) -> Iterator[TableRow]:
    """A list of objects, read at once."""
    found = _parsed(text.read(), str(path))
    if not isinstance(found, list) or not all(isinstance(record, dict) for record in found):
        raise UserError(
            f"{path}: not a list of objects, such as [{{...}}, {{...}}]; for one object per line call it .jsonl"
        )
    check(str(path), wanted.columns, list(dict.fromkeys(name for record in found for name in record)))
    yield from (TableRow(record, str(path), number) for number, record in enumerate(found, start=1))


def _parsed(text: str, place: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise UserError(f"{place} has lists or objects nested too deep; flatten them, or leave the key out") from None
    except ValueError as error:
        if "integer string conversion" in str(error):  # Python's limit, with advice for programmers
            raise UserError(f"{place} has a number of thousands of digits; write it as a text") from None
        raise UserError(f"{place} is not valid JSON: {error}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} occurs twice in one object")
    return found


@_in_blocks
def _plain(path: Place, text: io.TextIOBase, wanted: Wanted) -> Iterator[TableRow]:
    """One text per line; blank lines are skipped."""
    check(str(path), wanted.columns, [TEXT])
    for number, line in enumerate(text, start=1):
        if line.strip():
            yield TableRow({TEXT: line.rstrip("\r\n")}, str(path), number, True)


TEXTS: dict[str, Reader] = {
    ".csv": _delimited,
    ".tsv": _delimited,
    ".json": _json,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".txt": _plain,
}
"""Formats of text, which may be compressed."""

_NEWLINES = {".csv": "", ".tsv": ""}
"""Line breaks inside cells stay as they are."""

OPENERS: dict[str, Callable[[io.BufferedReader], Any]] = {
    ".gz": lambda file: gzip.GzipFile(fileobj=file),
    ".zst": lambda file: pa.CompressedInputStream(file, "zstd"),
    ".xz": lzma.LZMAFile,
    ".bz2": bz2.BZ2File,
}
