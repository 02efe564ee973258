"""What readers of tables give: rows with named columns, of which some were asked for."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from pipeline.datasets._encodings import Decoding
from pipeline.errors import UserError, listed


class TableRow(NamedTuple):
    """One row of a table.

    Attributes:
        cells: the cells by column, with the types of the format.
        file: the file that holds it.
        number: the line where it begins, or the number of the row in the file, both from 1.
        in_lines: whether the number is that of a line.
        remarks: remarks on the row for the user.
        decoding: how the texts were decoded; None for formats that are not text.
    """

    cells: Mapping[str, Any]
    file: str
    number: int
    in_lines: bool = False
    remarks: tuple[str, ...] = ()
    decoding: Decoding | None = None

    @property
    def place(self) -> str:
        """How messages name the row."""
        return f"{self.file}: {'line' if self.in_lines else 'row'} {self.number}"


class TableBlock(NamedTuple):
    """Rows of a table that follow one another.

    Attributes:
        cells: the wanted cells of all rows, by column; None where a row has none.
        rows: gives the same row by row.
        remarked: whether some of them may have remarks.
    """

    cells: Mapping[str, list[Any]]
    rows: Callable[[], Iterable[TableRow]]
    remarked: bool = False


def behind(blocks: Iterable[TableBlock], first: int) -> Iterator[TableBlock]:
    """Blocks without their first rows, which are read, and nothing is made of them."""
    for block in blocks:
        count = len(next(iter(block.cells.values())))
        if first < count:
            cells = {name: cells[first:] for name, cells in block.cells.items()} if first else block.cells
            yield TableBlock(cells, partial(_rows_from, block, first), block.remarked)
        first = max(0, first - count)


def _rows_from(block: TableBlock, first: int) -> Iterator[TableRow]:
    return islice(block.rows(), first, None)


def blocks_of(rows: Iterator[TableRow], columns: Sequence[str], size: int) -> Iterator[TableBlock]:
    """Rows in blocks of `size`."""
    while block := list(islice(rows, size)):
        cells = {name: [row.cells.get(name) for row in block] for name in columns}
        yield TableBlock(cells, block.copy, any(row.remarks for row in block))


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


def check(path: str, columns: Iterable[str], there: list[str]) -> None:
    """Make sure that a table has the columns, once each. Raises `UserError` if not."""
    for name in columns:
        if name not in there:
            raise UserError(f"{path}: no column {name!r}; there are {listed([repr(other) for other in there])}")
        if there.count(name) > 1:
            raise UserError(f"{path}: {there.count(name)} columns are called {name!r}; rename all but one")
