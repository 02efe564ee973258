"""A table with a column of text: CSV, TSV, Parquet or JSON Lines, by the file's name.

Ids and labels are read as the text they are: "007" stays "007". Without an `id_column`, a row's id is the digest of its
text (with -2, -3 ... for repeats), and not its number: rows may then be added, removed or sorted, and what was computed
for the others is found again. That costs about 100 bytes of memory a row while the table is read; an `id_column`
costs nothing.
"""

import codecs
import csv
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import Field

from pipeline import parquet
from pipeline.datasets import Row
from pipeline.errors import UserError, count, listed
from pipeline.files import regular_size
from pipeline.params import Settings as Section
from pipeline.tasks import Label

KIND = "text"

MARKS = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}
"""Cells of label columns, in lower case: whether the row has the label."""

LONGEST_CELL = 1 << 30
"""Characters of a CSV cell; Python's own limit is 131,072."""


class Settings(Section):
    """Keys of a table of text.

    Attributes:
        path: the file; its name ends in .csv, .tsv, .parquet, .jsonl or .ndjson.
        text_column: the column of the texts.
        label_column: the column of the labels; an empty cell is no label. None: no row has one. A cell may hold a list
            of labels, in Parquet and JSON Lines; several columns of 0 and 1 are a label each, by the column's name.
        label_separator: what separates the labels of a cell, such as `;`, where rows may have several.
        id_column: a column that names each row for good. None: a row's id is the digest of its text.
        split_column: a column with train, val or test, where the source fixes the splits.
        group_column: a column of groups; rows of one group are never in different splits.
        encoding: of CSV and TSV files.
    """

    path: str
    text_column: str = "text"
    label_column: str | list[str] | None = None
    label_separator: str | None = Field(default=None, min_length=1)
    id_column: str | None = None
    split_column: str | None = None
    group_column: str | None = None
    encoding: str = "utf-8"


Record = tuple[int | None, dict[str, Any]]
"""A row's line in the file, for files of lines; and its cells by column."""


def rows(settings: Settings) -> Iterator[Row]:
    """The rows of the table, in its order."""
    seen: Counter[str] = Counter()
    several = settings.label_column if isinstance(settings.label_column, list) else []
    if isinstance(settings.label_column, list) and (len(several) < 2 or settings.label_separator):
        raise UserError(
            f"{settings.path}: dataset.source.label_column: a list is of two columns or more, of 0 and 1, and has no "
            "label_separator; for one column write its name"
        )
    label_columns = several or ([settings.label_column] if isinstance(settings.label_column, str) else [])
    optional = (*label_columns, settings.id_column, settings.split_column, settings.group_column)
    wanted = list(dict.fromkeys([settings.text_column, *(name for name in optional if name)]))
    unused = set(several)
    for number, (line, record) in enumerate(_records(settings, wanted), start=1):
        place = f"{settings.path}: line {line}" if line else f"{settings.path}: row {number}"
        cell = {name: _text(record.get(name), place, name) for name in wanted if name not in label_columns}
        text = cell[settings.text_column] or ""
        if settings.id_column is None:
            id = blake2b(text.encode(errors="surrogatepass"), digest_size=8).hexdigest()
            seen[id] += 1
            id = id if seen[id] == 1 else f"{id}-{seen[id]}"
        else:
            id = cell[settings.id_column] or ""
            if not id:
                raise UserError(f"{place} has nothing in column {settings.id_column!r}; every row needs an id")
        split, group = (cell[name] or None if name else None for name in (settings.split_column, settings.group_column))
        label: Label | None = None
        if several:
            label = _marked(record, several, place)
            unused -= set(label or ())
        elif isinstance(settings.label_column, str):
            label = _label(record.get(settings.label_column), place, settings.label_column, settings.label_separator)
        yield Row(id, text, label, split, group, line)
    if unused:
        raise UserError(
            f"{settings.path}: column {min(unused)!r} of dataset.source.label_column has no 1 in any row; remove it"
        )


def _label(value: Any, place: str, column: str, separator: str | None) -> Label | None:
    """The label of a cell, or those of a list or between separators.

    Raises:
        UserError: one of several labels is empty or no text or number.
    """
    if isinstance(value, list):
        names = [_text(name, place, column) for name in value]
    elif (text := _text(value, place, column)) is None or not text.strip():
        return None
    elif separator is None:
        return text
    else:
        names = [*text.split(separator)]
    stripped = [(name or "").strip() for name in names]
    if "" in stripped:
        raise UserError(f"{place}: column {column!r} has an empty label in {value!r}; remove it")
    return tuple(stripped)


