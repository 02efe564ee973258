"""CSV and TSV: splits lines into rows of cells, and decides what quotes mean, which these files do not say.

Most programs put quotes around a cell that contains a delimiter, a quote or a line break, and double the quotes inside
it (RFC 4180). Others write quotes as they are. Then a lone quote at the start of one text and another at the end of a
later one look like one long cell, and every row between them is lost. So, if the setting is left out, files are read in
the first way, and refused if the second is as plausible:

- a cell spans lines, and its first and last line each read as a row of the table, with as many cells as the header and
  a label that other rows have. Without a column of labels it is refused unless more rows than such cells have quotes
  without which they would not fit the header;
- cells span lines in a file that also has quotes inside cells without quotes around them;
- a cell in quotes would end earlier if quotes inside cells had a backslash before them, as MySQL and Spark write them.

Remarks count cells that span lines, quotes that were removed although they were not needed, quotes that were kept
because of a space before them, and blank lines in a table of one column.
"""

import csv
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, repeat
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt8

from pipeline.datasets._rows import TableBlock, TableRow, Wanted, check
from pipeline.errors import UserError, count
from pipeline.tasks import is_number

Quotes = Literal["doubled", "backslash", "none"]

LONGEST_CELL = 1 << 30
"""The maximum length of a cell in characters; Python's default is 131,072."""

BLOCK = 1 << 22
"""Characters of lines that are read together, but for a longer line."""

MOST_LABELS = 100_000
"""The maximum number of distinct labels that are remembered."""

SPANS = "a cell in quotes spans several lines"
TAKEN_OFF = (
    "quotes around a cell were taken off, and the column has cells without; if they belong to the text, set "
    "`quotes` to none"
)
SPACED = (
    "a cell has a space before its quotes, which are then part of it; remove the space in the file if they enclose it"
)
BLANK = "a blank line before it was skipped; in a table of one column it may be an empty text"

_DIALECTS: dict[Quotes, dict[str, object]] = {
    "doubled": {"doublequote": True},
    "backslash": {"doublequote": False, "escapechar": "\\"},
    "none": {"quoting": csv.QUOTE_NONE},
}


class _CsvRow(NamedTuple):
    """The cells of one row, the line where it begins, from 1, and remarks for the user."""

    number: int
    cells: list[str]
    remarks: tuple[str, ...] = ()


def read(
    lines: Iterator[str], path: str, delimiter: str, quotes: Quotes | None, wanted: Wanted, size: int
) -> Iterator[TableBlock]:
    """The rows of a file in blocks of at most `size`, without the header. Blank lines are skipped.

    A block of lines that are a row each is cut into cells as a whole. Others are read row by row.

    Args:
        lines: lines with their line breaks.
        path: the file, for messages.
        delimiter: one character.
        quotes: what quotes mean; None reads them as doubled, and refuses ambiguous files.
        wanted: the columns to read.

    Raises:
        UserError: a column is missing; a row cannot be read, has more or fewer cells than the header, or is ambiguous;
            the message has its line.
    """
    rows = _RowReader(lines, path, delimiter, quotes)
    header = rows.row()
    if header is None:
        raise UserError(f"{path}: empty; its first line must be the names of the columns")
    names = rows.header = header.cells
    check(path, wanted.columns, names)
    labels = [names.index(name) for name in wanted.labels if name in names]
    doubts = _Doubts(path, delimiter, names, labels) if quotes is None else None
    at = {name: names.index(name) for name in wanted.columns}
    while block := rows.following(size):
        number = rows.number + 1
        cells = _cells(block, delimiter, len(names), quotes)
        if cells is not None and (doubts is None or doubts.nothing_in(cells)):
            rows.skip(len(block))
            columns = {name: cells.column(place) for name, place in at.items()}
            yield TableBlock(columns, partial(_table_rows, columns, path, range(number, number + len(block))))
            continue
        read: list[_CsvRow] = []
        while rows.number < number + len(block) - 1 and (row := rows.row()):
            read.append(row._replace(remarks=(*row.remarks, *doubts.look(row, rows.taken))) if doubts else row)
        if not read:
            continue
        columns = {name: [row.cells[place] for row in read] for name, place in at.items()}
        numbers, remarks = [row.number for row in read], [row.remarks for row in read]
        yield TableBlock(columns, partial(_table_rows, columns, path, numbers, remarks), any(remarks))
    if doubts:
        doubts.resolve()


