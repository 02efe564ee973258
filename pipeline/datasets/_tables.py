"""Tables: files of rows with named columns, in several formats, read as records.

`.csv`, `.tsv`, `.jsonl` or `.ndjson` (one object per line), `.json` (a list of objects), `.txt` (one text per line, in
the column `text`), `.parquet`, `.arrow` or `.feather`. All except the last three may be compressed by gz, zst, xz or
bz2, as in `.csv.gz`.
"""

import bz2
import codecs
import glob
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from pydantic import Field

from pipeline import parquet
from pipeline.datasets import _csv
from pipeline.errors import UserError, listed
from pipeline.files import refuse_bomb, regular_size
from pipeline.params import Settings as Section

MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks and their encodings; UTF-16's mark is the beginning of UTF-32's."""

START = 1024
"""The number of bytes at the start of a file that its encoding is found from."""

TEXT = "text"
"""The column of a `.txt` file."""


class TableFiles(Section):
    """Where a table is.

    Attributes:
        path: the file; or several, as a list or a pattern such as `raw/part-*.csv.gz`, read one after another.
        encoding: of text files. None: UTF-8, or that of the byte order mark at the start of a file.
        quotes: what quotes in CSV and TSV mean. `doubled`: they enclose cells, and are doubled inside cells.
            `backslash`: they enclose cells, and have a backslash before them inside cells. `none`: they are part of
            the texts. None: as `doubled`, but ambiguous files are refused.
        delimiter: between the cells of a CSV, such as `;`. None: a comma, or a tab in TSV.
    """

    path: str | list[str]
    encoding: str | None = None
    quotes: _csv.Quotes | None = None
    delimiter: str | None = Field(default=None, min_length=1, max_length=1)


class TableRow(NamedTuple):
    """One row of a table.

    Attributes:
        cells: the cells by column, with the types of the format.
        file: the file that holds it.
        number: the line where it begins, or the number of the row in the file, both from 1.
        in_lines: whether the number is that of a line.
        remarks: remarks on the row for the user.
        encoding: the encoding of the texts; None for formats that are not text.
    """

    cells: Mapping[str, Any]
    file: str
    number: int
    in_lines: bool = False
    remarks: tuple[str, ...] = ()
    encoding: str | None = None

    @property
    def place(self) -> str:
        """How messages name the row."""
        return f"{self.file}: {'line' if self.in_lines else 'row'} {self.number}"


class Wanted(NamedTuple):
    """Columns that are read.

    Attributes:
        columns: all columns to read; a table must have each.
        always: the columns that every JSON record must have; it may leave out the others.
        labels: the columns of labels.
    """

    columns: Sequence[str]
    always: Sequence[str]
    labels: Sequence[str]


def files(path: str | Sequence[str]) -> list[Path]:
    """The files that a setting names, sorted within each pattern.

    Raises:
        UserError: a pattern matches no file, or a file occurs twice.
    """
    found: list[Path] = []
    for name in [path] if isinstance(path, str) else path:
        if Path(name).exists() or not glob.has_magic(name):
            found.append(Path(name))
        elif fitting := sorted(glob.glob(name, recursive=True)):
            found += map(Path, fitting)
        else:
            raise UserError(f"{name}: no file matches this pattern; check dataset.source.path")
    if twice := sorted({str(file) for file in found if found.count(file) > 1}):
        raise UserError(f"{twice[0]}: is in dataset.source.path twice; remove one")
    if not found:
        raise UserError("dataset.source.path: an empty list; name a file")
    return found


def records(settings: TableFiles, wanted: Wanted) -> Iterator[TableRow]:
    """The rows of all files, in order.

    Raises:
        UserError: a file is missing, damaged, or not a table; a column is missing; or a row cannot be read.
    """
    for path in files(settings.path):
        try:
            yield from _file(path, settings, wanted)
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; check dataset.source.path") from None
        except (OSError, EOFError, pa.ArrowException, UnicodeDecodeError, lzma.LZMAError, zlib.error) as error:
            raise _unreadable(path, error) from None


def is_table(path: Path) -> bool:
    """Whether a file's name is that of a table."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    compressed = len(suffixes) == 2 and suffixes[-1] in OPENERS
    return bool(suffixes) and suffixes[-2 if compressed else -1] in (*ARROW, *TEXTS)


