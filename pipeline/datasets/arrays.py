"""Arrays of pixels: `.npy`, HDF5 or Zarr with images [n, h, w], [n, h, w, 3] or [n, 3, h, w], and their labels.

Pixels are uint8, or uint16 for grey, and are not changed. An image's id is its number, from 0.
"""

import math
import os
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline import hdf5
from pipeline.datasets import Passed, Row
from pipeline.datasets._images import IMAGE_BYTES, netpbm
from pipeline.errors import UserError, count
from pipeline.files import TEXT_BYTES, folder_size, open_regular, refuse_bomb, refuse_url
from pipeline.params import Settings as Section

KIND = "image"

BLOCK = 256
"""The number of images read at a time."""

BLOCK_BYTES = 64 << 20
"""The same in bytes: fewer, where images are large."""


class Settings(Section):
    """Keys of arrays of pixels.

    Attributes:
        path: the file, or the folder of a Zarr; its name ends in .npy, .h5, .hdf5 or .zarr.
        images: the name of the array of images in HDF5 or Zarr.
        labels: the name of the array of labels there; for .npy, another .npy file. Numbers, or fixed-length texts.
            None: no image has a label.
        channels_first: whether images are [3, h, w]. None: found from the shape, unless it is ambiguous.
    """

    path: str
    images: str = "images"
    labels: str | None = None
    channels_first: bool | None = None


