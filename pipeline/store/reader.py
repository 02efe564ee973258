"""Reading rows of one head, and the choice of where they are read from."""

from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.store.format import Grid, Head
from pipeline.store.mapping import Mapping
from pipeline.store.rows import as_rows
from pipeline.store.shards import load
from pipeline.store.values import arriving_dtype, decode

Mode = Literal["mapped", "resident"]


class Reader:
    """Gathers rows of one head. Read-only, safe for any number of threads and processes.

    Attributes:
        mode: where rows are read from.
        why: the mode and the reason for it, one line for the user.
        shape: of one row.
        dim: how many numbers a row has.
        dtype: that rows arrive in: float16 or float32 (bfloat16 and int8 arrive as float32).
    """

    def __init__(self, folder: Path, name: str, head: Head, grids: dict[str, Grid], mode: Mode, why: str):
        self._folder, self._name, self._head, self._grids = folder, name, head, grids
        self.mode, self.why = mode, f"{mode}: {why}"
        self.shape = head.shape
        self.dim = int(np.prod(head.shape))
        self.dtype = arriving_dtype(head)
        self._rows = next(iter(grids.values())).rows
        self._arrays = {array: self._open(array, grid) for array, grid in grids.items()}
        # float16 and float32 arrive as they are stored: one gather, straight into its destination.
        self._direct = head.dtype in ("float16", "float32")

    def __len__(self) -> int:
        return self._rows

    def __call__(self, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Rows by number, in the order given, repeats allowed.

        Args:
            rows: whole numbers in 0 .. len - 1 [n].
            out: where to put them, C-contiguous, of the reader's dtype [n, *shape]; new memory if None.

        Returns:
            `out`, or a fresh array [n, *shape].

        Raises:
            IndexError: a row is out of range.
        """
        rows = as_rows(rows, self._rows)
        if out is not None and (out.shape != (len(rows), *self.shape) or out.dtype != self.dtype):
            raise ValueError(f"out must be {self.dtype} {(len(rows), *self.shape)}, found {out.dtype} {out.shape}")
        if self._direct:
            return self._gather(self._name, rows, out)
        return decode({array: self._gather(array, rows, None) for array in self._arrays}, self._name, self._head, out)

    def _gather(self, array: str, rows: np.ndarray, out: np.ndarray | None) -> np.ndarray:
        source = self._arrays[array]
        if isinstance(source, Mapping):
            rows, source = source.places(rows), source.array
        # Rows were checked; `clip` then only means that numpy writes into `out` without a buffer of its own.
        return np.take(source, rows, axis=0, out=out, mode="clip")

    def _open(self, array: str, grid: Grid) -> Mapping | np.ndarray:
        folder = self._folder / array
        if self.mode == "mapped" or grid.codec == "raw":
            return Mapping(folder, grid)
        return np.concatenate([load(folder, grid, shard) for shard in range(grid.shards)])
