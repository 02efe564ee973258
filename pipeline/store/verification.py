"""Verification that a store holds what was written: every byte is read; faults are reported by shard and rows."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.checksum import checksum
from pipeline.errors import UserError, count
from pipeline.store.backends import Backend, backend_at
from pipeline.store.format import LOCKS, REPLACED, ROWS_METADATA, Layout, flat_metadata, marker_name
from pipeline.store.rows import read_rows
from pipeline.store.shards import Damaged, marker

THREADS = 4


@dataclass(frozen=True)
class Fault:
    """Something in a store that differs from what was written.

    Attributes:
        what: the fault, in one line.
        file: relative to the store.
        head, shard, start, stop: rows start .. stop - 1 of a head are unusable; None for all rows.
    """

    what: str
    file: str
    head: str | None = None
    shard: int | None = None
    start: int | None = None
    stop: int | None = None

    def __str__(self) -> str:
        if self.shard is None or self.start is None or self.stop is None:
            return f"{self.file}: {self.what}"
        return f"{self.file}: {self.what} (head `{self.head}`, shard {self.shard}, rows {self.start}-{self.stop - 1})"


@dataclass(frozen=True)
class Verification:
    """The result of `verify`.

    Attributes:
        path: the store.
        shards: how many shards of all heads were read.
        nbytes: how many bytes.
        faults: what is wrong; empty for a sound store.
        comparison: with recomputed rows, if asked for.
    """

    path: str
    shards: int
    nbytes: int
    faults: tuple[Fault, ...]
    comparison: "Agreement | None" = None

    @property
    def sound(self) -> bool:
        """Whether there are no faults."""
        return not self.faults and (self.comparison is None or self.comparison.agrees)

    def __str__(self) -> str:
        lines = [str(fault) for fault in self.faults]
        lines.append(
            f"{self.path}: {count(self.shards, 'shard')}, {self.nbytes:,} bytes, {count(len(self.faults), 'fault')}"
        )
        if self.comparison is not None:
            lines.append(str(self.comparison))
        return "\n".join(lines)


def verify(place: str | Path | Backend) -> Verification:
    """Read every byte of a store and compare it with its checksum.

    Args:
        place: a folder, or a URL; every byte of a URL is downloaded once, and not kept.

    Raises:
        UserError: there is no store, or the group's metadata is damaged, so nothing else can be checked.
    """
    store = backend_at(place).snapshot()
    text = store.read("zarr.json")
    if text is None:
        raise UserError(f"{store.name}: no feature store there")
    layout = Layout.read(text, f"{store.name}/zarr.json")
    files = len(store.files())
    if layout.shards > files and store.size("rows/id_ends/c.0") != 8 * layout.rows:
        claimed = f"{count(layout.rows, 'row')} in {count(layout.shards, 'shard')}"
        claim = f"claims {claimed}, and the store has {count(files, 'file')}"
        return Verification(store.name, 0, 0, (Fault(claim, "zarr.json"),))
    faults = [*_rows(store, layout), *_strays(store, layout)]
    jobs = [(head, shard) for head in layout.heads for shard in range(layout.shards)]
    heads = {head: list(_head(store, layout, head)) for head in layout.heads}
    digests = _row_digests(store, layout)
    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(lambda job: _shard(store, layout, job[0], job[1], digests), jobs))
    for found in heads.values():
        faults.extend(found)
    for _, found in results:
        faults.extend(found)
    return Verification(store.name, len(jobs), sum(size for size, _ in results), tuple(faults))


@dataclass(frozen=True)
class Agreement:
    """Stored features compared with newly computed ones of the same rows.

    Attributes:
        rows: how many were compared.
        cosine: the smallest cosine between a stored and a computed row; 1 for two rows of zeros.
        difference: the largest absolute difference of two numbers, relative to the largest stored one.
        worst: the row with that cosine.
        tolerance: cosine must be at least 1 - tolerance, difference at most 10 * sqrt(tolerance).
    """

    rows: int
    cosine: float
    difference: float
    worst: int
    tolerance: float

    @property
    def agrees(self) -> bool:
        """Whether cosine and difference are within the tolerance."""
        return self.cosine >= 1 - self.tolerance and self.difference <= self.most

    @property
    def most(self) -> float:
        """The largest difference that is within the tolerance."""
        return 10 * self.tolerance**0.5

    def __str__(self) -> str:
        verdict = "agree" if self.agrees else "DIFFER"
        return (
            f"{count(self.rows, 'row')} computed again {verdict}: least cosine {self.cosine:.6f} (row {self.worst}, "
            f"{1 - self.tolerance:.10g} or more wanted), largest difference {self.difference:.2e} of the largest value "
            f"({self.most:.2g} or less wanted)"
        )


def compare(
    stored: Callable[[np.ndarray], np.ndarray],
    fresh: Callable[[np.ndarray], np.ndarray],
    rows: np.ndarray,
    tolerance: float = 1e-4,
) -> Agreement:
    """Compare stored features of some rows with computed ones, [n, *shape] each.

    The default tolerance allows for changes of float16 or bfloat16 features by another machine, batch or library
    version. Other weights, another transform or another row are far outside it.
    """
    old = stored(rows).reshape(len(rows), -1).astype(np.float64)
    new = fresh(rows).reshape(len(rows), -1).astype(np.float64)
    if old.shape != new.shape:
        raise UserError(
            f"stored rows have {count(old.shape[1], 'number')}, computed ones {new.shape[1]}: another model"
        )
    norms = np.linalg.norm(old, axis=1) * np.linalg.norm(new, axis=1)
    both_zero = ~old.any(axis=1) & ~new.any(axis=1)
    cosine = np.where(both_zero, 1.0, (old * new).sum(axis=1) / np.where(norms > 0, norms, 1.0))
    largest = float(np.abs(old).max()) or 1.0
    worst = int(cosine.argmin())
    return Agreement(
        len(rows), float(cosine[worst]), float(np.abs(old - new).max()) / largest, int(rows[worst]), tolerance
    )


def _rows(store: Backend, layout: Layout) -> Iterator[Fault]:
    """The row index."""
    try:
        rows = read_rows(store, layout)
        digest = rows.digest()
    except UserError as error:
        yield Fault(f"the row index is unreadable: {error}", "rows")
        return
    if digest != layout.rows_digest:
        yield Fault("the row index is not the one that was written: ids or contents were changed", "rows")
    expected = {
        "rows/zarr.json": ROWS_METADATA,
        "rows/id_bytes/zarr.json": flat_metadata(rows.id_bytes),
        "rows/id_ends/zarr.json": flat_metadata(rows.id_ends),
        "rows/digests/zarr.json": flat_metadata(rows.digests),
    }
    for name, text in expected.items():
        if store.read(name) != text:
            yield Fault("missing, damaged or changed by hand", name)


def _row_digests(store: Backend, layout: Layout) -> list[str] | None:
    """The digest of each shard's rows; None if the row index is unreadable."""
    try:
        rows = read_rows(store, layout)
        return [rows.digest(*layout.span(shard)) for shard in range(layout.shards)]
    except UserError:
        return None


