"""HDF5: `features` [n, *shape], `ids` as UTF-8 strings, `digests`; and the files that pathology tools write.

Those hold one slide each: `features` [n, d] or [1, n, d], and the position of each patch in `coords` [n, 2], which
becomes the id of its row.
"""

import json
import math
from pathlib import Path

import h5py
import numpy as np

from pipeline.errors import UserError
from pipeline.files import refuse_bomb
from pipeline.store.interchange import ROW_BYTES, Table, about_in, dtype_in

ATTRIBUTE = "feature_store"
BLOCK_TEXTS = 256


def write(path: Path, table: Table) -> None:
    """One chunk per block of rows, so that slices read little."""
    with h5py.File(path, "w") as file:
        dtype = np.float16 if table.dtype == "float16" else np.float32
        chunk = (max(1, min(table.count, 256)), *table.shape)
        features = file.create_dataset("features", (table.count, *table.shape), dtype, chunks=chunk)
        for start, stop in table.blocks():
            features[start:stop] = table.read(start, stop)
        file.create_dataset("ids", data=list(table.ids or ()), dtype=h5py.string_dtype())
        file.create_dataset("digests", data=table.digests)
        file.attrs[ATTRIBUTE] = json.dumps(table.about)


def read(path: Path) -> Table:
    """Raises `UserError` if this is no HDF5 file, or `features` is missing or not an array of floats."""
    try:
        file = h5py.File(path, "r")
    except OSError:
        raise UserError(f"{path}: not an HDF5 file, or damaged") from None
    for name in ("features", "ids", "digests", "coords"):
        _refuse_other_files(path, file, name)
    features = file.get("features")
    if not isinstance(features, h5py.Dataset) or features.ndim < 1 or features.dtype.kind != "f":
        raise UserError(f"{path}: no dataset `features` of floats [rows, ...]; there are {', '.join(file) or 'none'}")
    text = file.attrs.get(ATTRIBUTE)
    about = about_in(text, path) if isinstance(text, str) else None
    logical, kept = features.size * features.dtype.itemsize, features.id.get_storage_size()
    if kept == 0 or (kept < logical and not features.id.get_create_plist().get_nfilters()):
        raise UserError(f"{path}: `features` has {kept:,} bytes of {logical:,}: not all of it was written")
    refuse_bomb(path, logical)
    if features.chunks is not None and math.prod(features.chunks) * features.dtype.itemsize > ROW_BYTES:
        raise UserError(f"{path}: chunks of `features` are larger than {ROW_BYTES >> 30} GiB; save it in smaller ones")
    for name in ("ids", "coords"):
        if name in file and not isinstance(file[name], h5py.Dataset):
            raise UserError(f"{path}: `{name}` is a group; rename it, or make it an array of a value for each row")
    ids = None
    if "ids" in file:
        if h5py.check_string_dtype(file["ids"].dtype) is None or file["ids"].ndim != 1:
            raise UserError(f"{path}: `ids` are not texts [rows] but {file['ids'].dtype}; save them as UTF-8 strings")
        ids = _texts(path, file["ids"])
    digests = None
    if about is not None and "digests" in file:
        refuse_bomb(path, file["digests"].size * file["digests"].dtype.itemsize)
        digests = np.asarray(file["digests"][:])
    # Some tools keep the batch dimension of their model.
    slide = about is None and features.ndim == 3 and features.shape[0] == 1
    count, *shape = features.shape[1:] if slide else features.shape
    if ids is None and "coords" in file:
        if file["coords"].ndim < 2 or file["coords"].dtype.kind not in "iuf":
            raise UserError(f"{path}: `coords` is not an array of numbers [rows, 2]; rename it")
        refuse_bomb(path, file["coords"].size * file["coords"].dtype.itemsize)
        found = np.asarray(file["coords"][:])
        if not np.isfinite(found).all():
            raise UserError(f"{path}: `coords` holds NaN or infinity; rename it")
        places = found.reshape(-1, found.shape[-1]).astype(np.int64)
        ids = [",".join(map(str, place)) for place in places.tolist()]
        if len(ids) != count:
            raise UserError(f"{path}: {count:,} features, but {len(ids):,} coords")

    def rows(start: int, stop: int) -> np.ndarray:
        return np.asarray(features[0, start:stop] if slide else features[start:stop])

    dtype = dtype_in(about, features.dtype)
    return Table(int(count), tuple(map(int, shape)), dtype, rows, ids, digests, about)


def _texts(path: Path, array: h5py.Dataset) -> list[str]:
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


def _refuse_other_files(path: Path, file: h5py.File, name: str) -> None:
    """Refuse datasets with bytes of other files: external links, external storage and virtual datasets.

    A link inside the file may lead to an external one, so all links are refused.
    """
    link = file.get(name, getlink=True)
    if link is None:
        return
    found = file[name] if isinstance(link, h5py.HardLink) else None
    elsewhere = isinstance(found, h5py.Dataset) and (found.external or found.is_virtual)
    if found is None or elsewhere:
        raise UserError(f"{path}: `{name}` is a link, or its values are in another file; write them into this one")