def _file(path: Path, settings: TableFiles, wanted: Wanted) -> Iterator[TableRow]:
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    compression = suffixes.pop() if suffixes and suffixes[-1] in OPENERS else None
    form = suffixes[-1] if suffixes else ""
    if form in ARROW and compression:
        raise UserError(f"{path}: {form} is compressed by itself; decompress it first")
    if form not in (*ARROW, *TEXTS):
        formats = [*TEXTS, *ARROW]
        raise UserError(
            f"{path}: not a table; its name must end in {listed(formats)}, of which {listed(list(TEXTS))} may be "
            f"compressed ({listed(list(OPENERS))})"
        )
    regular_size(path)  # a pipe would hang
    if form in ARROW:
        yield from arrow_rows(ARROW[form](path, wanted), str(path), wanted)
        return
    with decompressed(path, compression) if compression else path.open("rb") as file:
        encoding = settings.encoding or _encoding(path, file.peek(START)[:START])
        try:
            text = io.TextIOWrapper(
                file, "utf-8-sig" if _is_utf8(encoding) else encoding, "surrogateescape", newline=_NEWLINES.get(form)
            )
            remarks = (
                () if _is_utf8(encoding) or settings.encoding else (f"read as {encoding}, by its byte order mark",)
            )
            for record in TEXTS[form](path, text, settings, wanted):
                yield record._replace(remarks=(*record.remarks, *remarks), encoding=encoding)
        except LookupError:
            raise UserError(f"{path}: no encoding is called {encoding!r}; write one such as utf-8 or latin-1") from None
        except UnicodeError as error:  # in UTF-8 single rows are refused; other encodings cannot go on after an error
            raise UserError(
                f"{path}: not {encoding} ({getattr(error, 'reason', error)}); set dataset.source.encoding to what it "
                "is in, or save it as utf-8"
            ) from None


@contextmanager
def decompressed(path: Path, compression: str) -> Iterator[io.BufferedReader]:
    """What a file of one of the `OPENERS` becomes. Reading raises `UserError` where that is too much for its bytes."""
    with OPENERS[compression](path) as packed:
        yield io.BufferedReader(_Bounded(path, packed))


class _Bounded(io.RawIOBase):
    """The decompressed bytes of a file, as long as they are not too many for its size."""

    def __init__(self, path: Path, packed: Any):
        self._path, self._packed, self._becomes = path, packed, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        found = self._packed.read(len(buffer))
        buffer[: len(found)] = found
        self._becomes += len(found)
        refuse_bomb(self._path, self._becomes)
        return len(found)


def _encoding(path: Path, start: bytes) -> str:
    """The encoding of a file, from its first bytes."""
    for mark, encoding in MARKS:
        if start.startswith(mark):
            return encoding
    if b"\0" in start:
        guess = "utf-16-le" if start[1:2] == b"\0" else "utf-16-be"
        raise UserError(
            f"{path}: byte {start.index(0) + 1} is zero, as in UTF-16 without a byte order mark; set "
            f"dataset.source.encoding: {guess}, or save it as utf-8"
        )
    return "utf-8"


def _is_utf8(encoding: str) -> bool:
    return codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")


# Files of text


def _delimited(path: Path, text: io.TextIOBase, settings: TableFiles, wanted: Wanted) -> Iterator[TableRow]:
    is_tsv = ".tsv" in (suffix.lower() for suffix in path.suffixes)
    delimiter = settings.delimiter or ("\t" if is_tsv else ",")
    rows = _csv.read(iter(text), str(path), delimiter, settings.quotes, wanted.labels)
    header = next(rows, None)
    if header is None:
        raise UserError(f"{path}: empty; its first line must be the names of the columns")
    check(str(path), wanted.columns, header.cells)
    columns = {name: header.cells.index(name) for name in wanted.columns}
    for number, cells, remarks in rows:
        yield TableRow({name: cells[at] for name, at in columns.items()}, str(path), number, True, remarks)


def _json_lines(path: Path, text: io.TextIOBase, settings: TableFiles, wanted: Wanted) -> Iterator[TableRow]:
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


def _json(path: Path, text: io.TextIOBase, settings: TableFiles, wanted: Wanted) -> Iterator[TableRow]:
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


def _plain(path: Path, text: io.TextIOBase, settings: TableFiles, wanted: Wanted) -> Iterator[TableRow]:
    """One text per line; blank lines are skipped."""
    check(str(path), wanted.columns, [TEXT])
    for number, line in enumerate(text, start=1):
        if line.strip():
            yield TableRow({TEXT: line.rstrip("\r\n")}, str(path), number, True)


