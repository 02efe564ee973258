"""A table with a column of images: paths of files next to the table, URLs, or the encoded images themselves.

Paths and URLs may be in any table; encoded images in Parquet and Arrow, as bytes or as the package `datasets` keeps
them. Without an `id_column`, a row's id is its path or URL, or the digest of its bytes.

Images at URLs are fetched once, 16 at a time, over http or https, and kept in `.aft/downloads/`; one that cannot be
fetched is an unreadable row. Images of more than 64 MiB are refused. Those on object storage, also next to a table
that is there, are read each time, 32 at a time, and not kept.
"""

from collections.abc import Iterator
from functools import partial

from pydantic import PrivateAttr

from pipeline.datasets import Kind, NewRows, Passed, Row
from pipeline.datasets._columns import Columns, Content, SecondColumn, examples, new_rows
from pipeline.datasets._downloads import Downloads
from pipeline.datasets._images import image_content, image_location, image_path
from pipeline.datasets._rows import TableBlock, TableRow, Wanted, blocks_of
from pipeline.datasets._tables import TableFiles, files, is_table, records
from pipeline.datasets._texts import paired
from pipeline.objects import AT_ONCE, Place, is_remote, is_url, place
from pipeline.project import Project

KIND = None


class Settings(Columns, SecondColumn, TableFiles):
    """Keys of a table of images.

    Attributes:
        image_column: the column of the images.
        root: the folder that paths are relative to, also on object storage; the table's own if None.
    """

    image_column: str = "image"
    root: str | None = None

    # Both passes over the rows share it, so that they agree on what cannot be fetched.
    _downloads: Downloads = PrivateAttr(default_factory=lambda: Downloads(Project().downloads))

    @property
    def kind(self) -> Kind:
        """What the rows hold."""
        return self.paired("image")


def rows(settings: Settings, passed: Passed | None = None) -> Iterator[Row]:
    """The rows of the table, in its order."""
    passed = passed or Passed()
    columns, content = _content(settings)
    several = len(files(settings.path)) > 1
    location = image_location(settings.image_column, _root(settings))
    records = partial(_records, settings, passed=passed)
    yield from examples(settings, records, columns, content, several, location, AT_ONCE, passed)


def contents(settings: Settings, size: int) -> Iterator[NewRows]:
    """Only the images of the table, or its pairs, in blocks of at most `size`; see `new_rows`."""

    def blocks(wanted: Wanted) -> Iterator[TableBlock]:
        return blocks_of(_records(settings, wanted), wanted.columns, size)

    yield from new_rows(settings, blocks, *_content(settings))


def _content(settings: Settings) -> tuple[list[str], Content]:
    """The columns to read, and what makes an image or a pair of a record."""
    images = image_content(settings.image_column, _root(settings), settings._downloads.read)
    return paired(images, settings.second_column)


def _root(settings: Settings) -> Place | None:
    return place(settings.root) if settings.root else None


def _records(settings: Settings, wanted: Wanted, passed: Passed | None = None) -> Iterator[TableRow]:
    """The records of the table; when the first has a URL, the images at all URLs are fetched before."""
    fetched = False
    for record in records(settings, wanted, passed):
        if not fetched and _url(record, settings.image_column):
            settings._downloads.fetch(lambda: _urls(settings))
            fetched = True
        yield record


def _urls(settings: Settings) -> Iterator[str]:
    column = [settings.image_column]
    for record in records(settings, Wanted(column, column, [])):
        if url := _url(record, settings.image_column):
            yield url


def _url(record: TableRow, column: str) -> str | None:
    path = image_path(record, column)
    return path if isinstance(path, str) and is_url(path) and not is_remote(path) else None


__all__ = ["KIND", "Settings", "contents", "is_table", "rows"]
