"""HDF5: `features` [n, *shape], `ids` as UTF-8 strings, `digests`; and the files that pathology tools write.

Those hold one slide each: `features` [n, d] or [1, n, d], and the position of each patch in `coords` [n, 2], which
becomes the id of its row.
"""

import json
from pathlib import Path

import h5py
import numpy as np

from pipeline import files, hdf5
from pipeline.errors import UserError, count, listed
from pipeline.store.interchange import Table, about_in, dtype_in

ATTRIBUTE = "feature_store"


def write(path: Path, table: Table) -> None:
    """One chunk per block of rows, so that slices read little."""
    with files.patient(path) as kept, h5py.File(kept, "w") as file:
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
    file = hdf5.opened(path)
    for name in ("features", "ids", "digests", "coords"):
        hdf5.refuse_other_files(path, file, name)
    features = file.get("features")
    if not isinstance(features, h5py.Dataset) or features.ndim < 1 or features.dtype.kind != "f":
        raise UserError(f"{path}: no dataset `features` of floats [rows, ...]; there are {listed([*file])}")
    about = about_in(file.attrs[ATTRIBUTE], path) if ATTRIBUTE in file.attrs else None
    if about and (missing := {"ids", "digests"} - set(file)):
        raise UserError(f"{path}: no `{min(missing)}`; remove the attribute `{ATTRIBUTE}` to import it without")
    hdf5.refuse_claims(path, "features", features)
    for name in ("ids", "coords", "digests"):
        if name not in file or (name == "digests" and not about):
            continue
        if not isinstance(file[name], h5py.Dataset):
            raise UserError(f"{path}: `{name}` is a group; rename it, or make it an array of a value for each row")
        if file[name].size:
            hdf5.refuse_claims(path, name, file[name])
    ids = None
    if "ids" in file:
        if h5py.check_string_dtype(file["ids"].dtype) is None or file["ids"].ndim != 1:
            raise UserError(f"{path}: `ids` are not texts [rows] but {file['ids'].dtype}; save them as UTF-8 strings")
        ids = hdf5.texts(path, file["ids"])
    digests = np.asarray(file["digests"][:]) if about else None
    # Some tools keep the batch dimension of their model.
    slide = about is None and features.ndim == 3 and features.shape[0] == 1
    total, *shape = features.shape[1:] if slide else features.shape
    if ids is None and "coords" in file:
        if file["coords"].ndim < 2 or file["coords"].dtype.kind not in "iuf":
            raise UserError(f"{path}: `coords` is not an array of numbers [rows, 2]; rename it")
        found = np.asarray(file["coords"][:])
        if not np.isfinite(found).all():
            raise UserError(f"{path}: `coords` holds NaN or infinity; rename it")
        places = found.reshape(-1, found.shape[-1]).astype(np.int64)
        ids = [",".join(map(str, place)) for place in places.tolist()]
        if len(ids) != total:
            raise UserError(f"{path}: {count(total, 'feature')}, but {count(len(ids), 'coord')}")

    def rows(start: int, stop: int) -> np.ndarray:
        return np.asarray(features[0, start:stop] if slide else features[start:stop])

    dtype = dtype_in(about, features.dtype)
    return Table(int(total), tuple(map(int, shape)), dtype, rows, ids, digests, about)
