"""A table with a column of images: paths of files next to the table, or the encoded images themselves.

Paths may be in any table; encoded images in Parquet and Arrow, as bytes or as the package `datasets` keeps them.
Without an `id_column`, a row's id is its path, or the digest of its bytes.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.datasets import Kind, Row
from pipeline.datasets._columns import Columns, Content, SecondColumn, examples, new_rows
from pipeline.datasets._images import image_content
from pipeline.datasets._tables import TableFiles, files, is_table, records
from pipeline.datasets._texts import paired

KIND = None


class Settings(Columns, SecondColumn, TableFiles):
    """Keys of a table of images.

    Attributes:
        image_column: the column of the images.
        root: the folder that paths are relative to; the table's own if None.
    """

    image_column: str = "image"
    root: str | None = None

    @property
    def kind(self) -> Kind:
        """What the rows hold."""
        return self.paired("image")


def rows(settings: Settings) -> Iterator[Row]:
    """The rows of the table, in its order."""
    columns, content = _content(settings)
    several = len(files(settings.path)) > 1
    yield from examples(settings, partial(records, settings), columns, content, several)


def contents(settings: Settings) -> Iterator[tuple[str, Any, str]]:
    """Only the images of the table, or its pairs; see `new_rows`."""
    yield from new_rows(settings, partial(records, settings), *_content(settings))


def _content(settings: Settings) -> tuple[list[str], Content]:
    """The columns to read, and what makes an image or a pair of a record."""
    images = image_content(settings.image_column, Path(settings.root) if settings.root else None)
    return paired(images, settings.second_column)


__all__ = ["KIND", "Settings", "contents", "is_table", "rows"]
