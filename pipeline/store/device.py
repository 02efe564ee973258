"""Rows in a GPU's memory: for stores that fit there, steps do not wait for copies."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from pipeline.store.backends import Backend
from pipeline.store.format import Layout
from pipeline.store.order import batched, shuffled
from pipeline.store.reader import Reader, in_memory
from pipeline.store.rows import as_rows
from pipeline.store.values import arriving_dtype


class DeviceReader(Reader):
    """Rows on a device, as torch tensors. Imported only when a device is asked for: the store itself needs no torch.

    Row numbers may be a tensor on the device; they are then not checked, because that would wait for the device.
    """

    def __init__(self, store: Backend, layout: Layout, name: str, why: str, device: str):
        self.mode, self.why = "device", f"device: {why}"
        self._store, self._layout, self._name, self._device = store, layout, name, device
        self._head = layout.heads[name]
        self.shape = self._head.shape
        self.dim = int(np.prod(self.shape))
        self.dtype = arriving_dtype(self._head)
        self.rows_digest = layout.rows_digest
        self._open()

    def __len__(self) -> int:
        return self._layout.rows

    def __call__(self, rows: Any, out: Any = None) -> torch.Tensor:
        if not isinstance(rows, torch.Tensor):
            rows = torch.from_numpy(as_rows(rows, len(self))).to(self._device, non_blocking=True)
        found = self._arrays[self._name].index_select(0, rows)
        if self._head.dtype == "bfloat16":
            found = found.float()
        if self._head.dtype == "int8":
            found = found.float() * self._arrays[f"{self._name}.scale"].index_select(0, rows).unsqueeze(-1)
        if self._head.largest is not None:
            found = self._unpacked(found.float(), self._arrays[f"{self._name}.index"].index_select(0, rows).long())
        return found if out is None else out.copy_(found)

    def _unpacked(self, kept: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """As `largest.unpack`."""
        most, width = places.shape[1], self.shape[0]
        rest = kept[:, most:] - math.log(width - most)
        return rest.repeat(1, width).scatter_(1, places, kept[:, :most])

    def batches(self, size: int, rows: Any = None, seed: int = 0, drop_last: bool = False) -> Iterator[np.ndarray]:
        chosen = np.arange(len(self)) if rows is None else as_rows(rows, len(self))
        return batched(shuffled(chosen, seed), size, drop_last)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_arrays"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def _open(self) -> None:
        self._arrays = {}
        for array, values in in_memory(self._store, self._layout, self._name).items():
            there = torch.from_numpy(values).to(self._device)
            bits = array == self._name and self._head.dtype == "bfloat16"
            self._arrays[array] = there.view(torch.bfloat16) if bits else there
