"""A table with a column of text: CSV, TSV, JSON, Parquet and others, by the file's name.

The formats are those of `_tables.py`. Ids and labels are read as the text they are: "007" stays "007".
"""

import string
from collections.abc import Iterator
from functools import partial

from pipeline.datasets import Row
from pipeline.datasets._columns import Columns, Content, digest, examples, text, undecoded
from pipeline.datasets._tables import TableFiles, TableRow, Wanted, files, records
from pipeline.errors import UserError

KIND = "text"


class Settings(Columns, TableFiles):
    """Keys of a table of text.

    Attributes:
        text_column: the column of the texts.
        template: makes a text of several columns, such as `"{premise} Question: {hypothesis}"`, in place of one column.
    """

    text_column: str = "text"
    template: str | None = None


def rows(settings: Settings) -> Iterator[Row]:
    """The rows of the table, in its order."""
    columns, content = _texts(settings)
    yield from examples(settings, partial(records, settings), columns, content, len(files(settings.path)) > 1)


def texts(settings: Settings) -> Iterator[Row]:
    """The texts of the table alone, of which nothing is kept: an id is a cell, or the number of its row, from 1.

    A cell that is no text is a problem of its row.
    """
    columns, content = _texts(settings)
    wanted = [*columns, *filter(None, [settings.id_column])]
    for number, record in enumerate(records(settings, Wanted(wanted, wanted, [])), start=1):
        id = str(number)
        try:
            id = (text(record, settings.id_column) if settings.id_column else None) or id
            found, _, problem = content(record)
            yield Row(id, found, problem=problem)
        except UserError as error:
            yield Row(id, "", problem=str(error))


def _texts(settings: Settings) -> tuple[list[str], Content]:
    """The columns that make a text, and how."""
    parts = [("", settings.text_column)] if settings.template is None else _parts(settings.template)
    columns = list(dict.fromkeys(column for _, column in parts if column))

    def content(record: TableRow) -> tuple[str, str, str | None]:
        cells = {column: text(record, column) or "" for column in columns}
        found = "".join(before + cells.get(column, "") for before, column in parts)
        problem = undecoded(found, record)
        if problem is None and len(parts) > 1:
            empty = [column for column in columns if not cells[column].strip()]
            problem = f"nothing in column {empty[0]!r}" if empty else None
        return "" if problem else found, digest(found), problem

    return columns, content


def _parts(template: str) -> list[tuple[str, str]]:
    """A template as pairs of text and the column that follows it; the last may be none.

    Raises:
        UserError: it names no column, or has more in its braces than a name.
    """
    try:
        found = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UserError(f"dataset.source.template: {error}; write a brace of the text twice") from None
    columns = [column for _, column, _, _ in found if column is not None]
    if not all(columns) or not columns or any(how or as_ for _, _, how, as_ in found):
        raise UserError("dataset.source.template: write names of columns in braces, such as {premise} {hypothesis}")
    return [(before, column or "") for before, column, _, _ in found]
