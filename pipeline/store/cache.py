"""A raw local copy of a head that cannot be mapped where it is: compressed, or on another machine."""

import os
import shutil
import tempfile
from pathlib import Path

from pipeline.errors import UserError
from pipeline.files import explained
from pipeline.store.checksum import checksum
from pipeline.store.folder import Folder
from pipeline.store.format import Layout
from pipeline.store.shards import Damaged, marker, pack, settled, unpack


def default_cache() -> Path:
    """$AFT_CACHE, or `aft` in the user's cache folder."""
    chosen = os.environ.get("AFT_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(chosen) if chosen else Path(home) / "aft"


def cached(store: Folder, layout: Layout, head: str, digest: str, cache: Path) -> Path:
    """The folder of raw shards of a head, filled in one pass over the store if it is not there yet.

    It is named by the head's digest, so it can never be that of other features; every shard is compared with its
    marker on the way. Several processes may fill one cache at once: the first to finish is used by all.

    Args:
        digest: `FeatureStore.head_digest` of the head.

    Raises:
        UserError: the disk is too small, or a shard does not hold what was written into it.
    """
    target = cache / digest
    if target.is_dir():
        return target
    needed = sum(
        grid.data_bytes(shard) + grid.index_bytes
        for grid in layout.grids(head, "raw").values()
        for shard in range(grid.shards)
    )
    partial = None
    try:
        cache.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(cache).free
        if free < needed:
            raise UserError(f"{cache}: a raw copy needs {needed:,} bytes, {free:,} are free; set AFT_CACHE elsewhere")
        partial = Path(tempfile.mkdtemp(prefix=f"{digest}.", suffix=".partial", dir=cache))
        _fill(partial, store, layout, head)
        os.rename(partial, target)
    except OSError as error:
        if not target.is_dir():  # else somebody was faster
            raise explained(error, cache) from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
    return target


def _fill(folder: Path, store: Folder, layout: Layout, head: str) -> None:
    for array, grid in layout.grids(head, settled(store, layout, head) or "raw").items():
        raw = layout.grids(head, "raw")[array]
        (folder / array).mkdir()
        for shard in range(grid.shards):
            data = checked(store, layout, head, array, shard)
            with (folder / array / grid.key(shard)).open("wb") as file:
                file.writelines([data] if grid == raw else pack(raw, shard, unpack(grid, shard, data)))


def checked(store: Folder, layout: Layout, head: str, array: str, shard: int) -> bytes:
    """The bytes of a shard's file, after comparing them with its marker.

    Raises:
        UserError: they are not what was written.
    """
    start, stop = layout.span(shard)
    name = f"{array}/{layout.grids(head, 'raw')[array].key(shard)}"
    where = f"{store.name}: {name} (rows {start}-{stop - 1})"
    try:
        found = marker(store, layout, head, shard)
    except Damaged as error:
        raise UserError(f"{where}: {error}; run the extraction again") from None
    data = store.read(name)
    if found is None or data is None or checksum([data]) != found.files[array]["checksum"]:
        raise UserError(f"{where}: damaged; run `aft features verify`, then the extraction again")
    return data
