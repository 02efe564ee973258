"""Copies of whole stores: to object storage, from there, or between folders."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.errors import UserError
from pipeline.progress import progress
from pipeline.store.backends import Backend, WritableBackend, backend_at
from pipeline.store.format import LOCKS, marker_name
from pipeline.store.reuse import refuse_other_files
from pipeline.store.shards import checked, resolved_codec
from pipeline.store.store import FeatureStore

AT_ONCE = 4
"""Shards in memory at the same time."""


@dataclass(frozen=True)
class Copied:
    """What a copy did.

    Attributes:
        path: the copy.
        shards: of all heads.
        sent: how many of them were not there.
    """

    path: str
    shards: int
    sent: int

    def __str__(self) -> str:
        there = f", {self.shards - self.sent} were there" if self.sent < self.shards else ""
        return f"{self.path}: {self.sent} shards copied{there}"


def copy_store(source: str | Path | Backend, target: str | Path | Backend) -> Copied:
    """Copy the complete heads of a store, each shard compared with its checksum; an interrupted copy continues.

    Args:
        source: a store: its folder, its URL, or its backend.
        target: a place without a store, or with an earlier copy of this one.

    Raises:
        UserError: there is no complete store, a shard of it is damaged, or the target cannot be written or holds
            something else.
    """
    opened, to = FeatureStore.open(source), backend_at(target)
    here = backend_at(source).snapshot()
    layout = replace(opened.layout, heads=opened.heads)
    if not isinstance(to, WritableBackend):
        raise UserError(f"{to.name}: stores can only be read there; copy to a folder or to s3://, gs:// or az://")
    to.prepare()
    refuse_other_files(to)
    life = to.claim("writers")
    if not life.acquire():
        raise UserError(f"{to.name}: {life.owner()} is writing there; wait for it or stop it")
    try:
        there = to.snapshot()
        if there.read("zarr.json") not in (None, layout.metadata()):
            raise UserError(f"{to.name}: another store is there; delete it, or copy to another place")
        to.put_together({file: here.read(file) or b"" for file in here.files("rows")})
        jobs = []
        for head in layout.heads:
            for array, grid in layout.grids(head, resolved_codec(here, layout, head) or "raw").items():
                to.put(f"{array}/zarr.json", [grid.metadata()])
            jobs += [(head, shard) for shard in range(layout.shards)]

        def send(job: tuple[str, int]) -> bool:
            head, shard = job
            mark = here.read(f"{head}/{marker_name(shard)}") or b""
            if there.read(f"{head}/{marker_name(shard)}") == mark:
                return False
            for array, grid in layout.grids(head, "raw").items():
                data = checked(here, layout, head, array, shard)
                life.confirm()
                to.put(f"{array}/{grid.key(shard)}", [data])
            to.put(f"{head}/{marker_name(shard)}", [mark])
            return True

        sent = 0
        with progress(f"copy to {to.name}", len(jobs), "shards") as advance, ThreadPoolExecutor(AT_ONCE) as pool:
            for new in pool.map(send, jobs):
                sent += new
                advance(1)
        # Last, so that nobody takes a part for the whole.
        to.put("zarr.json", [layout.metadata()])
        to.delete(LOCKS)
    finally:
        life.release()
    return Copied(to.name, len(jobs), sent)


@dataclass(frozen=True)
class Pulled:
    """What is in the cache.

    Attributes:
        path: the store.
        heads: where each is read from, a line each.
    """

    path: str
    heads: dict[str, str]

    def __str__(self) -> str:
        return "\n".join(f"{self.path}: head `{head}`: {why}" for head, why in self.heads.items())


def pull(place: str | Path | Backend) -> Pulled:
    """Copy all complete heads of a store into the cache, each shard compared with its checksum.

    Raises:
        UserError: there is no complete store, a shard of it is damaged, or the disk of the cache is too small.
    """
    store = FeatureStore.open(place)
    return Pulled(store.path, {head: store.reader(head, mode="cache").why for head in store.heads})
