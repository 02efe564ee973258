"""Arrays of pixels: `.npy`, HDF5 or Zarr with images [n, h, w], [n, h, w, 3] or [n, 3, h, w], and their labels.

Pixels are uint8, or uint16 for grey, and are not changed. An image's id is its number, from 0.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.datasets import Row
from pipeline.datasets._images import netpbm
from pipeline.errors import UserError
from pipeline.params import Settings as Section

KIND = "image"

BLOCK = 256
"""The number of images read at a time."""

SUFFIXES = (".npy", ".h5", ".hdf5", ".zarr")


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


def rows(settings: Settings) -> Iterator[Row]:
    """The images, in order."""
    path = Path(settings.path)
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: not an array of pixels; its name must end in {', '.join(SUFFIXES)}")
    if not path.exists():
        raise UserError(f"{path}: no such file; check dataset.source.path")
    try:
        images, labels = _open(path, settings)
        first, count = _channels_first(path, images, settings.channels_first), images.shape[0]
        if labels is not None and labels.shape != (count,):
            raise UserError(f"{path}: {count:,} images need as many labels, not an array of {list(labels.shape)}")
        for start in range(0, count, BLOCK):
            block = np.asarray(images[start : start + BLOCK])
            if first:
                block = np.moveaxis(block, 1, -1)
            if block.ndim == 4 and block.shape[-1] == 1:
                block = block[..., 0]
            names = [None] * len(block) if labels is None else map(_label, labels[start : start + BLOCK])
            for number, (pixels, label) in enumerate(zip(block, names, strict=True), start):
                yield Row(str(number), netpbm(pixels), label)
    except (OSError, ValueError, KeyError, EOFError) as error:
        what = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: cannot be read: {what[:200]}") from None


def _open(path: Path, settings: Settings) -> tuple[Any, Any]:
    """The arrays of images and of labels, to be read in blocks."""
    if path.suffix == ".npy":
        images = np.load(path, mmap_mode="r", allow_pickle=False)
        return images, None if settings.labels is None else np.load(Path(settings.labels), allow_pickle=False)
    if path.suffix == ".zarr":
        import zarr

        group: Any = zarr.open_group(path, mode="r")
    else:
        import h5py

        group = h5py.File(path, "r")
    for name in filter(None, (settings.images, settings.labels)):
        if name not in group or not hasattr(group[name], "dtype"):
            raise UserError(f"{path}: no array {name!r}; there are {', '.join(sorted(group)) or 'none'}")
    return group[settings.images], None if settings.labels is None else group[settings.labels][...]


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
