"""Files that are either whole or not there: written beside their place, flushed to the disk, then renamed."""

import errno
import fcntl
import math
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.files import PARTIAL, explained, make_folder, sync_folder, sync_path
from pipeline.store.checksum import checksum

Sync = Literal["name", "bytes", "nothing"]

BLOCK = 64 << 20
PAGE = 4096
# From here on a file is worth a thread for its checksum, and the disk's full attention.
LARGE = 1 << 20


def page_aligned(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """An uninitialised array that begins at a page, so that `publish` hands it to the disk without copying it."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + PAGE, np.uint8)
    start = -memory.ctypes.data % PAGE
    return memory[start : start + size].view(dtype).reshape(shape)


def publish(path: Path, parts: Sequence[bytes | memoryview], sync: Sync = "name") -> str:
    """Write `parts` one after the other to `path`, atomically and durably; returns their checksum.

    Parts must be C-contiguous. The bytes reach the disk before the name does, and the name before this returns, so
    after a crash `path` holds either all of them or what it held before. A finished file is replaced, never changed in
    place: it may be a hard link into a cache. One process at a time may publish one path.

    Args:
        sync: `bytes` leaves it to a later `sync_folder` that the name reaches the disk; `nothing` leaves the bytes to a
            later `sync_files` as well. Even so a process that is killed leaves all or nothing, and only a power cut may
            leave a part.

    Raises:
        UserError: the disk is full or the folder cannot be written; what was there before is untouched.
    """
    partial = path.with_name(path.name + PARTIAL)
    views = [memoryview(part).cast("B") for part in parts if len(part)]
    try:
        if sum(view.nbytes for view in views) < LARGE:
            check = checksum(views)
            _write(partial, views, sync != "nothing")
        else:  # the processor is free while the disk writes
            with ThreadPoolExecutor(1) as pool:
                found = pool.submit(checksum, views)
                _write(partial, views, sync != "nothing")
                check = found.result()
        os.replace(partial, path)
        if sync == "name":
            sync_folder(path.parent)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise explained(error, path) from error
    return check


def publish_together(files: Mapping[Path, bytes | memoryview]) -> None:
    """Publish several files in folders of their own making, none of which matters without the others.

    It takes little longer than one file does: the disk flushes what it is asked for at the same time in one go.
    """
    folders = {path.parent for path in files}
    for folder in folders:
        make_folder(folder, sync_name=False)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda path: publish(path, [files[path]], "bytes"), files))
        list(pool.map(sync_folder, folders | {folder.parent for folder in folders}))


def sync_files(files: Iterable[Path]) -> None:
    """Flush files and the folders that they are in."""
    files = list(files)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(sync_path, files))
        list(pool.map(sync_folder, {file.parent for file in files}))


def _write(path: Path, views: Sequence[memoryview], sync: bool) -> None:
    """Write all bytes to a new file, and flush them to the disk if that is asked for."""
    with path.open("wb", buffering=0) as file:
        for view in views:
            view = view[_write_directly(file.fileno(), view) :]
            while view:
                view = view[file.write(view[:BLOCK]) :]
        if sync:
            os.fsync(file.fileno())


def _write_directly(handle: int, view: memoryview) -> int:
    """Append the whole pages of `view` from where they are in memory; returns how many bytes that were.

    Copying them into the page cache first, as an ordinary write does, takes longer than the disk itself. Nothing is
    written where the view or the file's end is not at a page, or the file system cannot do it.
    """
    whole = view.nbytes // PAGE * PAGE
    if whole < LARGE or not hasattr(os, "O_DIRECT"):
        return 0
    if np.frombuffer(view, np.uint8).ctypes.data % PAGE or os.lseek(handle, 0, os.SEEK_CUR) % PAGE:
        return 0
    flags, done = fcntl.fcntl(handle, fcntl.F_GETFL), 0
    try:
        fcntl.fcntl(handle, fcntl.F_SETFL, flags | os.O_DIRECT)
        while done < whole:
            done += os.write(handle, view[done : min(done + BLOCK, whole)])
    except OSError as error:
        if error.errno != errno.EINVAL:  # so say file systems that cannot, at the flag or at the first write
            raise
    finally:
        fcntl.fcntl(handle, fcntl.F_SETFL, flags)
    return done


def move(source: Path, target: Path) -> None:
    """Rename durably, within one file system."""
    os.replace(source, target)
    sync_folder(target.parent)
    sync_folder(source.parent)


def link(source: Path, target: Path) -> None:
    """Give a finished file a second name, durably; a copy where the file system has no hard links."""
    partial = target.with_name(target.name + PARTIAL)
    partial.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), partial)
    except OSError:
        publish(target, [source.read_bytes()])
        return
    os.replace(partial, target)
    # Renaming one name of a file over another of the same file does nothing, and leaves the first in place.
    partial.unlink(missing_ok=True)
    sync_folder(target.parent)


def remove_folder(folder: Path) -> None:
    """Delete a folder and all in it, if it is there."""
    shutil.rmtree(folder, ignore_errors=True)
