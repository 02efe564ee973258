"""A table with a column of text: CSV, TSV, JSON, Parquet and others, by the file's name.

Ids and labels are read as the text they are: "007" stays "007".
"""

from collections.abc import Iterator
from functools import partial

from pipeline.datasets import Row
from pipeline.datasets._columns import Columns, examples
from pipeline.datasets._tables import TableFiles, files, records
from pipeline.datasets._texts import text_content

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
    columns, content = text_content(settings.text_column, settings.template)
    several = len(files(settings.path)) > 1
    yield from examples(settings, partial(records, settings), columns, content, several)
