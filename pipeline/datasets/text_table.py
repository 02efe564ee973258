"""A table with a column of text: CSV, TSV, JSON, Parquet and others, by the file's name.

Ids and labels are read as the text they are: "007" stays "007".
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

from pipeline.datasets import Kind, Row
from pipeline.datasets._columns import Columns, SecondColumn, examples, text
from pipeline.datasets._rows import Wanted
from pipeline.datasets._tables import TableFiles, files, records
from pipeline.datasets._texts import paired, text_content
from pipeline.errors import UserError

KIND = None


class Settings(Columns, SecondColumn, TableFiles):
    """Keys of a table of text.

    Attributes:
        text_column: the column of the texts.
        template: makes one text from several columns, such as `"{premise} Question: {hypothesis}"`, instead of
            `text_column`.
    """

    text_column: str = "text"
    template: str | None = None

    @property
    def kind(self) -> Kind:
        """What the rows hold."""
        return self.paired("text")


def rows(settings: Settings) -> Iterator[Row]:
    """The rows of the table, in its order."""
    columns, content = paired(text_content(settings.text_column, settings.template), settings.second_column)
    yield from examples(settings, partial(records, settings), columns, content, len(files(settings.path)) > 1)


def texts(settings: Settings) -> Iterator[tuple[str, Any, str]]:
    """Only the texts or pairs of the table, one at a time: id, content, and why it cannot be read (empty if it can).

    An id is a cell, or the number of the row, from 1. A cell that is not text is a problem of its row.
    """
    columns, content = paired(text_content(settings.text_column, settings.template), settings.second_column)
    wanted = [*columns, *filter(None, [settings.id_column])]
    for number, record in enumerate(records(settings, Wanted(wanted, wanted, [])), start=1):
        id = str(number)
        try:
            if settings.id_column is not None:
                id = text(record, settings.id_column) or id
            found, _, problem = content(record)
            yield id, found, problem or ""
        except UserError as error:
            yield id, "", str(error)
