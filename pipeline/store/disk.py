"""Files that are either whole or not there: written beside their place, flushed to the disk, then renamed."""

import ctypes
import errno
import fcntl
import os
import shutil
import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.errors import UserError
from pipeline.store.checksum import checksum

PARTIAL = ".partial"
BLOCK = 8 << 20
SYNC_FILE_RANGE_WRITE = 2


_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)  # Linux has it
if _sync_file_range is not None:
    _sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]


def publish(path: Path, parts: Sequence[bytes | memoryview], sync_name: bool = True) -> str:
    """Write `parts` one after the other to `path`, atomically and durably; returns their checksum.

    Parts must be C-contiguous. The bytes reach the disk before the name does, and the name before this returns, so
    after a crash `path` holds either all of them or what it held before. A finished file is replaced, never changed in
    place: it may be a hard link into a cache. One process at a time may publish one path.

    Args:
        sync_name: False leaves it to a later `sync_folder` that the name reaches the disk.

    Raises:
        UserError: the disk is full or the folder cannot be written; what was there before is untouched.
    """
    partial = path.with_name(path.name + PARTIAL)
    views = [memoryview(part).cast("B") for part in parts if len(part)]
    try:
        if sum(view.nbytes for view in views) < BLOCK:
            check = checksum(views)
            _write(partial, views)
        else:  # the processor is free while the disk writes
            with ThreadPoolExecutor(1) as pool:
                found = pool.submit(checksum, views)
                _write(partial, views)
                check = found.result()
        os.replace(partial, path)
        if sync_name:
            sync_folder(path.parent)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise explained(error, path) from error
    return check


def _write(path: Path, views: Sequence[memoryview]) -> None:
    """Write all bytes to a new file and flush them to the disk."""
    with path.open("wb", buffering=0) as file:
        for view in views:
            while view:
                view = view[file.write(view[:BLOCK]) :]
                _begin_flushing(file.fileno())
        os.fsync(file.fileno())


def _begin_flushing(handle: int) -> None:
    """Have the disk write what it was given so far, without waiting: else it idles until it is told to flush."""
    if _sync_file_range is not None:
        _sync_file_range(handle, 0, 0, SYNC_FILE_RANGE_WRITE)


def explained(error: OSError, path: Path) -> Exception:
    """The user's version of a failed write, if it is theirs to mend; otherwise the error itself."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return UserError(f"{path}: the disk is full; finished shards are kept: free some space and run it again")
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return UserError(f"{path}: cannot be written ({error.strerror}); check the folder's permissions")
    return error


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk: renames and new names survive a power cut only after this."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, durably."""
    if not folder.is_dir():
        make_folder(folder.parent)
        try:
            folder.mkdir(exist_ok=True)
        except FileExistsError:
            raise UserError(f"{folder}: is a file, and a folder is needed there; move it away") from None
        except OSError as error:
            raise explained(error, folder) from error
        sync_folder(folder.parent)


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


class Lock:
    """An advisory lock on a file, which the kernel frees when its holder ends, however it ends.

    So there are no stale locks: a file left behind by a dead process is simply not locked. The file's text says who
    held it last, for messages.
    """

    def __init__(self, path: Path):
        self.path = path
        self._handle: int | None = None

    def acquire(self, exclusive: bool = True, patience: float = 0.0) -> bool:
        """Try for `patience` seconds; whether the lock is held now. A held lock changes its kind instead."""
        deadline = time.monotonic() + patience
        pause = 0.01
        while not self._try(fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH):
            if time.monotonic() >= deadline:
                return False
            time.sleep(pause)
            pause = min(2 * pause, 0.25)
        return True

    def release(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def owner(self) -> str:
        """Who holds the lock, as far as the file says."""
        try:
            return self.path.read_text(encoding="utf-8").strip() or "another process"
        except OSError:
            return "another process"

    def _try(self, kind: int) -> bool:
        while True:
            handle = self._handle
            if handle is None:
                make_folder(self.path.parent)
                try:
                    handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
                except FileNotFoundError:  # the folder was tidied away in this very moment
                    continue
                except OSError as error:
                    raise explained(error, self.path) from error
            try:
                fcntl.flock(handle, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                if self._handle is None:
                    os.close(handle)
                return False
            except OSError as error:
                os.close(handle)
                self._handle = None
                raise UserError(
                    f"{self.path}: this file system has no locks ({error.strerror}); extract to a local disk"
                ) from None
            # Somebody may have deleted the file between our open and our lock: then it protects nothing.
            if not _same_file(handle, self.path):
                os.close(handle)
                self._handle = None
                continue
            self._handle = handle
            try:
                os.truncate(handle, 0)
                os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
            except OSError as error:
                os.close(handle)
                self._handle = None
                raise explained(error, self.path) from error
            return True


def _same_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False
