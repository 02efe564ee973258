"""How to read a head, and why."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import UserError
from pipeline.store.backends import Backend
from pipeline.store.cache import cached, whole_files
from pipeline.store.format import Layout, Marker
from pipeline.store.memory import available_memory
from pipeline.store.reader import WINDOW_BYTES, HostReader, Mode, Reader
from pipeline.store.shards import REMEDY, resolved_codec
from pipeline.store.windows import VerifiedShards
from pipeline.verified import VerifiedFiles, default_cache

DEVICE_BYTES = 2 << 30
RESIDENT_SHARE = 0.25


def choose(
    store: Backend, layout: Layout, name: str, digest: str, markers: Sequence[Marker], *, mode: Mode,
    memory: int | None, window: int | None, cache: Path | None, device: str | None, device_memory: int | None,
) -> Reader:  # fmt: skip
    """The reader for a head, as `FeatureStore.reader` describes it; `digest` and `markers` are the head's."""
    size = layout.rows * layout.heads[name].row_bytes
    raw = resolved_codec(store, layout, name) == "raw"
    obstacle = "not on this machine" if store.folder is None else None if raw else "compressed"
    if mode == "mapped" and obstacle:
        raise UserError(f"{store.name}: head `{name}` is {obstacle} and cannot be mapped; use auto, resident or cache")
    if mode == "window" and not raw:
        raise UserError(f"{store.name}: head `{name}` is compressed, so its rows have no places; use auto")
    if mode == "device" and device is None:
        raise UserError(f"{store.name}: the mode `device` needs a device; pass device='cuda'")
    why = f"asked for, {_bytes(size)}"
    place = default_cache() if cache is None else cache
    if mode == "auto":
        mode, why = _automatic(size, obstacle, memory, device, device_memory)
        if mode in ("resident", "cache") and store.folder is None:
            copied = whole_files(place / digest) is not None
            if copied:
                mode, why = "cache", f"{obstacle}, {_bytes(size)}"
            elif mode == "cache" and raw and size > (free := _free(place)):
                mode, why = "window", f"{why}, and the {_bytes(free)} free in {place}"
    if mode == "device":
        from pipeline.store.device import DeviceReader

        return DeviceReader(store, layout, name, why, str(device))
    if mode == "resident":
        return HostReader(store, layout, name, mode, why)
    folder, lock, remedy = store.folder, None, REMEDY
    if mode == "cache":
        folder, lock, checksums = cached(store, layout, name, digest, place)
        why += f", raw copy in {folder}"
        remedy = f"delete {folder}; it is made again from the store"
    else:
        checksums = {
            f"{array}/{grid.key(shard)}": markers[shard].files[array]["checksum"]
            for array, grid in layout.grids(name, "raw").items()
            for shard in range(grid.shards)
        }
    files: VerifiedFiles | VerifiedShards
    if folder is not None:
        files = VerifiedFiles(folder, checksums, remedy, place)
    else:
        files = VerifiedShards(store, checksums, remedy)
    return HostReader(
        store, layout, name, mode, why, folder, WINDOW_BYTES if window is None else window,
        size <= available_memory(), files, lock,
    )  # fmt: skip


def _automatic(
    size: int, obstacle: str | None, memory: int | None, device: str | None, device_memory: int | None
) -> tuple[Mode, str]:
    """The mode for a head of `size` bytes, and why."""
    before = ""
    if device is not None:
        limit = DEVICE_BYTES if device_memory is None else device_memory
        if size <= limit:
            return "device", f"{_bytes(size)} fit the {_bytes(limit)} granted on {device}"
        before = f"{_bytes(size)} exceed the {_bytes(limit)} granted on {device}; "
    free = available_memory()
    if obstacle is None:
        before += "local and uncompressed, "
        if size <= free:
            return "mapped", f"{before}{_bytes(size)} fit the {_bytes(free)} that may cache them"
        return "window", f"{before}{_bytes(size)} exceed the {_bytes(free)} that may cache them"
    limit = int(RESIDENT_SHARE * free) if memory is None else memory
    if size <= limit:
        return "resident", f"{before}{obstacle}, {_bytes(size)} fit the {_bytes(limit)} granted in memory"
    return "cache", f"{before}{obstacle}, {_bytes(size)} exceed the {_bytes(limit)} granted in memory"


def _free(place: Path) -> int:
    """Bytes that are free where a folder is, or will be."""
    return shutil.disk_usage(next(folder for folder in (place, *place.absolute().parents) if folder.is_dir())).free


def _bytes(size: int | float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
