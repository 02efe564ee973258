"""Information about stores for people: lists, statistics, differences, and what can be deleted."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import UserError, count
from pipeline.files import PARTIAL, abandoned
from pipeline.locks import Lock
from pipeline.objects import is_remote
from pipeline.store.backends import Backend, WritableBackend, backend_at
from pipeline.store.backends.local import LocalBackend
from pipeline.store.cache import lock_file, users
from pipeline.store.changes import differences
from pipeline.store.format import LOCKS, STORE_FILE, Layout
from pipeline.store.reader import Reader
from pipeline.store.remote import POINTER
from pipeline.store.reuse import replaced_folders
from pipeline.store.store import FeatureStore
from pipeline.store.verification import Agreement, compare

SAMPLE = 10_000


@dataclass(frozen=True)
class Statistics:
    """Statistics of a head's features, over a sample of rows drawn without replacement.

    Attributes:
        sample: how many rows.
        mean, std, least, largest: over all numbers.
        zeros: the share of numbers that are exactly zero.
        constant: how many of a row's numbers are the same in all rows of the sample.
        norm: the mean L2 norm of a row.
    """

    sample: int
    mean: float
    std: float
    least: float
    largest: float
    zeros: float
    constant: int
    norm: float

    def __str__(self) -> str:
        return (
            f"mean {self.mean:.4g}, std {self.std:.4g}, from {self.least:.4g} to {self.largest:.4g}, row norm "
            f"{self.norm:.4g}, {self.zeros:.1%} zeros, {count(self.constant, 'constant number')} "
            f"({count(self.sample, 'row')})"
        )


@dataclass(frozen=True)
class HeadInfo:
    """One head of a store: how it is stored, and statistics of its features."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    view: Any
    shards: int
    complete: bool
    bytes_per_row: float
    share_of_float32: float
    reader: str
    statistics: Statistics | None

    def __str__(self) -> str:
        state = "" if self.complete else f" (not complete: has {count(self.shards, 'shard')})"
        lines = [f"{self.name}: {self.shape} {self.dtype}{state}"]
        if self.complete:
            lines.append(f"  {self.bytes_per_row:,.1f} bytes per row, {self.share_of_float32:.2f} of float32")
            lines.append(f"  {self.reader}")
            lines.append(f"  {self.statistics}")
        return "\n".join(lines)


@dataclass(frozen=True)
class StoreInfo:
    """A store as a whole."""

    path: str
    rows: int
    shards: int
    shard_rows: int
    nbytes: int
    dataset: str
    recipe: Any
    recipe_digest: str
    content_digest: str
    created_by: Any
    heads: tuple[HeadInfo, ...]

    def __str__(self) -> str:
        lines = [
            f"{self.path}: {count(self.rows, 'row')} in {count(self.shards, 'shard')} of {self.shard_rows:,}, "
            f"{self.nbytes:,} bytes",
            f"created by {_flat(self.created_by)}",
            f"dataset {self.dataset}",
            f"content {self.content_digest}",
            f"recipe  {self.recipe_digest}: {_flat(self.recipe)}",
        ]
        return "\n".join([*lines, *map(str, self.heads)])


@dataclass(frozen=True)
class Listing:
    """The stores of a folder; for those that cannot be opened, the reason."""

    folder: str
    stores: tuple[dict[str, Any], ...]

    def __str__(self) -> str:
        if not self.stores:
            return f"{self.folder}: no feature stores"
        return "\n".join(f"{store['path']}: {_holds(store)}{store['state']}" for store in self.stores)