def rows(settings: Settings, passed: Passed | None = None) -> Iterator[Row]:
    """The images, in order."""
    passed = passed or Passed()
    path = Path(settings.path)
    if path.suffix not in OPENERS:
        raise UserError(f"{path}: not an array of pixels; its name must end in {', '.join(OPENERS)}")
    begin: int | None = 0
    if not path.is_dir():  # of a folder, nothing says whether it has changed
        if path.suffix == ".npy" and settings.labels is not None:
            passed.first_row(Path(settings.labels))
        begin = passed.first_row(path)
    if begin is None:
        return
    try:
        images, labels = OPENERS[path.suffix](path, settings)
        first, number = _channels_first(path, images, settings.channels_first), images.shape[0]
        if labels is not None and labels.shape != (number,):
            raise UserError(
                f"{path}: {count(number, 'image')} and labels of shape {list(labels.shape)}; give each one label"
            )
        names: Any = repeat(None, number) if labels is None else map(_label, labels[begin:])
        size = math.prod(images.shape[1:]) * images.dtype.itemsize
        if size > IMAGE_BYTES:
            raise UserError(f"{path}: an image of {size:,} bytes, and none has more than {IMAGE_BYTES:,}")
        step = max(1, min(BLOCK, BLOCK_BYTES // max(1, size)))
        for start in range(begin, number, step):
            block = np.asarray(images[start : start + step])
            if first:
                block = np.moveaxis(block, 1, -1)
            if block.ndim == 4 and block.shape[-1] == 1:
                block = block[..., 0]
            for at, pixels in enumerate(block, start):
                yield Row(str(at), netpbm(pixels), next(names), origin=str(path))
    except (UserError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise UserError(f"{error.filename or path}: no such file; check dataset.source") from None
    except Exception as error:  # the libraries of the formats raise any kind of error
        what = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: cannot be read: {what[:200]}") from None


def _npy(path: Path, settings: Settings) -> tuple[Any, Any]:
    """The arrays of images and of labels, to be read in blocks; the same for the other formats."""
    return _mapped(path), None if settings.labels is None else _labels(path, _mapped(Path(settings.labels)))


def _mapped(path: Path) -> np.ndarray:
    """The array of an .npy, of which the file must have every byte."""
    os.close(open_regular(path))
    found = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(found, np.ndarray):
        found.close()
        raise UserError(f"{path}: an archive of numpy, and a single array is needed; save it by `numpy.save`")
    return found


def _hdf5(path: Path, settings: Settings) -> tuple[Any, Any]:
    os.close(open_regular(path))
    file = hdf5.opened(path)

    def array(name: str) -> h5py.Dataset:
        hdf5.refuse_other_files(path, file, name)
        found = file.get(name)
        if not isinstance(found, h5py.Dataset):
            raise _missing(path, name, file)
        hdf5.refuse_claims(path, name, found)
        return found

    images = array(settings.images)
    if settings.labels is None:
        return images, None
    labels = array(settings.labels)
    if h5py.check_string_dtype(labels.dtype) is not None and labels.ndim == 1:
        return images, np.array(hdf5.texts(path, labels), object)
    return images, _labels(path, labels)


def _zarr(path: Path, settings: Settings) -> tuple[Any, Any]:
    import zarr

    if not path.exists():
        refuse_url(path)
    size = folder_size(path)  # and no pipe is in it
    for name in METADATA:
        _refuse_larger(path, name, TEXT_BYTES)
    group: Any = zarr.open_group(path, mode="r")

    def array(name: str) -> Any:
        found = group.get(name)
        if not isinstance(found, zarr.Array):
            raise _missing(path, name, group)
        chunk = math.prod(found.shards or found.chunks) * found.dtype.itemsize
        refuse_bomb(path, max(found.nbytes, chunk), size)
        # What compresses badly grows a little, and texts of any length are larger than their places in the array.
        _refuse_larger(path / found.path, "*", 2 * chunk + TEXT_BYTES)
        return found

    return array(settings.images), None if settings.labels is None else _labels(path, array(settings.labels))


METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")


def _refuse_larger(folder: Path, name: str, most: int) -> None:
    """Refuse a folder with a file of a name that has more bytes than such a file can have: they would all be read."""
    for file in folder.rglob(name):
        if (size := file.stat().st_size) > most:
            raise UserError(f"{file}: has {size:,} bytes, and no such file has more than {most:,}; delete it")


OPENERS: dict[str, Callable[[Path, Settings], tuple[Any, Any]]] = {
    ".npy": _npy,
    ".h5": _hdf5,
    ".hdf5": _hdf5,
    ".zarr": _zarr,
}


def _missing(path: Path, name: str, group: Any) -> UserError:
    return UserError(f"{path}: no array {name!r}; there are {', '.join(sorted(group)) or 'none'}")


def _labels(path: Path, labels: Any) -> Any:
    """An array of labels. Raises `UserError` if they are neither numbers nor texts."""
    if labels.dtype.kind not in "biufSUT":
        raise UserError(f"{path}: labels are numbers or texts, not {labels.dtype}")
    return labels


def _channels_first(path: Path, images: Any, asked: bool | None) -> bool:
    """Whether channels come before height and width. Raises `UserError` if it is ambiguous, or these are not images."""
    shape, dtype = tuple(images.shape), np.dtype(images.dtype)
    colour = len(shape) == 4 and (shape[1] == 3 or shape[3] == 3)
    if len(shape) not in (3, 4) or (len(shape) == 4 and not colour and 1 not in (shape[1], shape[3])):
        raise UserError(f"{path}: images are [n, h, w], [n, h, w, 3] or [n, 3, h, w], not {list(shape)}")
    if dtype != np.uint8 and (dtype != np.uint16 or colour):
        raise UserError(
            f"{path}: pixels are uint8, or uint16 for grey, not {dtype}; scale them to 0-255, and save them as uint8"
        )
    if len(shape) == 3:
        return False
    before, after = shape[1] in (1, 3), shape[3] in (1, 3)
    if asked is None and before and after:
        raise UserError(
            f"{path}: images of shape {list(shape[1:])}: set dataset.source.channels_first to true or false"
        )
    if asked is not None and not (before if asked else after):
        raise UserError(f"{path}: dataset.source.channels_first: {str(asked).lower()} does not fit {list(shape[1:])}")
    return before if asked is None else asked


def _label(value: Any) -> str | None:
    """A label as text; NaN and the empty text mean no label."""
    text = value.decode() if isinstance(value, bytes) else str(value)
    return None if not text.strip() or (isinstance(value, np.floating) and np.isnan(value)) else text
