"""A table with a column of text: CSV, TSV, JSON, Parquet and others, by the file's name.

Ids and labels are read as the text they are: "007" stays "007".
"""

from collections.abc import Iterator
from functools import partial

from pipeline.datasets import Row
from pipeline.datasets._columns import Columns, examples, text
from pipeline.datasets._tables import TableFiles, Wanted, files, records
from pipeline.datasets._texts import text_content
from pipeline.errors import UserError

KIND = "text"


class Settings(Columns, TableFiles):
    """Keys of a table of text.

    Attributes:
        text_column: the column of the texts.
        template: makes one text from several columns, such as `"{premise} Question: {hypothesis}"`, instead of
            `text_column`.
    """

    text_column: str = "text"
    template: str | None = None


def rows(settings: Settings) -> Iterator[Row]:
    """The rows of the table, in its order."""
    columns, content = text_content(settings.text_column, settings.template)
    yield from examples(settings, partial(records, settings), columns, content, len(files(settings.path)) > 1)


def texts(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Only the texts of the table, one at a time: id, text, and why it cannot be read (empty if it can).

    An id is a cell, or the number of the row, from 1. A cell that is not text is a problem of its row.
    """
    columns, content = text_content(settings.text_column, settings.template)
    wanted = [*columns, *filter(None, [settings.id_column])]
    for number, record in enumerate(records(settings, Wanted(wanted, wanted, [])), start=1):
        id = str(number)
        try:
            if settings.id_column is not None:
                id = text(record, settings.id_column) or id
            found, _, problem = content(record)
            yield id, str(found), problem or ""
        except UserError as error:
            yield id, "", str(error)
