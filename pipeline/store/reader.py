"""Reading rows of one head, and of several together."""

import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator
from collections.abc import Mapping as Named
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline.errors import UserError
from pipeline.locks import Lock
from pipeline.store.backends import Backend
from pipeline.store.format import Layout, Span
from pipeline.store.mapping import Mapping
from pipeline.store.order import batched, rows_of_block, shuffled, windows
from pipeline.store.rows import as_rows
from pipeline.store.shards import checked, resolved_codec, unpacked
from pipeline.store.values import arriving_dtype, decode
from pipeline.store.windows import VerifiedShards, Windows
from pipeline.verified import VerifiedFiles, verifying

Mode = Literal["auto", "mapped", "window", "resident", "cache", "device"]

WINDOW_BYTES = 256 << 20


class Reader(ABC):
    """Reads rows of one head. Read-only; safe for any number of threads and processes.

    It can be pickled; a copy opens its files again.

    Attributes:
        mode: where rows are read from.
        why: the mode and the reason for it, one line for the user.
        shape: of one row.
        dim: numbers in a row.
        dtype: of the returned rows: float16 or float32 (bfloat16, int8 and largest values become float32).
        rows_digest: which rows these are; equal for readers whose row numbers mean the same rows.
    """

    mode: Mode
    why: str
    shape: tuple[int, ...]
    dim: int
    dtype: np.dtype
    rows_digest: str
    _files: VerifiedFiles | VerifiedShards | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __call__(self, rows: Any, out: Any = None) -> Any:
        """Rows by number, in the order given, repeats allowed.

        Args:
            rows: whole numbers in 0 .. len - 1 [n].
            out: the destination, contiguous, of the reader's dtype [n, *shape]; new memory if None.

        Returns:
            `out`, or a new array [n, *shape]: numpy, or a torch tensor on the device in the mode `device`.

        Raises:
            IndexError: a row is out of range.
            ValueError: `out` has another shape or dtype.
        """

    @abstractmethod
    def batches(self, size: int, rows: Any = None, seed: int = 0, drop_last: bool = False) -> Iterator[np.ndarray]:
        """One epoch: batches of row numbers with every row once, in an order that suits this reader.

        The order is a plain shuffle, except in the mode `window`: there, rows are shuffled within windows of random
        blocks, which are read ahead sequentially.

        Args:
            size: rows of a batch.
            rows: the rows to visit [n]; all if None.
            seed: equal seeds give equal orders.
            drop_last: leave out a last batch with fewer rows.
        """

    def verify_in_background(self) -> None:
        """Begin the comparison that `verified` waits for, in its own thread."""
        if self._files is not None:
            self._files.begin()

    def verified(self) -> None:
        """Make sure, by checksums, that the files hold what was written. Call it before results are kept.

        In the modes `resident` and `device` this was done when the rows were read. Files that have not changed since an
        earlier call, in any process, are not read again; see `pipeline/verified.py`.

        Raises:
            UserError: a shard is damaged.
        """
        if self._files is not None:
            self._files.finish()


