"""Rows of an array that is elsewhere, fetched as they are needed: blocks of a window together, others by themselves.

Nothing is kept but the blocks of two windows: of the one in use, and of the next.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from pipeline.checksum import checksum
from pipeline.errors import UserError
from pipeline.objects import AT_ONCE
from pipeline.store.backends import Backend
from pipeline.store.format import Grid, Span
from pipeline.verified import verifying

GAP = 1 << 16
"""Bytes between rows that are fetched too, rather than ask once more."""

MOST = 8 << 20
"""The most bytes that one request asks for, unless a row has more."""


class Windows:
    """An array of raw shards of a backend, for gathers; safe for any number of threads.

    Args:
        store: where the shards are.
        array: the folder of their files.
        grid: how the array is divided; its codec is raw.
        block_rows: rows of a block; blocks end where their shard ends.
    """

    def __init__(self, store: Backend, array: str, grid: Grid, block_rows: int):
        self._store, self._array, self._grid, self._block_rows = store, array, grid, block_rows
        self._per_shard = -(-grid.shard_rows // block_rows)
        self._kept: tuple[dict[int, np.ndarray], ...] = ()

    def read_ahead(self, blocks: Sequence[Span]) -> None:
        """Fetch the blocks of the next window; those of the window before the current one are dropped."""
        found = self._fetch(blocks)
        window = {
            span.shard * self._per_shard + span.start // self._block_rows: rows
            for span, rows in zip(blocks, found, strict=True)
        }
        self._kept = (*self._kept[-1:], window)

    def take(self, rows: np.ndarray, out: np.ndarray | None) -> np.ndarray:
        """Rows by number, in the order given; into `out`, if there is one."""
        grid = self._grid
        if out is None:
            out = np.empty((len(rows), *grid.row_shape), grid.dtype)
        shard, within = np.divmod(rows, grid.shard_rows)
        block = shard * self._per_shard + within // self._block_rows
        kept = {number: found for window in self._kept for number, found in window.items()}
        away = np.ones(len(rows), bool)
        for places in _equal(block):
            if (found := kept.get(int(block[places[0]]))) is not None:
                out[places] = found[within[places] % self._block_rows]
                away[places] = False
        places = np.flatnonzero(away)
        places = places[np.argsort(rows[places], kind="stable")]
        spans = self._spans(rows[places])
        ends = np.searchsorted(rows[places], [span.shard * grid.shard_rows + span.stop for span in spans])
        for span, found, here in zip(spans, self._fetch(spans), np.split(places, ends)[: len(spans)], strict=True):
            out[here] = found[within[here] - span.start]
        return out

    def _spans(self, rows: np.ndarray) -> list[Span]:
        """What to fetch for rows in ascending order: those that lie near to one another together."""
        gap, most = (max(1, size // self._grid.row_bytes) for size in (GAP, MOST))
        spans: list[Span] = []
        for row in np.unique(rows).tolist():
            shard, at = divmod(row, self._grid.shard_rows)
            last = spans[-1] if spans else None
            if last and last.shard == shard and at - last.stop < gap and at - last.start < most:
                spans[-1] = last._replace(stop=at + 1)
            else:
                spans.append(Span(shard, at, at + 1))
        return spans

    def _fetch(self, spans: Sequence[Span]) -> list[np.ndarray]:
        if len(spans) <= 1:
            return list(map(self._rows, spans))
        with ThreadPoolExecutor(min(AT_ONCE, len(spans)), thread_name_prefix="aft-fetch") as pool:
            return list(pool.map(self._rows, spans))

    def _rows(self, span: Span) -> np.ndarray:
        grid = self._grid
        file = f"{self._array}/{grid.key(span.shard)}"
        data = self._store.part(file, span.start * grid.row_bytes, span.stop * grid.row_bytes)
        if len(data) != (span.stop - span.start) * grid.row_bytes:
            raise UserError(f"{self._store.name}/{file}: was replaced or deleted while it was read; run it again")
        return np.frombuffer(data, grid.dtype).reshape(-1, *grid.row_shape)


class VerifiedShards:
    """Compares files that are elsewhere with their checksums, once, when it is asked for.

    Args:
        store: where they are.
        checksums: by name.
        remedy: what to do about a damaged file, for the message.
    """

    def __init__(self, store: Backend, checksums: Mapping[str, str], remedy: str):
        self._store, self._checksums, self._remedy, self._done = store, checksums, remedy, False

    def begin(self) -> None:
        """Nothing: the network is busy with rows."""

    def finish(self) -> None:
        """Fetch every file. Raises `UserError` if one is damaged, or another one than rows were read from."""
        for name, expected in self._checksums.items() if verifying() and not self._done else ():
            if checksum(self._pieces(name)) != expected:
                raise UserError(f"{self._store.name}/{name}: damaged; {self._remedy}")
        self._done = True

    def _pieces(self, name: str) -> Iterator[bytes]:
        for start in range(0, self._store.size(name) or 0, MOST):
            yield self._store.part(name, start, start + MOST)


def _equal(values: np.ndarray) -> Iterable[np.ndarray]:
    """The places of each of the values."""
    order = np.argsort(values, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(values[order])) + 1) if len(values) else []
