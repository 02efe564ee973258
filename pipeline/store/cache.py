"""A raw local copy of a head that cannot be mapped itself, because it is compressed or remote."""

import json
import os
import shutil
from pathlib import Path

from pipeline.errors import UserError
from pipeline.files import TEXT_BYTES, explained, read_regular, scratch_folder, write_atomically
from pipeline.locks import Lock
from pipeline.provenance import digest_of
from pipeline.store.backends import Backend
from pipeline.store.backends.local import LocalBackend
from pipeline.store.format import Layout
from pipeline.store.shards import checked, pack, resolved_codec, size_of, unpacked

# How long to wait for another process that makes the copy.
PATIENCE = 3600.0

FILES, USERS = "files.json", "used_by"


def cached(store: Backend, layout: Layout, head: str, digest: str, cache: Path) -> tuple[Path, Lock, dict[str, str]]:
    """The folder of raw shards of a head, made in one pass over the store if it does not exist or is not complete.

    It is named by the head's digest, so it can never hold other features; every shard is compared with its marker.
    Several processes may ask for it at once: one makes it, the others wait.

    Args:
        digest: `FeatureStore.head_digest` of the head.

    Returns:
        The folder, the lock on it, which is held and shared while the folder is read, and the checksums of its files.

    Raises:
        UserError: the disk is too small, or a shard does not hold what was written into it.
    """
    target = cache / digest
    # Readers share one lock. The process that makes the copy holds another, so readers are not disturbed.
    lock, making = Lock(lock_file(target)), Lock(target.with_name(f"{digest}.making"))
    try:
        lock.acquire(exclusive=False, patience=PATIENCE)
        checksums = whole_files(target)
        name = str(store.folder.resolve()) if store.folder is not None else store.name
        user = target / USERS / digest_of(name)
        if checksums is None or not user.exists():
            if not making.acquire(patience=PATIENCE):
                raise UserError(
                    f"{target}: {making.owner()} has been making this copy for a long time; wait for it or stop it"
                )
            checksums = whole_files(target) or _make(target, store, layout, head)
            write_atomically(user, name)
        return target, lock, checksums
    except BaseException as error:
        lock.release()
        raise (explained(error, cache) if isinstance(error, OSError) else error) from None
    finally:
        making.release()


def lock_file(copy: Path) -> Path:
    """The file of the lock of a raw copy: readers share it; deleting the copy needs it exclusively."""
    return copy.with_name(f"{copy.name}.lock")


def whole_files(copy: Path) -> dict[str, str] | None:
    """The checksum of each file of a raw copy, None if one of them is missing or has another size."""
    try:
        files = json.loads(read_regular(copy / FILES, TEXT_BYTES))
        whole = all((copy / name).stat().st_size == about["bytes"] for name, about in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, UserError):
        return None
    return {name: about["checksum"] for name, about in files.items()} if whole else None


def users(copy: Path) -> list[str]:
    """The stores that a raw copy was made or used for: their absolute paths or URLs."""
    folder = copy / USERS
    return [file.read_text() for file in sorted(folder.iterdir())] if folder.is_dir() else []


def _make(target: Path, store: Backend, layout: Layout, head: str) -> dict[str, str]:
    raw = layout.grids(head, "raw")
    needed = sum(grid.data_bytes(shard) + grid.index_bytes for grid in raw.values() for shard in range(grid.shards))
    shutil.rmtree(target, ignore_errors=True)
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        raise UserError(
            f"{target.parent}: a raw copy needs {needed:,} bytes, {free:,} are free; set AFT_CACHE elsewhere"
        )
    with scratch_folder(target) as partial:
        copy, files, checksums = LocalBackend(partial), {}, {}
        for array, grid in layout.grids(head, resolved_codec(store, layout, head) or "raw").items():
            for shard in range(grid.shards):
                name, data = f"{array}/{grid.key(shard)}", checked(store, layout, head, array, shard)
                parts = (
                    [data] if grid == raw[array] else pack(raw[array], shard, unpacked(store, grid, array, shard, data))
                )
                checksums[name] = copy.put(name, parts)
                files[name] = {"bytes": size_of(parts), "checksum": checksums[name]}
        copy.put(FILES, [json.dumps(files).encode()])
        os.rename(partial, target)
    return checksums