def _marked(record: dict[str, Any], columns: list[str], place: str) -> Label | None:
    """The names of the columns that hold a 1; None where all are empty.

    Raises:
        UserError: a cell holds anything but 0 and 1, or some cells are empty and others are not.
    """
    cells = {name: (_text(record.get(name), place, name) or "").strip().lower() for name in columns}
    if not any(cells.values()):
        return None
    for name, cell in cells.items():
        if cell not in MARKS:
            raise UserError(f"{place}: column {name!r} has {cell!r}; label columns hold 0 or 1, or are all empty")
    return tuple(name for name, cell in cells.items() if MARKS[cell])


def _text(value: Any, place: str, column: str) -> str | None:
    """A cell as text; None and NaN are nothing.

    Raises:
        UserError: the cell holds something that is not one text or number, such as a list.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise UserError(f"{place}: column {column!r} holds bytes that are not text in UTF-8") from None
    if isinstance(value, list | dict | tuple):
        raise UserError(f"{place}: column {column!r} holds a {type(value).__name__}; a cell must be a text or a number")
    return str(value)


def _records(settings: Settings, wanted: list[str]) -> Iterator[Record]:
    path = Path(settings.path)
    readers = {".csv": _csv, ".tsv": _csv, ".parquet": _parquet, ".jsonl": _jsonl, ".ndjson": _jsonl}
    if path.suffix.lower() not in readers:
        raise UserError(f"{path}: not a table; its name must end in {', '.join(readers)}")
    try:
        regular_size(path)  # a pipe would hang
        yield from readers[path.suffix.lower()](path, settings, wanted)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check dataset.source.path") from None
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None


def _csv(path: Path, settings: Settings, wanted: list[str]) -> Iterator[Record]:
    csv.field_size_limit(LONGEST_CELL)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    lines = csv.reader(_lines(path, settings.encoding, newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    columns: dict[str, int] = {}
    while True:
        # A row may take several lines, if a value has line breaks; errors name the first.
        line = lines.line_num + 1
        try:
            cells = next(lines, None)
        except csv.Error as error:
            raise UserError(
                f"{path}: line {line}: {error}; in a value with quotes around it, write a quote twice, and put quotes "
                "around a value that begins with one"
            ) from None
        if cells is None:
            break
        if not cells:
            # A blank line.
            continue
        if not header:
            header = cells
            _check(path, wanted, header)
            columns = {name: header.index(name) for name in wanted}
            continue
        if len(cells) != len(header):
            raise UserError(f"{path}: line {line} has {count(len(cells), 'cell')}, and the header has {len(header)}")
        yield line, {name: cells[column] for name, column in columns.items()}
    if not header:
        raise UserError(f"{path}: empty; its first line must be the names of the columns")


def _parquet(path: Path, settings: Settings, wanted: list[str]) -> Iterator[Record]:
    with parquet.opened(path) as file:
        _check(path, wanted, file.schema_arrow.names)
        yield from ((None, record) for record in parquet.records(path, file, wanted))


def _jsonl(path: Path, settings: Settings, wanted: list[str]) -> Iterator[Record]:
    """Records of a JSON Lines file. A record may leave out a column that others have, but for texts and ids."""
    always = [name for name in (settings.text_column, settings.id_column) if name]
    names: dict[str, None] = {}
    for number, line in enumerate(_lines(path, "utf-8"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: line {number} is not valid JSON: {error}") from None
        if not isinstance(record, dict):
            raise UserError(f"{path}: line {number} is not a JSON object")
        if not names:
            _check(path, always, list(record))
        names.update(dict.fromkeys(record))
        yield number, record
    _check(path, wanted, list(names))


def _lines(path: Path, encoding: str, newline: str | None = None) -> Iterator[str]:
    """The lines of a file of text, without a byte order mark."""
    try:
        if codecs.lookup(encoding).name == "utf-8":
            encoding = "utf-8-sig"
        with path.open(encoding=encoding, newline=newline) as file:
            yield from file
    except LookupError:
        raise UserError(f"{path}: no encoding is called {encoding!r}; write one such as utf-8 or latin-1") from None
    except UnicodeDecodeError as error:
        line = _undecodable(path, encoding)
        raise UserError(
            f"{path}: {line}not {encoding.removesuffix('-sig')} ({error.reason}); save it as utf-8, or for CSV and TSV "
            "set dataset.source.encoding"
        ) from None


def _undecodable(path: Path, encoding: str) -> str:
    """Where the first line is that cannot be decoded by itself: `line 3 is `."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode(encoding)
            except UnicodeDecodeError:
                return f"line {number} is "
    return ""


def _check(path: Path, wanted: Iterable[str], there: list[str]) -> None:
    for name in wanted:
        if name not in there:
            raise UserError(f"{path}: no column {name!r}; there are {listed([repr(other) for other in there])}")
        if there.count(name) > 1:
            raise UserError(f"{path}: {there.count(name)} columns are called {name!r}; rename all but one")
