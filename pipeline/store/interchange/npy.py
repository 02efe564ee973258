"""npy: the array alone, which numpy can map; ids and metadata in `<name>.rows.npz`."""

import json
import zipfile
from pathlib import Path

import numpy as np

from pipeline.checksum import file_checksum
from pipeline.errors import UserError
from pipeline.files import file_exists, replacing
from pipeline.store.interchange import Table, about_in, dtype_in, refuse_inflated
from pipeline.store.rows import RowIndex


def rows_file(path: Path) -> Path:
    """The file with the ids."""
    return path.with_name(path.name.removesuffix(".npy") + ".rows.npz")


def write(path: Path, table: Table) -> None:
    """The ids are written last, with the array's digest, so that they cannot be used with another array."""
    assert table.ids is not None and table.digests is not None
    dtype = np.dtype(np.float16 if table.dtype == "float16" else np.float32)
    array = np.lib.format.open_memmap(path, "w+", dtype, (table.count, *table.shape))
    for start, stop in table.blocks():
        array[start:stop] = table.read(start, stop)
    array.flush()
    index = RowIndex(table.ids, np.ascontiguousarray(table.digests))
    about = np.frombuffer(json.dumps({**(table.about or {}), "array": file_checksum(path)}).encode(), np.uint8)
    with replacing(rows_file(path)) as file:
        np.savez(file, id_bytes=index.id_bytes, id_ends=index.id_ends, digests=index.digests, about=about)


def read(path: Path) -> Table:
    """Raises `UserError` if this is not an npy file of floats [rows, ...], or its ids are those of another."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError):
        raise UserError(f"{path}: not an npy file of numbers, or damaged") from None
    if not isinstance(array, np.memmap) or array.ndim < 1 or array.dtype.kind != "f":
        raise UserError(f"{path}: features are floats [rows, ...], this is something else")
    if path.stat().st_size != array.offset + array.nbytes:
        raise UserError(f"{path}: bytes after those of its array, or too few; save one array, again")
    ids = digests = about = None
    if file_exists(rows_file(path)):
        try:
            refuse_inflated(rows_file(path))
            with np.load(rows_file(path), allow_pickle=False) as found:
                index = RowIndex.of_arrays(found["id_bytes"], found["id_ends"], found["digests"])
                about = about_in(found["about"].tobytes(), rows_file(path))
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile):
            raise UserError(f"{rows_file(path)}: damaged; delete it to import {path.name} without ids") from None
        ids, digests = list(index.names(0, len(index))), index.digests
        if about.get("array") != file_checksum(path):
            raise UserError(f"{rows_file(path)}: the ids of another array than {path.name}; delete it or export again")
    rows = lambda start, stop: np.asarray(array[start:stop])  # noqa: E731
    return Table(len(array), array.shape[1:], dtype_in(about, array.dtype), rows, ids, digests, about)