def _table_rows(
    columns: Mapping[str, list[str]],
    path: str,
    numbers: Sequence[int],
    remarks: Iterable[tuple[str, ...]] = repeat(()),
) -> Iterator[TableRow]:
    for number, of_row, *cells in zip(numbers, remarks, *columns.values(), strict=False):
        yield TableRow(dict(zip(columns, cells, strict=True)), path, number, True, of_row)


class _RowReader:
    """The rows of a file, one by one, and the lines that follow.

    Attributes:
        header: the names of the columns, once it is set.
        number: the number of lines that were read.
        taken: the lines of the row that was read last.
    """

    def __init__(self, lines: Iterator[str], path: str, delimiter: str, quotes: Quotes | None):
        csv.field_size_limit(LONGEST_CELL)
        self.header: list[str] = []
        self.path, self.number, self.taken = path, 0, list[str]()
        self._lines, self._waiting = lines, deque[str]()
        dialect = _DIALECTS[quotes or "doubled"]
        self._reader = csv.reader(self._each(), delimiter=delimiter, strict=True, **dialect)  # type: ignore[arg-type]

    def _each(self) -> Iterator[str]:
        while line := self._waiting.popleft() if self._waiting else next(self._lines, ""):
            self.number += 1
            self.taken.append(line)
            yield line

    def following(self, count: int) -> list[str]:
        """The next lines, which are not read yet: `count`, or fewer if they are long or the file ends."""
        size = sum(map(len, self._waiting))
        while len(self._waiting) < count and size < BLOCK and (line := next(self._lines, "")):
            self._waiting.append(line)
            size += len(line)
        return list(self._waiting)

    def skip(self, count: int) -> None:
        """Leave out so many of the lines that follow."""
        self.number += count
        self._waiting = deque(islice(self._waiting, count, None))

    def row(self) -> _CsvRow | None:
        """The next row; None at the end. Raises `UserError` if it cannot be read, or does not fit the header."""
        cells: list[str] | None = []
        blank = -1
        while cells == []:  # a blank line
            blank += 1
            number = self.number + 1  # a row may take several lines; errors name the first
            self.taken.clear()
            try:
                cells = next(self._reader, None)
            except csv.Error as error:
                raise UserError(
                    f"{self.path}: line {number}: {error}; write a quote twice inside a cell in quotes, or set "
                    '`quotes` to `none` if quotes belong to the texts, to `backslash` if \\" stands for one'
                ) from None
        if cells is None:
            return None
        if self.header and len(cells) != len(self.header):
            raise UserError(
                f"{self.path}: line {number} has {count(len(cells), 'cell')}, but the header has {len(self.header)}"
            )
        return _CsvRow(number, cells, (BLANK,) if blank and len(self.header) == 1 else ())


@dataclass(frozen=True)
class _Cells:
    """Where the cells of a block of lines are, each of which is a row.

    Attributes:
        text: the block, with a line feed after every line.
        starts, ends: of the cells in `text`, without the quotes around them.
        quoted: whether there are quotes around a cell.
        spare: whether there is no mark inside that needs them; spaces at an end may.
        surplus: the number of rows that would have more cells without their quotes.
    """

    text: bytes
    starts: Int[np.ndarray, "rows columns"]
    ends: Int[np.ndarray, "rows columns"]
    quoted: Bool[np.ndarray, "rows columns"]
    spare: Bool[np.ndarray, "rows columns"]
    surplus: int

    def column(self, at: int) -> list[str]:
        """The cells of a column."""
        places = zip(self.starts[:, at].tolist(), self.ends[:, at].tolist(), strict=True)
        # No cell has a line feed, so the whole column can be decoded at once.
        found = b"\n".join([self.text[start:end] for start, end in places])
        if self.quoted[:, at].any():
            found = found.replace(b'""', b'"')
        return found.decode(errors="surrogatepass").split("\n")


