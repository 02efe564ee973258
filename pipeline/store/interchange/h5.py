"""HDF5: `features` [n, *shape], `ids` as UTF-8 strings, `digests`; and the files that pathology tools write.

Those hold one slide each: `features` [n, d] or [1, n, d], and where each patch is in `coords` [n, 2], which then names
its row.
"""

import json
from pathlib import Path

import h5py
import numpy as np

from pipeline.errors import UserError
from pipeline.store.interchange import Table, dtype_in

ATTRIBUTE = "feature_store"


def write(path: Path, table: Table) -> None:
    """One chunk a block of rows, so that slices read little."""
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
    features = file.get("features")
    if not isinstance(features, h5py.Dataset) or features.ndim < 1 or features.dtype.kind != "f":
        raise UserError(f"{path}: no dataset `features` of floats [rows, ...]; there are {', '.join(file) or 'none'}")
    text = file.attrs.get(ATTRIBUTE)
    about = json.loads(text) if isinstance(text, str) else None
    ids = [str(name) for name in file["ids"].asstr()[:]] if "ids" in file else None
    digests = np.asarray(file["digests"][:]) if about is not None and "digests" in file else None
    # Some tools keep the batch of one that a slide is for their models.
    slide = about is None and features.ndim == 3 and features.shape[0] == 1
    count, *shape = features.shape[1:] if slide else features.shape
    if ids is None and "coords" in file:
        places = np.asarray(file["coords"][:]).reshape(-1, file["coords"].shape[-1]).astype(np.int64)
        ids = [",".join(map(str, place)) for place in places.tolist()]
        if len(ids) != count:
            raise UserError(f"{path}: {count:,} features, but {len(ids):,} coords")

    def rows(start: int, stop: int) -> np.ndarray:
        return np.asarray(features[0, start:stop] if slide else features[start:stop])

    dtype = dtype_in(about, features.dtype)
    return Table(int(count), tuple(map(int, shape)), dtype, rows, ids, digests, about)
