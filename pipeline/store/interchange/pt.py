"""The published script's `.pt`: a dict of the tensors `train` and `test`, rows in the order of its loaders.

Exported files also hold ids, digests and metadata, which that script ignores. Files are loaded with `weights_only`,
so a pickle cannot run code.
"""

import json
from pathlib import Path

import numpy as np
import torch

from pipeline.errors import UserError
from pipeline.files import patient
from pipeline.store.interchange import Table, about_in, refuse_inflated

PARTS = ("train", "test")


def write(path: Path, table: Table) -> None:
    """Holds all features in memory once, as the format requires."""
    assert table.ids is not None and table.digests is not None
    dtype = getattr(torch, table.dtype)
    features = torch.empty((table.count, *table.shape), dtype=dtype)
    for start, stop in table.blocks():
        features[start:stop] = torch.from_numpy(table.read(start, stop))
    about = dict(table.about or {})
    train = (about.get("parts") or {}).get("train", table.count)
    record = {
        "train": features[:train].clone(),
        "test": features[train:].clone(),
        "ids": list(table.ids),
        "digests": torch.from_numpy(np.array(table.digests)),
        "about": json.dumps(about),
    }
    with patient(path) as file:
        torch.save(record, file)


def read(path: Path) -> Table:
    """Raises `UserError` if the file is damaged, would run code, or holds no float tensors `train` or `test`."""
    refuse_inflated(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch raises any kind of error
        raise UserError(f"{path}: refused: damaged, or more than tensors, which might run code when loaded") from None
    parts = {name: found[name] for name in PARTS if isinstance(found, dict) and name in found}
    tensors = [part for part in parts.values() if isinstance(part, torch.Tensor) and _is_plain(part)]
    if sum(part.numel() * part.element_size() for part in tensors) > path.stat().st_size:
        raise UserError(f"{path}: tensors of more numbers than the file has: views; save clones of them")
    if not parts or len(tensors) < len(parts) or len({part.shape[1:] for part in tensors}) > 1:
        raise UserError(f"{path}: expected a dict of float tensors `train` and `test` [rows, ...] of one shape")
    features = torch.cat(tensors)
    if features.dtype == torch.float64:
        features = features.float()
    dtype = str(features.dtype).removeprefix("torch.")
    ids = [f"{name}:{row}" for name, part in parts.items() for row in range(len(part))]
    digests = about = None
    if "about" in found:
        about = about_in(found["about"], path)
        if not {"ids", "digests"} <= found.keys():
            raise UserError(f"{path}: no `ids` or no `digests`; remove `about` from the file to import it without")
        ids, digests = list(found["ids"]), found["digests"].numpy()

    def rows(start: int, stop: int) -> np.ndarray:
        part = features[start:stop]
        return (part.float() if part.dtype == torch.bfloat16 else part).numpy()

    return Table(len(features), tuple(features.shape[1:]), dtype, rows, ids, digests, about)  # type: ignore[arg-type]


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor is rows of floats in memory, of a kind that a store has."""
    kept = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    return tensor.ndim >= 1 and tensor.dtype in kept and tensor.layout == torch.strided and tensor.device.type == "cpu"