class HostReader(Reader):
    """Rows in this machine's memory or page cache, as numpy arrays.

    Args:
        store: where the head's files are.
        layout: of the store.
        name: the head.
        mode: mapped, window or cache (`folder` has raw shards to map), window without one (rows are fetched from
            `store`), or resident (`store` is read once).
        why: the reason for the mode.
        folder: of the raw shards; None: rows are in memory, or with `window` elsewhere.
        window: bytes of a window.
        fits: whether the page cache can hold all of the head's shards.
        files: those in `folder`, to be verified.
        lock: a lock to share while `folder` is in use.
    """

    def __init__(
        self, store: Backend, layout: Layout, name: str, mode: Mode, why: str, folder: Path | None = None,
        window: int = WINDOW_BYTES, fits: bool = False, files: VerifiedFiles | VerifiedShards | None = None,
        lock: Lock | None = None,
    ):  # fmt: skip
        self.mode, self.why = mode, f"{mode}: {why}"
        self._files, self._lock = files, lock
        self._store, self._layout, self._name, self._folder, self._window = store, layout, name, folder, window
        self._fits = fits and mode != "window"
        self._head = layout.heads[name]
        self.shape = self._head.shape
        self.dim = int(np.prod(self.shape))
        self.dtype = arriving_dtype(self._head)
        self.rows_digest = layout.rows_digest
        # float16 and float32 need no conversion: one gather, directly into its destination.
        self._direct = self._head.dtype in ("float16", "float32") and self._head.largest is None
        self._open()

    def __len__(self) -> int:
        return self._layout.rows

    def __call__(self, rows: Any, out: np.ndarray | None = None) -> np.ndarray:
        rows = as_rows(rows, self._layout.rows)
        if out is not None and (out.shape != (len(rows), *self.shape) or out.dtype != self.dtype):
            raise ValueError(f"out must be {self.dtype} {(len(rows), *self.shape)}, found {out.dtype} {out.shape}")
        if self._direct:
            return self._gather(self._name, rows, out)
        return decode({array: self._gather(array, rows, None) for array in self._arrays}, self._name, self._head, out)

    def batches(self, size: int, rows: Any = None, seed: int = 0, drop_last: bool = False) -> Iterator[np.ndarray]:
        chosen = np.arange(len(self)) if rows is None else as_rows(rows, len(self))
        parts = shuffled(chosen, seed)
        if self.mode == "window":
            shard_rows, row_bytes = self._layout.shard_rows, self._head.row_bytes
            parts = windows(chosen, seed, row_bytes, shard_rows, self._window, self._read_ahead)
        return batched(parts, size, drop_last)

    def __getstate__(self) -> dict[str, Any]:
        lock = None if self._lock is None else Lock(self._lock.path)
        return {**{key: value for key, value in self.__dict__.items() if key != "_arrays"}, "_lock": lock}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def _open(self) -> None:
        if self._lock is not None:
            self._lock.acquire(exclusive=False)
            weakref.finalize(self, self._lock.release)
        self._arrays: dict[str, Mapping | Windows | np.ndarray]
        grids = self._layout.grids(self._name, "raw")
        if self._folder is None and self.mode == "window":
            block = rows_of_block(self._head.row_bytes, self._layout.shard_rows)
            self._arrays = {array: Windows(self._store, array, grid, block) for array, grid in grids.items()}
        elif self._folder is not None:
            self._arrays = {array: Mapping(self._folder / array, grid, self._fits) for array, grid in grids.items()}
        else:
            self._arrays = dict(in_memory(self._store, self._layout, self._name))

    def _gather(self, array: str, rows: np.ndarray, out: np.ndarray | None) -> np.ndarray:
        source = self._arrays[array]
        if isinstance(source, Windows):
            return source.take(rows, out)
        if isinstance(source, Mapping):
            rows, source = source.places(rows), source.array
        # Rows are already checked; with `clip`, numpy writes into `out` without a buffer.
        return source.take(rows, axis=0, out=out, mode="clip")

    def _read_ahead(self, first_rows: np.ndarray, count: int) -> None:
        blocks = []
        for first in first_rows.tolist():
            shard, start = divmod(first, self._layout.shard_rows)
            rows = min(first + count, self._layout.span(shard)[1]) - first
            blocks.append(Span(shard, start, start + rows))
        for source in self._arrays.values():
            assert not isinstance(source, np.ndarray)
            source.read_ahead(blocks)


class Together:
    """Several readers of the same rows: heads of a store, or stores of several teachers.

    >>> both = Together({"minilm": first.reader("pooled"), "mpnet": second.reader("pooled")})
    >>> both([3, 1, 4])["mpnet"].shape
    (3, 768)

    Raises:
        UserError: the readers have different rows, so a row number would be ambiguous.
    """

    def __init__(self, readers: Named[str, Reader]):
        first = next(iter(readers), None)
        if first is None:
            raise UserError("reading together needs at least one reader")
        for name, reader in readers.items():
            if reader.rows_digest != readers[first].rows_digest:
                raise UserError(f"`{name}` and `{first}` hold different rows; extract both from the same dataset")
        self.readers = dict(readers)

    def __len__(self) -> int:
        return len(next(iter(self.readers.values())))

    def __call__(self, rows: Any) -> dict[str, Any]:
        """Rows of all readers, by name."""
        return {name: reader(rows) for name, reader in self.readers.items()}

    def batches(self, size: int, rows: Any = None, seed: int = 0, drop_last: bool = False) -> Iterator[np.ndarray]:
        """One epoch, in the order of the first reader in the mode `window`; a plain shuffle if there is none."""
        readers = list(self.readers.values())
        chosen = next((reader for reader in readers if reader.mode == "window"), readers[0])
        return chosen.batches(size, rows, seed, drop_last)


def in_memory(store: Backend, layout: Layout, name: str) -> dict[str, np.ndarray]:
    """The arrays of a head, read once from start to end, each shard compared with its checksum unless nothing is."""
    arrays = {}
    for array, grid in layout.grids(name, resolved_codec(store, layout, name) or "raw").items():
        arrays[array] = np.empty((grid.rows, *grid.row_shape), grid.dtype)
        for shard in range(grid.shards):
            data = checked(store, layout, name, array, shard, compare=verifying())
            arrays[array][slice(*grid.span(shard))] = unpacked(store, grid, array, shard, data)
    return arrays