@dataclass(frozen=True)
class Difference:
    """How two stores differ.

    Attributes:
        recipe: what changed, a line each.
        heads: heads that only one of them has, or that are stored differently.
        only_first, only_second: ids of how many rows only one has.
        changed: how many rows have the same id but other content.
        moved: how many shared rows have another row number.
        features: per shared head, a comparison of the shared rows (a sample of at most 10,000).
    """

    first: str
    second: str
    recipe: tuple[str, ...]
    heads: tuple[str, ...]
    only_first: int
    only_second: int
    changed: int
    moved: int
    features: dict[str, Agreement]

    def __str__(self) -> str:
        lines = [f"{self.first} -> {self.second}"]
        lines += [f"recipe: {line}" for line in self.recipe] or ["recipe: the same"]
        lines += [f"head: {line}" for line in self.heads]
        lines.append(
            f"rows: {self.only_first:,} removed, {self.only_second:,} added, {self.changed:,} with other content, "
            f"{self.moved:,} moved"
        )
        for name, found in self.features.items():
            lines.append(
                f"{name}: least cosine {found.cosine:.6f}, largest difference {found.difference:.2e} of the largest "
                f"value ({count(found.rows, 'row')})"
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class Leftovers:
    """Folders and files that nothing needs any more, with their bytes; `deleted` is whether they were deleted."""

    found: dict[str, int]
    deleted: bool

    def __str__(self) -> str:
        what = "deleted" if self.deleted else "would be deleted with --delete"
        lines = [f"{path}: {size:,} bytes" for path, size in self.found.items()]
        return "\n".join([*lines, f"{count(len(self.found), 'leftover')}, {sum(self.found.values()):,} bytes, {what}"])


def list_stores(folder: Path | str) -> Listing:
    """The stores directly in a folder, or below a URL of object storage, by name."""
    stores: list[dict[str, Any]] = []
    for path in _places(folder):
        try:
            store = FeatureStore.open(path)
        except UserError as error:
            stores.append({"path": str(path), "state": str(error).removeprefix(f"{path}: ")})
            continue
        heads = ", ".join(f"{name} {head.shape} {head.dtype}" for name, head in store.heads.items())
        state = f"incomplete: {', '.join(store.incomplete)}" if store.incomplete else "complete"
        stores.append(
            {"path": str(path), "rows": len(store), "heads": heads, "nbytes": store.nbytes, "state": state,
             "recipe_digest": store.recipe_digest}
        )  # fmt: skip
    return Listing(str(folder), tuple(stores))


def describe(place: str | Path | Backend, seed: int = 0) -> StoreInfo:
    """One store in detail, with statistics of a sample of its rows. Raises `UserError` as `FeatureStore.open`."""
    store = FeatureStore.open(place)
    heads = []
    for name, head in store.layout.heads.items():
        complete = name in store.heads
        nbytes = store.head_nbytes(name) / len(store) if complete else 0.0
        reader = store.reader(name) if complete else None
        sample = np.sort(np.random.default_rng(seed).permutation(len(store))[:SAMPLE])
        heads.append(
            HeadInfo(
                name, head.shape, head.dtype, head.view,
                store.layout.shards if complete else store.incomplete[name], complete, nbytes,
                nbytes / (4 * int(np.prod(head.shape))),
                "" if reader is None else reader.why,
                None if reader is None else statistics(reader(sample)),
            )
        )  # fmt: skip
    layout = store.layout
    return StoreInfo(
        store.path, len(store), layout.shards, layout.shard_rows, store.nbytes, store.dataset,
        dict(store.recipe), store.recipe_digest, store.content_digest, dict(store.created_by), tuple(heads),
    )  # fmt: skip


def statistics(features: np.ndarray) -> Statistics:
    """Statistics of rows [n, *shape], n >= 1."""
    rows = features.reshape(len(features), -1).astype(np.float32)
    return Statistics(
        len(rows),
        float(rows.mean(dtype=np.float64)),
        float(rows.std(dtype=np.float64)),
        float(rows.min()),
        float(rows.max()),
        float((rows == 0).mean()),
        int((rows == rows[0]).all(axis=0).sum()) if len(rows) > 1 else 0,
        float(np.linalg.norm(rows, axis=1).mean()),
    )


def diff(first: str | Path | Backend, second: str | Path | Backend, seed: int = 0) -> Difference:
    """How two stores differ. Raises `UserError` as `FeatureStore.open`."""
    one, two = FeatureStore.open(first), FeatureStore.open(second)
    where = two.rows.positions(one.rows.ids)
    both = np.flatnonzero(where >= 0)
    same = both[(one.rows.digests[both] == two.rows.digests[where[both]]).all(axis=1)]
    sample = np.sort(np.random.default_rng(seed).permutation(same)[:SAMPLE])
    heads, features = [], {}
    for name in sorted(one.heads.keys() | two.heads.keys()):
        if name not in one.heads or name not in two.heads:
            heads.append(f"`{name}` is only in {one.path if name in one.heads else two.path}")
            continue
        heads += [
            f"`{name}` {line}" for line in differences(one.heads[name].record(), two.heads[name].record())
        ]  # fmt: skip
        if one.heads[name].shape == two.heads[name].shape and len(sample):
            features[name] = compare(one.reader(name), _elsewhere(two.reader(name), where), sample)
    return Difference(
        one.path,
        two.path,
        tuple(differences(dict(one.recipe), dict(two.recipe))),
        tuple(heads),
        len(one) - len(both),
        len(two) - len(both),
        len(both) - len(same),
        int((where[both] != both).sum()),
        features,
    )


def _places(folder: Path | str) -> list[Path | str]:
    """What is a store, directly in a folder or below a URL, or seems to be one."""
    if is_remote(str(folder)):
        files = (file.split("/") for file in backend_at(folder).files())
        return sorted({f"{folder}/{parts[0]}" for parts in files if parts[1:] == ["zarr.json"]})
    folder = Path(folder)
    there = sorted(folder.iterdir()) if folder.is_dir() else []
    # Also a pipe or a broken link, which is told.
    return [path for path in there if any(os.path.lexists(path / name) for name in ("zarr.json", POINTER))]


def leftovers(folder: Path | str, cache: Path, delete: bool = False) -> Leftovers:
    """Leftovers of interrupted work: earlier features and temporary files in stores, and raw copies of deleted stores.

    Only files that a store has written are listed, and nothing that a running writer or reader uses.

    Args:
        folder: of the stores, or a URL of object storage, which has no raw copies. Features that a store replaced (of
            other rows, another recipe) are leftovers too: work that was interrupted would reuse them.
        cache: of the raw copies. Those that stores in `folder` were read through, and that no store uses any more; and
            those that killed processes have not finished.
        delete: also delete what was found.
    """
    found: dict[str, int] = {}
    if is_remote(str(folder)):
        for place in _places(folder):
            store = backend_at(place)
            found |= _leftovers_of(store, delete) if isinstance(store, WritableBackend) else {}
        return Leftovers(found, delete)
    folder = Path(folder)
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        store = LocalBackend(path)
        if path.is_dir() and _is_store(store):
            found |= _leftovers_of(store, delete)
    for left in _unfinished_copies(cache):
        found[str(left)] = _bytes(left)
        if delete:
            LocalBackend(cache).delete(left.name)
    for copy in sorted(cache.iterdir()) if cache.is_dir() else []:
        if copy.is_dir() and _is_digest(copy.name) and _is_unused(copy, folder):
            lock = Lock(lock_file(copy))
            if lock.acquire():
                found[str(copy)] = _bytes(copy)
                if delete:
                    LocalBackend(cache).delete(copy.name)
                    lock.path.unlink()
                    copy.with_name(f"{copy.name}.making").unlink(missing_ok=True)
                lock.release()
    return Leftovers(found, delete)


def _leftovers_of(store: WritableBackend, delete: bool) -> dict[str, int]:
    """Files of one store that are not needed; none if it is being written."""
    there = store.files()
    names = [*_replaced(store), *(file for file in there if file.endswith(PARTIAL) and "/" in file)]
    names = [name for name in names if all(STORE_FILE.fullmatch(file) for file in store.files(name) or [name])]
    names = [name for name in names if not any(name.startswith(f"{other}/") for other in names)]
    locks = [file for file in there if file.startswith(f"{LOCKS}/")]
    if locks and all(STORE_FILE.fullmatch(file) for file in locks):
        names.append(LOCKS)
    if not names:
        return {}
    setup, writers = store.claim("setup"), store.claim("writers")
    try:
        if not (setup.acquire() and writers.acquire()):
            return {}
        found = {f"{store.name}/{name}": _bytes_in(store, name) for name in names}
        for name in names if delete else []:
            store.delete(name)
        if delete or not locks:
            store.delete(LOCKS)
        return found
    finally:
        writers.release()
        setup.release()


def _is_store(store: Backend) -> bool:
    """Whether a folder is a feature store, complete or not."""
    return _has_layout(store, "zarr.json") or bool(_replaced(store))


def _replaced(store: Backend) -> list[str]:
    """The folders of replaced stores in a store, without others of such names."""
    return [name for name in replaced_folders(store) if _has_layout(store, f"{name}/zarr.json")]


def _has_layout(store: Backend, file: str) -> bool:
    try:
        Layout.read(store.read(file) or b"", store.name)
    except UserError:
        return False
    return True


def _unfinished_copies(cache: Path) -> list[Path]:
    """What killed processes left when they made raw copies."""
    names = sorted({path.name[1:33] for path in cache.glob(f".*{PARTIAL}")})
    return [left for name in names if _is_digest(name) for left in abandoned(cache / name)]


def _is_digest(name: str) -> bool:
    """Whether a name in the cache is a digest, as the store names copies."""
    return len(name) == 32 and set(name) <= set("0123456789abcdef")


def _is_unused(copy: Path, folder: Path) -> bool:
    """Whether a raw copy is of stores in `folder`, and no store that it was made or used for has these features."""
    stores = users(copy)
    if not any(Path(store).parent == folder.resolve() for store in stores):
        return False
    for store in stores:
        if "://" in store:
            return False
        try:
            opened = FeatureStore.open(store)
        except UserError:
            continue  # it is gone, or not complete, and so has no raw copies
        if copy.name in {opened.head_digest(head) for head in opened.heads}:
            return False
    return True


def _elsewhere(reader: Reader, where: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A reader that takes the row numbers of another store."""
    return lambda rows: reader(where[rows])


def _bytes_in(store: Backend, name: str) -> int:
    """Bytes of a file of a store, or of all files below a folder of it."""
    return sum(store.size(file) or 0 for file in store.files(name) or [name])


def _bytes(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def _holds(store: dict[str, Any]) -> str:
    return f"{count(store['rows'], 'row')}, {store['heads']}, {store['nbytes']:,} bytes, " if "rows" in store else ""


def _flat(record: Any, name: str = "") -> str:
    """A JSON record on one line."""
    return ", ".join(_leaves(record, name)) or "unknown"


def _leaves(record: Any, name: str) -> Iterator[str]:
    if isinstance(record, dict):
        for key, value in record.items():
            yield from _leaves(value, f"{name}.{key}" if name else str(key))
    else:
        yield f"{name} {record}"
