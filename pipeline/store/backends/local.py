"""A folder on this machine.

Files are written under a temporary name, flushed to the disk, then renamed. Large ones go to the disk without a copy in
the page cache (`O_DIRECT`). Copies are hard links. Claims are locks of the kernel (`flock`).
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.checksum import checksum
from pipeline.errors import UserError
from pipeline.files import (
    PARTIAL,
    explained,
    make_folder,
    open_regular,
    own_file,
    read_regular,
    regular_size,
    sync_folder,
    sync_path,
)
from pipeline.locks import Lock
from pipeline.store.backends import JSON_BYTES, Bytes, WritableBackend
from pipeline.store.memory import PAGE

SCHEMES = ("",)

Sync = Literal["name", "bytes", "nothing"]

READ_BLOCK = 1 << 20
BLOCK = 64 << 20
# From this size on, a file gets a thread for its checksum and is written without other files.
LARGE = 1 << 20


class LocalBackend(WritableBackend):
    """Files in a local folder, which may be mapped."""

    folder: Path

    def __init__(self, folder: Path):
        self.folder = folder
        self.name = str(folder)

    def read(self, file: str) -> bytes | None:
        try:
            return read_regular(self.folder / file, JSON_BYTES if file.endswith(".json") else None)
        except FileNotFoundError:
            return None

    def size(self, file: str) -> int | None:
        return regular_size(self.folder / file)

    def blocks(self, file: str) -> Iterator[bytes]:
        with os.fdopen(open_regular(self.folder / file), "rb", buffering=0) as opened:
            yield from iter(lambda: opened.read(READ_BLOCK), b"")

    def files(self, below: str = "") -> list[str]:
        # Not by `rglob`, which recurses: folders can be nested deeper than Python's stack.
        found: list[str] = []
        # Nor through a link: it might lead to the whole disk.
        folders = [] if self._link(below) else [below]
        while folders:
            folder = folders.pop()
            try:
                entries = list(os.scandir(self.folder / folder))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise explained(error, self.folder) from None
            for entry in entries:
                name = f"{folder}/{entry.name}" if folder else entry.name
                (folders if entry.is_dir(follow_symlinks=False) else found).append(name)
        return sorted(found)

    def prepare(self) -> None:
        make_folder(self.folder)

    def put(self, file: str, parts: Sequence[Bytes], durable: bool = True) -> str:
        path = self._own(file)
        make_folder(path.parent)
        return _write(path, parts, "name" if durable else "nothing")

    def put_new(self, file: str, parts: Sequence[Bytes]) -> bool:
        # A lock instead of a hard link, because not all file systems have hard links.
        alone = self.claim("create")
        alone.acquire(patience=float("inf"))
        try:
            if (self.folder / file).exists():
                return False
            self.put(file, parts)
            return True
        finally:
            alone.release()

    def put_together(self, files: Mapping[str, Bytes]) -> None:
        # Takes about as long as one file: the disk combines concurrent flushes.
        folders = {self._own(file).parent for file in files}
        for folder in folders:
            make_folder(folder, sync_name=False)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda file: _write(self.folder / file, [files[file]], "bytes"), files))
            list(pool.map(sync_folder, folders | {folder.parent for folder in folders}))

    def sync(self, files: Iterable[str]) -> None:
        paths = [self.folder / file for file in files]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(sync_path, paths))
            list(pool.map(sync_folder, {path.parent for path in paths}))

    def copy(self, source: str, target: str) -> None:
        path = self._own(target)
        make_folder(path.parent)
        partial = path.with_name(path.name + PARTIAL)
        partial.unlink(missing_ok=True)
        try:
            os.link((self.folder / source).resolve(), partial)
        except OSError:  # no hard links here
            super().copy(source, target)
            return
        os.replace(partial, path)
        # Renaming a file over another name of the same file does nothing, and leaves the first in place.
        partial.unlink(missing_ok=True)
        sync_folder(path.parent)

    def move(self, source: str, target: str) -> None:
        old, new = self._own(source), self._own(target)
        if old.exists():
            make_folder(new.parent)
            os.replace(old, new)
            sync_folder(new.parent)
            sync_folder(old.parent)

    def delete(self, name: str) -> None:
        path = self._own(name)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        folder = path.parent
        while folder != self.folder and self.folder in folder.parents and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
            folder = folder.parent

    def claim(self, name: str) -> Lock:
        return Lock(self._own(f"locks/{name}"))

    def below(self, folder: str) -> "LocalBackend":
        return LocalBackend(self.folder / folder)

    def _own(self, file: str) -> Path:
        """The path of a file to write, lock or delete, which is in the store itself.

        Raises:
            UserError: a folder of it is a link, by which a store from elsewhere would have other files written.
        """
        if link := self._link(file.rpartition("/")[0]):
            raise UserError(f"{link}: is a link, and a store writes into folders of its own; remove it")
        return self.folder / file

    def _link(self, folder: str) -> Path | None:
        """The first link on the way from the store to one of its folders, if there is one."""
        path = self.folder
        for name in folder.split("/") if folder else ():
            path = path / name
            if path.is_symlink():
                return path
        return None


def open(path: str) -> LocalBackend:
    """The folder at a path."""
    return LocalBackend(Path(path))


def _write(path: Path, parts: Sequence[Bytes], sync: Sync) -> str:
    """Write a file atomically, and return its checksum.

    The bytes reach the disk before the name does, and the name before this returns, so after a crash the file has its
    new content or its old one.

    Args:
        sync: with `bytes`, a later `sync_folder` makes the name durable; with `nothing`, a later `sync_path` also makes
            the bytes durable. A killed process leaves all or nothing even so; only a power cut may leave a part.
    """
    partial = path.with_name(path.name + PARTIAL)
    views = [memoryview(part).cast("B") for part in parts if len(part)]
    try:
        if sum(view.nbytes for view in views) < LARGE:
            check = checksum(views)
            _fill(partial, views, sync != "nothing")
        else:  # the processor is idle while the disk writes
            with ThreadPoolExecutor(1) as pool:
                found = pool.submit(checksum, views)
                _fill(partial, views, sync != "nothing")
                check = found.result()
        os.replace(partial, path)
        if sync == "name":
            sync_folder(path.parent)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise explained(error, path) from error
    return check


def _fill(path: Path, views: Sequence[memoryview], sync: bool) -> None:
    """Write all bytes to a new file, and flush them to disk if asked for."""
    with os.fdopen(own_file(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb", buffering=0) as file:
        for view in views:
            view = view[_write_directly(file.fileno(), view) :]
            while view:
                view = view[file.write(view[:BLOCK]) :]
        if sync:
            os.fsync(file.fileno())


def _write_directly(handle: int, view: memoryview) -> int:
    """Append the whole pages of `view` directly from memory; returns the number of bytes.

    An ordinary write copies them into the page cache first, which takes longer than the disk itself. Nothing is written
    if the view or the file's end is not page-aligned, or the file system does not support it.
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
        if error.errno != errno.EINVAL:  # from file systems without support, for the flag or for the first write
            raise
    finally:
        fcntl.fcntl(handle, fcntl.F_SETFL, flags)
    return done