def _cells(lines: list[str], delimiter: str, columns: int, quotes: Quotes | None) -> _Cells | None:
    """The cells of lines, if that is beyond doubt; None if not.

    It is, if every line has as many cells as the header, and every quote begins or ends a cell, or is one of two inside
    a cell with quotes around it.
    """
    joined = "".join(lines)
    if not joined.endswith("\n"):
        joined += "\n"
    text = joined.replace("\r\n", "\n").encode(errors="surrogatepass")
    quoting = quotes != "none" and b'"' in text
    if b"\r" in text or not delimiter.isascii() or delimiter in '"\\\r\n' or (quoting and b'\\""' in text):
        return None
    if quotes == "backslash" and (quoting or b"\\" in text):
        return None
    data = np.frombuffer(text, np.uint8)
    apart, line, quote = ord(delimiter), ord("\n"), ord('"')
    marks = np.flatnonzero(_is(data, apart, line))
    surplus = 0
    if quoting:
        places = np.flatnonzero(data == quote)
        if len(places) % 2:
            return None
        opening, closing = places[::2], places[1::2]
        begins = _is(data[opening - 1], apart, line)  # before the first byte is the last, a line feed
        finishes = _is(data[closing + 1], apart, line)
        double = closing[:-1] + 1 == opening[1:]
        begins[1:] |= double
        finishes[:-1] |= double
        inside = np.searchsorted(places, marks) % 2 == 1
        if not (begins.all() and finishes.all()) or (data[marks[inside]] == line).any():
            return None
        surplus = len(np.unique(np.searchsorted(marks[data[marks] == line], marks[inside])))
        marks = marks[~inside]
    if len(marks) != len(lines) * columns:
        return None
    ends = marks.reshape(len(lines), columns)
    starts = np.append(0, marks[:-1] + 1).reshape(ends.shape)
    if (data[ends[:, -1]] != line).any() or (columns == 1 and (starts == ends).any()):
        return None
    if (ends - starts).max() > LONGEST_CELL:
        return None
    quoted = spare = np.zeros(ends.shape, bool)
    if quoting:
        quoted = data[starts] == quote
        starts, ends = starts + quoted, ends - quoted
        needing = np.flatnonzero(_is(data, apart, quote))
        needed = np.searchsorted(needing, ends) > np.searchsorted(needing, starts)
        spare = quoted & (starts < ends) & ~needed
    return _Cells(text, starts, ends, quoted, spare, surplus)


def _is(data: UInt8[np.ndarray, " n"], one: int, other: int) -> Bool[np.ndarray, " n"]:
    return (data == one) | (data == other)


