"""Images of sources: encoded files as they are, and raw pixels as netpbm, whose bytes do not depend on a compressor."""

import io
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt

from pipeline import images
from pipeline.datasets import Location
from pipeline.datasets._columns import Content, digest, name
from pipeline.datasets._rows import TableRow
from pipeline.errors import UserError
from pipeline.files import read_regular
from pipeline.objects import ObjectPath, Place, ServiceError, is_remote, is_url, place

UNREAD = (
    *(".arw", ".cr2", ".cr3", ".dcm", ".dng", ".eps", ".heic", ".heif", ".hif", ".ico", ".jxl", ".nef", ".orf", ".psd"),
    *(".raf", ".rw2", ".svg", ".tga"),
)
"""Suffixes of images that are not supported."""

IMAGE_BYTES = 1 << 30
"""The largest file that is read as an image, in bytes."""

LONGEST_NAME = 255
"""Characters of a cell that is no path of a file, if there is no such file; file systems have no longer names."""

AS_TEXT = "no path, but perhaps an image as text, such as base64; write its bytes to Parquet, or name files"

BEGINNING = 1 << 16
"""Bytes at the start of an object that tell whether it is an image."""


Fetched = Callable[[str], tuple[bytes, str | None]]


def read_image(path: Place) -> tuple[bytes, str | None]:
    """The bytes of an image, or why it is not read. Raises `UserError` if it is not a regular file, such as a pipe."""
    if path.suffix.lower() in UNREAD and not begins_as_image(path):
        return b"", f"images of type {path.suffix.lower()} are not read; convert it to PNG or JPEG"
    try:
        if isinstance(path, ObjectPath):
            return path.read(most=IMAGE_BYTES), None
        return read_regular(path, IMAGE_BYTES), None
    except OSError as error:
        return b"", f"cannot be read: {error.strerror or 'no such object'}"


def begins_as_image(path: Place) -> bool:
    """Whether a file begins as an image does; its name does not matter."""
    if isinstance(path, ObjectPath):
        try:
            return images.is_image(io.BytesIO(path.read(0, BEGINNING)))
        except FileNotFoundError:
            return False
    return path.is_file() and images.is_image(path)


def netpbm(pixels: UInt[np.ndarray, "height width *channels"]) -> bytes:
    """Grey [h, w] of 8 or 16 bits, or RGB [h, w, 3] of 8, as a file of netpbm: a short header and the pixels."""
    height, width = pixels.shape[:2]
    magic = "P6" if pixels.ndim == 3 else "P5"
    white = 255 if pixels.dtype == np.uint8 else 65535
    return f"{magic} {width} {height} {white}\n".encode() + pixels.astype(pixels.dtype.newbyteorder(">")).tobytes()


def image_path(row: TableRow, column: str) -> str | bytes:
    """What a cell of images holds: encoded bytes, or a path, which may be empty.

    Args:
        row: a record.
        column: the column of images: encoded bytes, a path, or a struct of both as the package `datasets` writes it.
    """
    cell = row.cells.get(column)
    if isinstance(cell, dict):
        cell = cell.get("path") if cell.get("bytes") is None else cell["bytes"]
    if isinstance(cell, bytes):
        return cell
    return (name(row._replace(cells={column: cell}), column) or "").strip()


def image_location(column: str, root: Place | None) -> Callable[[TableRow], Location | None]:
    """A function that says where the image of a row lies; for the arguments see `image_content`."""

    def location(row: TableRow) -> Location | None:
        path = image_path(row, column)
        if isinstance(path, bytes) or not path:
            return None
        return Location(path if is_url(path) else str(_beside(row, root) / path))

    return location


def image_content(column: str, root: Place | None, fetched: Fetched | None = None) -> tuple[list[str], Content]:
    """The columns to read, and a function that gives the image of a row.

    Args:
        column: the column of images; see `image_path`.
        root: the folder that paths are relative to; the table's own if None.
        fetched: gives the content of a URL, or why there is none. None: URLs are not read.
    """

    def content(row: TableRow) -> tuple[bytes, str, str | None]:
        path = image_path(row, column)
        if isinstance(path, bytes):
            return path, digest(path), None
        if not path:
            return b"", "no image", f"nothing in column {column!r}"
        if is_url(path) and not is_remote(path):
            found, problem = fetched(path) if fetched else (b"", "a URL, which only the family image_table reads")
            return found, path, problem
        try:
            found, problem = read_image(place(path) if is_url(path) else _beside(row, root) / path)
        except ServiceError:  # no fault of the row
            raise
        except UserError as error:
            found, problem = b"", str(error)
        if problem and (path.startswith("data:") or len(path) > LONGEST_NAME):
            return b"", digest(path.encode()), AS_TEXT
        return found, path, problem

    return [column], content


def _beside(row: TableRow, root: Place | None) -> Place:
    """The folder that the paths of a row are relative to."""
    return root or place(row.file).parent
