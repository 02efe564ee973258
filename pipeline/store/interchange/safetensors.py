"""safetensors: tensors `features`, `id_bytes`, `id_ends` and `digests`; the rest in the header's metadata.

The library checks a file's header; rows are then mapped directly, also bfloat16, which numpy does not have.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from pipeline.errors import UserError, listed
from pipeline.store.format import Head
from pipeline.store.interchange import Table, about_in
from pipeline.store.rows import RowIndex
from pipeline.store.values import decode, encode

KEY = "feature_store"
CODES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}
STORED = {"F16": "<f2", "BF16": "<u2", "F32": "<f4"}


def write(path: Path, table: Table) -> None:
    """Streams the features: no more than a block of them is in memory."""
    assert table.ids is not None and table.digests is not None
    index = RowIndex(table.ids, np.ascontiguousarray(table.digests))
    head = Head(table.shape, table.dtype)
    code = CODES[table.dtype]
    size = table.count * head.row_bytes
    header: dict[str, Any] = {"__metadata__": {KEY: json.dumps(table.about)}}
    header["features"] = {"dtype": code, "shape": [table.count, *table.shape], "data_offsets": [0, size]}
    small = {"id_ends": (index.id_ends.astype("<i8"), "I64"), "digests": (index.digests, "U8")}
    small["id_bytes"] = (index.id_bytes, "U8")
    at = size
    for name, (array, kind) in small.items():
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of eight bytes
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for start, stop in table.blocks():
            file.write(encode(table.read(start, stop), "features", head)["features"].tobytes())
        for array, _ in small.values():
            file.write(np.ascontiguousarray(array).tobytes())


def read(path: Path) -> Table:
    """Raises `UserError` if this is not a safetensors file, or has no one tensor of floats [rows, ...] to take."""
    try:
        with safe_open(path, framework="numpy") as file:
            names = list(file.keys())
            metadata = file.metadata() or {}
    except (SafetensorError, OSError):
        raise UserError(f"{path}: not a safetensors file, or damaged") from None
    with path.open("rb") as raw:
        size = int.from_bytes(raw.read(8), "little")
        header = json.loads(raw.read(size))
    name = "features" if "features" in names else names[0] if len(names) == 1 else None
    if name is None or header[name]["dtype"] not in STORED or len(header[name]["shape"]) < 1:
        raise UserError(f"{path}: no tensor `features` of float16, bfloat16 or float32; there are {listed(names)}")
    code, (count, *shape) = header[name]["dtype"], header[name]["shape"]

    def tensor(which: str, dtype: str) -> np.ndarray:
        offset = 8 + size + header[which]["data_offsets"][0]
        return np.memmap(path, dtype, "r", offset, tuple(header[which]["shape"]))

    dtype = {code: name for name, code in CODES.items()}[code]
    head = Head(tuple(shape), dtype)  # type: ignore[arg-type]
    features = tensor(name, STORED[code])
    about = about_in(metadata[KEY], path) if KEY in metadata else None
    ids = digests = None
    if about is not None:
        if missing := {"id_bytes", "id_ends", "digests"} - set(names):
            raise UserError(f"{path}: no tensor `{min(missing)}`; remove the metadata to import it without ids")
        index = RowIndex.of_arrays(tensor("id_bytes", "|u1"), tensor("id_ends", "<i8"), tensor("digests", "|u1"))
        ids, digests = list(index.names(0, len(index))), np.asarray(index.digests)

    def rows(start: int, stop: int) -> np.ndarray:
        return decode({"features": np.asarray(features[start:stop])}, "features", head)

    return Table(count, tuple(shape), head.dtype, rows, ids, digests, about)
