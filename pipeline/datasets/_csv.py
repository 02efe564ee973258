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

A remark counts cells that span lines, and another one quotes that were removed although they were not needed.
"""

import csv
import re
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from pipeline.errors import UserError, count
from pipeline.tasks import is_number

Quotes = Literal["doubled", "backslash", "none"]

LONGEST_CELL = 1 << 30
"""The maximum length of a cell in characters; Python's default is 131,072."""

MOST_LABELS = 100_000
"""The maximum number of distinct labels that are remembered."""

SPANS = "a cell in quotes spans several lines"
TAKEN_OFF = (
    "quotes around a cell were taken off, and the column has cells without; if they belong to the text, set "
    "dataset.source.quotes: none"
)

_DIALECTS: dict[Quotes, dict[str, object]] = {
    "doubled": {"doublequote": True},
    "backslash": {"doublequote": False, "escapechar": "\\"},
    "none": {"quoting": csv.QUOTE_NONE},
}


class Line(NamedTuple):
    """The cells of one row, the line where it begins, from 1, and remarks for the user."""

    number: int
    cells: list[str]
    remarks: tuple[str, ...] = ()


def read(
    lines: Iterator[str], path: str, delimiter: str, quotes: Quotes | None, labels: Sequence[str]
) -> Iterator[Line]:
    """The rows of a file, the header first. Blank lines are skipped.

    Args:
        lines: lines with their line breaks.
        path: the file, for messages.
        delimiter: one character.
        quotes: what quotes mean; None reads them as doubled, and refuses ambiguous files.
        labels: the names of the columns of labels.

    Raises:
        UserError: a row cannot be read, has more or fewer cells than the header, or is ambiguous; the message has its
            line.
    """
    csv.field_size_limit(LONGEST_CELL)
    taken: list[str] = []

    def kept() -> Iterator[str]:
        for line in lines:
            taken.append(line)
            yield line

    rows = csv.reader(kept(), delimiter=delimiter, strict=True, **_DIALECTS[quotes or "doubled"])  # type: ignore[arg-type]
    header: list[str] = []
    doubts: _Doubts | None = None
    while True:
        number = rows.line_num + 1  # a row may take several lines; errors name the first
        taken.clear()
        try:
            cells = next(rows, None)
        except csv.Error as error:
            raise UserError(
                f"{path}: line {number}: {error}; write a quote twice inside a cell in quotes, or set "
                'dataset.source.quotes: `none` if quotes belong to the texts, `backslash` if \\" stands for one'
            ) from None
        if cells is None:
            break
        if not cells:
            continue
        if not header:
            header = cells
            if quotes is None:
                doubts = _Doubts(path, delimiter, header, [header.index(name) for name in labels if name in header])
            yield Line(number, cells)
            continue
        if len(cells) != len(header):
            raise UserError(f"{path}: line {number} has {count(len(cells), 'cell')}, but the header has {len(header)}")
        yield Line(number, cells, doubts.look(number, taken, cells) if doubts else ())
    if doubts:
        doubts.resolve()


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

    def look(self, number: int, lines: list[str], cells: list[str]) -> tuple[str, ...]:
        """Look at one row; returns remarks. Raises `UserError` if it is ambiguous."""
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
            f"{self.path}: line {number}: {why}; set dataset.source.quotes: `doubled` if quotes stand around cells, "
            '`none` if they belong to the texts, `backslash` if \\" stands for one'
        )
