"""A table with a column of text: CSV, TSV, JSON, Parquet and others, by the file's name.

Ids and labels are read as the text they are: "007" stays "007".
"""

from collections.abc import Iterator
from functools import partial

from pipeline.datasets import Kind, NewRows, Passed, Row
from pipeline.datasets._columns import Columns, SecondColumn, examples, new_rows
from pipeline.datasets._tables import TableFiles, blocks, files, records
from pipeline.datasets._texts import paired, text_content

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


def rows(settings: Settings, passed: Passed | None = None) -> Iterator[Row]:
    """The rows of the table, in its order."""
    passed = passed or Passed()
    columns, content = paired(text_content(settings.text_column, settings.template), settings.second_column)
    several = len(files(settings.path)) > 1
    yield from examples(settings, partial(records, settings, passed=passed), columns, content, several, passed=passed)


def contents(settings: Settings, size: int) -> Iterator[NewRows]:
    """Only the texts or pairs of the table, in blocks of at most `size`; see `new_rows`."""
    columns, content = paired(text_content(settings.text_column, settings.template), settings.second_column)
    as_it_is = settings.template is settings.second_column is None
    yield from new_rows(settings, partial(blocks, settings, size=size), columns, content, as_it_is)