class _Doubts:
    """Decides whether the quotes of a file enclose cells or belong to the texts.

    Attributes:
        either: line, number of lines, first and last line of each cell that could also be several rows.
        proofs: the number of rows that would not fit the header without their quotes.
        inside: the first line with a quote inside a cell without quotes around it.
        spanning: the first line where a cell spans lines.
    """

    def __init__(self, path: str, delimiter: str, header: list[str], labels: list[int]):
        self.path, self.delimiter, self.columns, self.labels = path, delimiter, len(header), labels
        apart = re.escape(delimiter)
        self.cell = re.compile(rf'"(?P<quoted>(?:[^"]++|"")*+)"(?={apart}|[\r\n]|\Z)|[^{apart}\r\n]*')
        self.escaped = re.compile(rf'\\""(?={apart}|[\r\n])')
        self.seen: set[str] = set()
        self.bare: set[int] = set()
        self.either: list[tuple[int, int, list[str], list[str]]] = []
        self.proofs = 0
        self.inside = self.spanning = 0

    def nothing_in(self, cells: _Cells) -> bool:
        """Look at a block; returns False, and has not looked, if there is a remark on one of its rows."""
        bare = {*self.bare, *np.flatnonzero(((cells.starts < cells.ends) & ~cells.quoted).any(0)).tolist()}
        if not bare.isdisjoint(np.flatnonzero(cells.spare.any(0)).tolist()):
            return False
        self.bare = bare
        self.proofs += cells.surplus
        for at in self.labels:
            if len(self.seen) < MOST_LABELS:
                self.seen.update(cells.column(at))
        return True

    def look(self, row: _CsvRow, lines: list[str]) -> tuple[str, ...]:
        """Look at one row; returns remarks. Raises `UserError` if it is ambiguous."""
        number, cells = row.number, row.cells
        if len(self.seen) < MOST_LABELS:
            self.seen.update(cells[at] for at in self.labels)
        if len(lines) == 1 and '"' not in lines[0]:
            if len(self.bare) < self.columns:
                self.bare.update(at for at, cell in enumerate(cells) if cell)
            return ()
        remarks = self._cells(number, "".join(lines))
        if any(line.count(self.delimiter) + 1 != self.columns for line in lines):
            self.proofs += 1
        if len(lines) > 1:
            self.spanning = self.spanning or number
            remarks.append(SPANS)
            first, last = (line.rstrip("\r\n").split(self.delimiter) for line in (lines[0], lines[-1]))
            if len(first) == len(last) == self.columns:
                self.either.append((number, len(lines), first, last))
        if self.inside and self.spanning:
            self._refuse(
                self.spanning,
                f"a cell in quotes spans lines, and line {self.inside} has a quote inside of a cell without",
            )
        return tuple(remarks)

    def resolve(self) -> None:
        """Decide at the end of the file, when all labels are known. Raises `UserError` if it is ambiguous."""
        for number, lines, first, last in self.either:
            rows = all(self._is_label(cells[at]) for cells in (first, last) for at in self.labels)
            if rows and (self.labels or len(self.either) >= self.proofs):
                label = f", with the label {first[self.labels[0]]!r}" if self.labels else ""
                self._refuse(number, f"a cell in quotes spans {lines} lines, the first of which reads as a row{label}")

    def _cells(self, number: int, text: str) -> list[str]:
        """Look at the cells of a row that has quotes; returns remarks."""
        remarks, column, at = [], 0, 0
        while found := self.cell.match(text, at):
            quoted = found["quoted"]
            if quoted is None:
                if '"' in found[0]:
                    self.inside = self.inside or number
                    if SPACED not in remarks and re.fullmatch(' +".*" *', found[0]):
                        remarks.append(SPACED)
                if found[0]:
                    self.bare.add(column)
            else:
                if self.escaped.search(quoted):
                    self._refuse(number, 'a cell in quotes holds \\"", which may be the end of it')
                needed = any(mark in quoted for mark in (self.delimiter, '"', "\r", "\n")) or quoted != quoted.strip()
                if quoted and not needed and column in self.bare and TAKEN_OFF not in remarks:
                    remarks.append(TAKEN_OFF)
            column, at = column + 1, found.end() + 1
            if text[found.end() : at] != self.delimiter:
                break
        return remarks

    def _is_label(self, cell: str) -> bool:
        return cell in self.seen or (is_number(cell) and any(map(is_number, self.seen)))

    def _refuse(self, number: int, why: str) -> None:
        raise UserError(
            f"{self.path}: line {number}: {why}; set `quotes` to `doubled` if quotes stand around cells, "
            '`none` if they belong to the texts, `backslash` if \\" stands for one'
        )
