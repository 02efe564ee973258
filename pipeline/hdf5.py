"""HDF5 files from elsewhere: values of their own alone, and no more of them than their bytes are good for.

A dataset may lead into other files, in three ways, and a few bytes may claim any number of values. Both show before
anything is read.
"""

import math
from pathlib import Path

import h5py

from pipeline.errors import UserError
from pipeline.files import refuse_bomb

CHUNK_BYTES = 1 << 30
"""The most bytes of a chunk, which is decompressed whole."""

BLOCK_TEXTS = 256


def opened(path: Path) -> h5py.File:
    """A file, which must be known to be one and no pipe. Raises `UserError` if it is not HDF5."""
    try:
        return h5py.File(path, "r")
    except OSError:
        raise UserError(f"{path}: not an HDF5 file, or damaged") from None


def refuse_other_files(path: Path, file: h5py.File, name: str) -> None:
    """Refuse datasets with bytes of other files: external links, external storage and virtual datasets.

    A link inside the file may lead to an external one, so all links are refused.
    """
    inside = file
    for part in name.strip("/").split("/"):
        link = inside.get(part, getlink=True) if isinstance(inside, h5py.Group) else None
        if link is None:
            return
        inside = inside[part] if isinstance(link, h5py.HardLink) else None
        elsewhere = isinstance(inside, h5py.Dataset) and (inside.external or inside.is_virtual)
        if inside is None or elsewhere:
            raise UserError(f"{path}: `{name}` is a link, or its values are in another file; write them into this one")


def refuse_claims(path: Path, name: str, array: h5py.Dataset) -> None:
    """Refuse values that were never written, or are too many for the file, and chunks that are too large."""
    logical, kept = array.size * array.dtype.itemsize, array.id.get_storage_size()
    if kept == 0 or (kept < logical and not array.id.get_create_plist().get_nfilters()):
        raise UserError(f"{path}: `{name}` has {kept:,} bytes of {logical:,}: not all of it was written")
    refuse_bomb(path, logical)
    if array.chunks is not None and math.prod(array.chunks) * array.dtype.itemsize > CHUNK_BYTES:
        raise UserError(f"{path}: chunks of `{name}` are larger than {CHUNK_BYTES >> 30} GiB; save it in smaller ones")


def texts(path: Path, array: h5py.Dataset) -> list[str]:
    """All texts of an array, a few at a time: a compressed array of a kilobyte may repeat one a million times."""
    found: list[str] = []
    total = 0
    step = max(1, BLOCK_TEXTS // max(1, array.dtype.itemsize // 16))
    for start in range(0, len(array), step):
        block = array.asstr()[start : start + step].tolist()
        total += sum(map(len, block))
        refuse_bomb(path, total)
        found += block
    return found
