"""The meaning of a table's columns, for every family whose source has columns: id, label, split, group."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import Any, Literal

from pydantic import Field

from pipeline.ahead import mapped
from pipeline.datasets import Kind, Location, NewRows, Passed, Row, RowContent
from pipeline.datasets._rows import TableBlock, TableRow, Wanted
from pipeline.errors import UserError
from pipeline.ids import Repeats
from pipeline.params import Settings as Section
from pipeline.tasks import Label

MARKS = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}
"""Cells of label columns, in lower case, and whether the row has the label."""


class Columns(Section):
    """Which columns hold what.

    Attributes:
        label_column: the column of the labels; an empty cell means no label. None: no row has a label. In Parquet,
            Arrow and JSON a cell may hold a list of labels. A list of columns with 0 and 1 has one label per column,
            named after it.
        label_separator: text between the labels of a cell, such as `;`, if rows may have several.
        id_column: a column with a permanent id for each row. None: a row's id is the digest of its content.
        split_column: a column with train, val or test, if the source fixes the splits.
        group_column: a column of groups; rows of one group are never in different splits.
    """

    label_column: str | list[str] | None = None
    label_separator: str | None = Field(default=None, min_length=1)
    id_column: str | None = None
    split_column: str | None = None
    group_column: str | None = None

    @property
    def label_columns(self) -> list[str]:
        """The columns of labels: none, one or several."""
        if self.label_column is None:
            return []
        return [self.label_column] if isinstance(self.label_column, str) else self.label_column


Content = Callable[[TableRow], tuple[RowContent, str, str | None]]
"""Reads a record: returns its content, its id if there is no column of ids, and why it cannot be read."""


class SecondColumn(Section):
    """How a table makes pairs.

    Attributes:
        second_column: a second column of texts; a row is then a pair, with it as the second.
    """

    second_column: str | None = None

    def paired(self, kind: Literal["text", "image"]) -> Kind:
        """What rows hold whose first content is a text or an image."""
        if self.second_column is None:
            return kind
        return "text+text" if kind == "text" else "image+text"


REPEAT = re.compile(r"-\d{1,15}$")
"""What follows the digest, of 16 digits, in the id of a row whose content has come before."""


def digest(content: str | bytes) -> str:
    """An id made from content."""
    encoded = content.encode(errors="surrogatepass") if isinstance(content, str) else content
    return blake2b(encoded, digest_size=8).hexdigest()


def examples(
    settings: Columns,
    records: Callable[[Wanted], Iterator[TableRow]],
    content_columns: Sequence[str],
    content: Content,
    several_files: bool = False,
    location: Callable[[TableRow], Location | None] = lambda record: None,
    at_once: int = 1,
    passed: Passed | None = None,
) -> Iterator[Row]:
    """The rows of a table.

    Without a column of ids, an id is the digest of the content, with -2, -3 ... for repeats: so rows may be added,
    removed or sorted, and results for the others are found again. While the table is read, that takes 12 to 24 bytes
    of memory per row.

    Args:
        settings: which columns.
        records: gives the records of the table, with the given columns.
        content_columns: the columns that `content` reads.
        content: reads the content of a record.
        several_files: whether messages must name the file of a row.
        location: where the content of a record lies, if it is in a file of its own.
        at_once: how many contents are read at a time.
        passed: what `records` leaves out.

    Raises:
        UserError: a cell has no meaning in its column; the message names the row and the column.
    """
    labels, seen = settings.label_columns, Repeats()
    if isinstance(settings.label_column, list) and (len(labels) < 2 or settings.label_separator):
        raise UserError(
            "dataset.source.label_column: a list must name two or more columns of 0 and 1, without label_separator; "
            "for one column write its name"
        )
    optional = (*labels, settings.id_column, settings.split_column, settings.group_column)
    columns = list(dict.fromkeys([*content_columns, *(name for name in optional if name)]))
    always = [*content_columns, *([settings.id_column] if settings.id_column else [])]
    passed = passed or Passed()
    unused = set(labels).difference(passed.labels) if len(labels) > 1 and passed.labels is not None else set()
    file = "the table"
    earlier = iter(passed.ids if settings.id_column is None else ())

    def read(record: TableRow) -> tuple[TableRow, tuple[RowContent, str, str | None]]:
        return record, content(record)

    for record, (found, key, problem) in mapped(read, records(Wanted(columns, always, labels)), at_once):
        file = record.file
        for earlier_id in earlier:  # before the first row, and not if there is none: it takes a while
            seen.count(REPEAT.sub("", earlier_id))
        if settings.id_column is None:
            times = seen.count(key)
            id = key if times == 1 else f"{key}-{times}"
        elif not (id := name(record, settings.id_column) or ""):
            raise UserError(f"{record.place} has nothing in column {settings.id_column!r}; every row needs an id")
        at = location(record)
        label = _marked(record, labels) if len(labels) > 1 else _label(record, labels[0], settings) if labels else None
        unused -= set(label or ())
        yield Row(
            id,
            found,
            label,
            (name(record, settings.split_column) or None) if settings.split_column else None,
            (name(record, settings.group_column) or None) if settings.group_column else None,
            record.number if record.in_lines else None,
            problem,
            file=record.file if several_files else None,
            remarks=record.remarks,
            location=at,
            origin=record.file if at is None else None,
        )
    if unused:
        raise UserError(f"{file}: column {min(unused)!r} of dataset.source.label_column has no 1 in any row; remove it")


def new_rows(
    settings: Columns,
    blocks: Callable[[Wanted], Iterator[TableBlock]],
    columns: Sequence[str],
    content: Content,
    as_it_is: bool = False,
) -> Iterator[NewRows]:
    """Only the contents of a table, block by block.

    An id is a cell, or the number of the row, from 1. A cell that has no meaning in its column is a problem of its row.

    Args:
        settings, content: as in `examples`.
        blocks: gives the rows of the table, with the given columns.
        columns: that `content` reads.
        as_it_is: whether it is the text in the only one of them.
    """
    wanted = [*columns, *filter(None, [settings.id_column])]
    first = 1
    for block in blocks(Wanted(wanted, wanted, [])):
        cells = [block.cells[name] for name in wanted]
        # Most blocks; it takes a tenth of the time of row by row.
        if as_it_is and not block.remarked and all(map(_sound, cells)):
            count = len(cells[0])
            ids = list(map(str, range(first, first + count)))
            if settings.id_column is not None:
                ids = [cell or id for cell, id in zip(cells[1], ids, strict=True)]
            yield NewRows(ids, cells[0], [""] * count, [()] * count)
        else:
            rows = [_new_row(settings, record, number, content) for number, record in enumerate(block.rows(), first)]
            yield NewRows(*map(list, zip(*rows, strict=True)))
        first += len(cells[0])


def _new_row(
    settings: Columns, record: TableRow, number: int, content: Content
) -> tuple[str, RowContent, str, tuple[str, ...]]:
    id = str(number)
    try:
        if settings.id_column is not None:
            id = text(record, settings.id_column) or id
        found, _, problem = content(record)
        return id, found, problem or "", record.remarks
    except UserError as error:
        return id, "", str(error), record.remarks


def _sound(cells: Sequence[Any]) -> bool:
    """Whether all cells are texts, of which every byte could be decoded."""
    try:
        "".join(cells).encode()
    except (TypeError, UnicodeEncodeError):
        return False
    return True


def text(record: TableRow, column: str) -> str | None:
    """A cell as text; None if it is None or NaN. Bytes that are not UTF-8 are lone surrogates in it; see `undecoded`.

    Raises:
        UserError: the cell holds something other than a text or a number, such as a list.
    """
    return _text(record.cells.get(column), record, column)


def name(record: TableRow, column: str) -> str | None:
    """A cell as text. Raises `UserError` as `text` does, or if it cannot be decoded."""
    return _name(record.cells.get(column), record, column)


def undecoded(text: str | None, record: TableRow) -> str | None:
    """Which byte of a text could not be decoded, and what to do; None if all could."""
    if text is None or text.isascii() or not (found := re.search("[\udc80-\udcff]", text)):
        return None
    encoding, advice = (record.decoding.name, record.decoding.advice) if record.decoding else ("utf-8", "")
    return f"byte 0x{ord(found[0]) - 0xDC00:02x} at character {found.start() + 1} is not {encoding}{advice}"


def _text(value: Any, record: TableRow, column: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, bytes):
        return value.decode(errors="surrogateescape")
    if isinstance(value, list | dict | tuple):
        raise UserError(
            f"{record.place}: column {column!r} holds a {type(value).__name__}; a cell must be a text or a number"
        )
    return str(value)


def _name(value: Any, record: TableRow, column: str) -> str | None:
    found = _text(value, record, column)
    if problem := undecoded(found, record):
        raise UserError(f"{record.place}: column {column!r}: {problem}")
    return found


def _label(record: TableRow, column: str, settings: Columns) -> Label | None:
    """The label of a cell, or the labels of a list or between separators.

    Raises:
        UserError: one of several labels is empty, or is not a text or a number.
    """
    value = record.cells.get(column)
    if isinstance(value, list):
        names = [_name(one, record, column) for one in value]
    elif (found := _name(value, record, column)) is None or not found.strip():
        return None
    elif settings.label_separator is None:
        return found
    else:
        names = [*found.split(settings.label_separator)]
    stripped = [(one or "").strip() for one in names]
    if "" in stripped:
        raise UserError(f"{record.place}: column {column!r} has an empty label in {value!r}; remove it")
    return tuple(stripped)


def _marked(record: TableRow, columns: Sequence[str]) -> Label | None:
    """The names of the columns that hold a 1; None if all are empty.

    Raises:
        UserError: a cell holds something other than 0 and 1, or only some cells are empty.
    """
    cells = {column: (name(record, column) or "").strip().lower() for column in columns}
    if not any(cells.values()):
        return None
    for column, cell in cells.items():
        if cell not in MARKS:
            raise UserError(
                f"{record.place}: column {column!r} has {cell!r}; label columns hold 0 or 1, or are all empty"
            )
    return tuple(column for column, cell in cells.items() if MARKS[cell])