def _head(store: Backend, layout: Layout, head: str) -> Iterator[Fault]:
    """The metadata of a head's arrays."""
    for array in layout.heads[head].arrays(head):
        try:
            text = store.read(f"{array}/zarr.json")
        except UserError as error:
            yield Fault(str(error), f"{array}/zarr.json", head)
            continue
        if text is None:
            yield Fault("missing", f"{array}/zarr.json", head)
        elif text not in {layout.grids(head, codec)[array].metadata() for codec in ("raw", "zstd")}:
            yield Fault("damaged or changed by hand", f"{array}/zarr.json", head)


def _shard(store: Backend, layout: Layout, head: str, shard: int, rows: list[str] | None) -> tuple[int, list[Fault]]:
    """How many bytes a shard has, and what is wrong with it."""
    start, stop = layout.span(shard)

    def fault(what: str, file: str) -> tuple[int, list[Fault]]:
        return 0, [Fault(what, file, head, shard, start, stop)]

    name = f"{head}/{marker_name(shard)}"
    try:
        found = marker(store, layout, head, shard)
    except Damaged as error:
        return fault(str(error), error.file)
    except UserError as error:
        return fault(str(error), name)
    if found is None:
        return fault("not there: the shard is not complete", name)
    if rows is not None and found.rows_digest != rows[shard]:
        return fault("the shard is of other rows", name)
    size, faults = 0, []
    for array, grid in layout.grids(head, "raw").items():
        file = f"{array}/{grid.key(shard)}"
        size += found.files[array]["bytes"]
        try:
            same = checksum(store.blocks(file)) == found.files[array]["checksum"]
        except (OSError, UserError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            faults.append(Fault(f"cannot be read: {reason}", file, head, shard, start, stop))
            continue
        if not same:
            faults.append(Fault("its bytes are not those that were written", file, head, shard, start, stop))
    return size, faults


def _strays(store: Backend, layout: Layout) -> Iterator[Fault]:
    """Files that do not belong in a store."""
    expected = {"zarr.json", "rows/zarr.json"}
    expected |= {f"rows/{name}" for array in ("id_bytes", "id_ends") for name in (f"{array}/zarr.json", f"{array}/c.0")}
    expected |= {"rows/digests/zarr.json", "rows/digests/c.0.0"}
    for head in layout.heads:
        expected |= {f"{head}/{marker_name(shard)}" for shard in range(layout.shards)}
        for array, grid in layout.grids(head, "raw").items():
            expected |= {f"{array}/zarr.json", *(f"{array}/{grid.key(shard)}" for shard in range(layout.shards))}
    for name in store.files():
        if name not in expected and not name.startswith((f"{LOCKS}/", f"{REPLACED}/")):
            yield Fault("does not belong in a store", name)