Reader = Callable[[Path, io.TextIOBase, TableFiles, Wanted], Iterator[TableRow]]

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

OPENERS: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.GzipFile,
    ".zst": lambda path: pa.input_stream(str(path), compression="zstd"),
    ".xz": lzma.LZMAFile,
    ".bz2": bz2.BZ2File,
}


# Arrow


def _parquet(path: Path, wanted: Wanted) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    file = parquet.opened(path)
    check(str(path), wanted.columns, file.schema_arrow.names)
    return file.schema_arrow, parquet.batches(path, file, wanted.columns)


def _arrow(path: Path, wanted: Wanted) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    schema, batches = arrow(path)
    check(str(path), wanted.columns, schema.names)
    return schema, (batch.select(list(wanted.columns)) for batch in batches)


def arrow(path: Path) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """A file of Arrow: its schema and its rows.

    Raises:
        UserError: it is missing, or no file of Arrow; reading its rows, that it is damaged.
    """
    if regular_size(path) is None:
        raise UserError(f"{path}: no such file")
    batches: Iterable[pa.RecordBatch]
    try:
        source = pa.memory_map(str(path))
        try:
            file = pa.ipc.open_file(source)
            batches = (file.get_batch(number) for number in range(file.num_record_batches))
        except pa.ArrowInvalid:  # a stream, as the package `datasets` writes
            source.seek(0)
            file = batches = pa.ipc.open_stream(source)
        schema = file.schema
        schema.names  # noqa: B018, which decodes them
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from None

    def checked() -> Iterator[pa.RecordBatch]:
        try:
            for batch in batches:
                for column in batch.columns:
                    _validate(column)
                yield batch
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(path, error) from None

    return schema, checked()


def _validate(column: pa.Array) -> None:
    """Check that a column stays inside of its bytes: Arrow believes what a file says, and would read other memory.

    Raises:
        pa.ArrowInvalid: it does not. Texts may hold bytes that are not UTF-8; their rows are told later.
    """
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        as_bytes = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary(), pa.string_view(): pa.binary_view()}
        if column.type not in as_bytes:
            raise
        column.view(as_bytes[column.type]).validate(full=True)


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: cannot be read: {' '.join(str(error).split())}")


ARROW = {".parquet": _parquet, ".arrow": _arrow, ".feather": _arrow}


def arrow_rows(table: tuple[pa.Schema, Iterable[pa.RecordBatch]], file: str, wanted: Wanted) -> Iterator[TableRow]:
    """The rows of Arrow batches; class numbers become names if `datasets` has put the names into the schema.

    Raises:
        UserError: a cell has a type that Python does not have.
    """
    schema, batches = table
    classes = _class_names(schema)
    number = 0
    for batch in batches:
        columns = {}
        for name in wanted.columns:
            cells = _cells(batch.column(name))
            columns[name] = [_named(cell, classes[name]) for cell in cells] if name in classes else cells
        for values in zip(*columns.values(), strict=True):
            number += 1
            yield TableRow(dict(zip(columns, values, strict=True)), file, number)


def _cells(column: pa.Array) -> list[Any]:
    """A column as Python objects; bytes of text that are not UTF-8 become lone surrogates, as in text files."""
    return parquet.cells(column, _plain_cells)


def _plain_cells(column: pa.Array) -> list[Any]:
    try:
        found: list[Any] = column.to_pylist()
        return found
    except UnicodeDecodeError:
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            raise UserError(f"a column of type {column.type} holds bytes that are not text in UTF-8") from None
        raw = column.cast(pa.large_binary()).to_pylist()
        return [None if cell is None else cell.decode(errors="surrogateescape") for cell in raw]


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """The names of classes by column, as the package `datasets` writes them into a schema."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        named = {name: found["names"] for name, found in features.items() if found.get("_type") == "ClassLabel"}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return {}
    return {name: list(map(str, found)) for name, found in named.items() if isinstance(found, list)}


def _named(cell: Any, names: list[str]) -> Any:
    return names[cell] if isinstance(cell, int) and 0 <= cell < len(names) else cell


def check(path: str, columns: Iterable[str], there: list[str]) -> None:
    """Make sure that a table has the columns, once each. Raises `UserError` if not."""
    for name in columns:
        if name not in there:
            raise UserError(f"{path}: no column {name!r}; there are {listed([repr(other) for other in there])}")
        if there.count(name) > 1:
            raise UserError(f"{path}: {there.count(name)} columns are called {name!r}; rename all but one")
