"""Files and folders of this machine: written whole or not at all, and read once it is known what they are."""

import errno
import fcntl
import io
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.errors import UserError, system_error

TEXT_BYTES = 256 << 20
"""Bytes that a record can have, or another text that is read as a whole."""

SMALL = 256 << 20
TIMES = 100
"""See `refuse_bomb`."""

FORMULA = re.compile(r"[\t\r\n]|[\s\0\ufeff]*[=+\-@\uff1d\uff0b\uff0d\uff20]")
"""How a text begins that a spreadsheet may run, also after space and in full-width letters; after OWASP."""

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
"""What a URL begins with, and no folder is called."""

PARTIAL = ".partial"
"""Suffix of a file that is being written."""


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file whole or not at all; see `replacing`.

    Raises:
        UserError: the disk is full or the folder cannot be written; what was there before is untouched.
    """
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that is written under a temporary name, flushed to the disk, then renamed; after an error it is removed.

    A finished file is replaced and never changed in place, because it may be a hard link into DVC's cache. Of several
    processes that write it at once, each writes all of it, one after another.

    Raises:
        UserError: the disk is full or the folder cannot be written; what was there before is untouched.
    """
    partial = path.with_name(path.name + PARTIAL)
    refuse_url(path)
    make_folder(path.parent)
    try:
        with os.fdopen(_emptied_alone(partial), "wb") as file:
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
                os.replace(partial, path)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
        sync_folder(path.parent)
    except OSError as error:
        raise explained(error, path) from error


@contextmanager
def patient(path: Path) -> Iterator[io.FileIO]:
    """A file for libraries that crash when they cannot write, as HDF5 and torch do: they are told of it at the end.

    Nothing can be read from it after an error: HDF5 takes what it could not read back for what it wrote.

    Raises:
        OSError: the first error.
    """
    with _Patient(path, "w+b") as file:
        try:
            yield file
        except Exception:
            if file.error is None:
                raise
            raise file.error from None  # the library failed because its file is not what it wrote
    if file.error is not None:
        raise file.error


class _Patient(io.FileIO):
    """A file that keeps an error for later."""

    error: OSError | None = None

    def write(self, content: Any) -> int:
        left = memoryview(content).cast("B")
        size = len(left)
        try:
            while left:
                left = left[super().write(left) :]
        except OSError as error:
            self.error = self.error or error
        return size

    def readinto(self, buffer: Any) -> int:
        if self.error is not None:
            raise self.error
        return super().readinto(buffer)

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
        return size or 0


def cell(value: object) -> str:
    """A value for a table, quoted if a spreadsheet would run it as a formula."""
    text = str(value)
    return f"'{text}" if FORMULA.match(text) and not _is_number(text) else text


def is_utf8(name: str) -> bool:
    """Whether a name is valid UTF-8. Python represents other bytes of a file name as lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def explained(error: OSError, path: Path) -> Exception:
    """The `UserError` for a failed write; the error itself if its code is unknown."""
    return system_error(error, path) if error.errno else error


def open_regular(path: Path) -> int:
    """A handle to read a regular file. Anything else is refused: a pipe would hang, a device would never end.

    Raises:
        FileNotFoundError: there is none, or a folder of the path is a file.
        UserError: it is not a regular file, its links form a loop, or its name is too long.
    """
    try:
        _check_regular(path, os.stat(path).st_mode)  # checked before opening, because opening some devices has effects
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _unreadable(error, path) from None
    try:
        _check_regular(path, os.fstat(handle).st_mode)
    except UserError:
        os.close(handle)
        raise
    return handle


def regular_size(path: Path) -> int | None:
    """The size of a file in bytes, None if there is none. Raises `UserError` as `open_regular`."""
    try:
        found = os.stat(path)
    except OSError as error:
        problem = _unreadable(error, path)
        if isinstance(problem, FileNotFoundError):
            return None
        raise problem from None
    _check_regular(path, found.st_mode)
    return found.st_size


def file_exists(path: Path) -> bool:
    """Whether there is a file. Raises `UserError` if something else has its name, as `open_regular`."""
    return regular_size(path) is not None


def read_regular(path: Path, most: int | None = None) -> bytes:
    """The bytes of a file.

    Args:
        path: the file.
        most: bytes that such a file can have; any number if None.

    Raises:
        FileNotFoundError: there is none.
        UserError: it is not a regular file, has more bytes, or more than there is memory for.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if most is not None and size > most:
            raise UserError(f"{path}: has {size:,} bytes, and no such file has more than {most:,}; delete it")
        try:
            return file.read()
        except MemoryError:
            raise UserError(f"{path}: has {size:,} bytes, for which there is not enough memory") from None


def folder_size(folder: Path) -> int:
    """The bytes of all files in a folder, at any depth.

    Raises:
        FileNotFoundError: there is no folder.
        UserError: something in it is no file, or a folder in it is a link.
    """
    size = 0
    for path in folder.iterdir():
        if path.is_dir() and path.is_symlink():
            raise UserError(f"{path}: is a link to a folder; put the folder there")
        size += folder_size(path) if path.is_dir() else regular_size(path) or 0
    return size


def expands_too_much(size: int, becomes: int) -> bool:
    """Whether so many bytes from a compressed file of a size are too many; see `refuse_bomb`."""
    return becomes > max(SMALL, TIMES * size)


def refuse_bomb(path: Any, becomes: int, size: int | None = None) -> None:
    """Refuse a compressed file that would expand so much that it can only be meant to fill the memory or the disk.

    A file may expand to 256 MiB, and beyond that to 100 times its size: texts compress by 3 to 20, features by less.

    Args:
        path: the file, for the message.
        becomes: its size in bytes when decompressed, as it claims or so far.
        size: size in bytes of what it is read from, where that is not the file itself; looked up if None.

    Raises:
        UserError: that is more.
    """
    size = path.stat().st_size if size is None else size
    if expands_too_much(size, becomes):
        raise UserError(
            f"{path}: {size:,} bytes that expand to {becomes:,} or more; a file may expand to {TIMES} times its size; "
            "save it without compression"
        )


def own_file(path: Path, flags: int) -> int:
    """A handle for writing a file whose name may be taken; a link there is not followed."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)


def _emptied_alone(partial: Path) -> int:
    """A handle to an empty temporary file that no other process writes as long as it is open."""
    while True:
        handle = own_file(partial, os.O_WRONLY | os.O_CREAT)
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        # While this process waited, another may have given the file its name, or removed it.
        if same_file(handle, partial):
            os.ftruncate(handle, 0)
            return handle
        os.close(handle)


def without_secrets(url: str) -> str:
    """A URL for a message, which may end up in a log: without user, password and what signs it."""
    return re.sub(r"(://)[^/]*@", r"\1", url).partition("?")[0]


def refuse_url(path: Path) -> None:
    """Raise `UserError` if a path is what is left of a URL, such as `s3:/bucket/file`."""
    scheme = next((number for number, part in enumerate(path.parts[:-1]) if SCHEME.fullmatch(part)), None)
    if scheme is not None:
        url = f"{path.parts[scheme]}//{'/'.join(path.parts[scheme + 1 :])}"
        raise UserError(f"{without_secrets(url)}: a URL, and a path of this machine is needed there")


def _check_regular(path: Path, mode: int) -> None:
    kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
    if not stat.S_ISREG(mode):
        kind = kinds.get(stat.S_IFMT(mode), "device")
        raise UserError(f"{path}: is a {kind}, and a file is needed there; move it away")


def _unreadable(error: OSError, path: Path) -> Exception:
    """The exception for a failure to open a file: it is missing, or unreadable, or the error itself."""
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            try:
                refuse_url(path)
            except UserError as problem:
                return problem
            return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        case errno.ELOOP | errno.ENAMETOOLONG | errno.ENXIO:
            return system_error(error, path)
    return error


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk: without it, renames and new names may not survive a power cut."""
    sync_path(folder)


def sync_path(path: Path) -> None:
    """Flush one file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path, sync_name: bool = True) -> None:
    """Create a folder and its parents; durably, or with `sync_name` False as soon as its parent is flushed."""
    if not folder.is_dir():
        refuse_url(folder)
        make_folder(folder.parent, sync_name)
        try:
            folder.mkdir(exist_ok=True)
        except FileExistsError:
            raise UserError(f"{folder}: is a file, and a folder is needed there; move it away") from None
        except OSError as error:
            raise explained(error, folder) from error
        if sync_name:
            sync_folder(folder.parent)


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """A new folder next to `path`, for what is to get that name; only this user can enter it. It is removed at the end.

    What killed processes left there for the same path is removed too. Several processes may work for one path.

    Raises:
        UserError: the disk is full, or nothing can be written there.
    """
    for left in abandoned(path):
        shutil.rmtree(left, ignore_errors=True)
    try:
        folder, handle = _folder_alone(path)
    except OSError as error:
        raise explained(error, path) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def abandoned(path: Path) -> list[Path]:
    """The folders that killed processes left when they made something for a path; see `scratch_folder`."""
    name = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]{{8}}{re.escape(PARTIAL)}")
    return [other for other in sorted(path.parent.glob(".*")) if name.fullmatch(other.name) and _is_unlocked(other)]


def _folder_alone(path: Path) -> tuple[Path, int]:
    """A new folder next to a path, and the handle of its lock, which says that its process is at work."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=PARTIAL, dir=path.parent))
        # Between the two lines another process may have taken it for abandoned.
        with suppress(FileNotFoundError):
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            with suppress(OSError):  # a file system without locks: nothing there counts as abandoned
                fcntl.flock(handle, fcntl.LOCK_EX)
            if same_file(handle, folder):
                return folder, handle
            os.close(handle)


def _is_unlocked(folder: Path) -> bool:
    """Whether a folder of this user can be locked, so that no process is at work in it."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def replace_folder(new: Path, folder: Path) -> None:
    """Rename a finished folder. A folder that has the name is moved away first, and deleted last."""
    old = folder.with_name(f".{folder.name}.replaced")
    shutil.rmtree(old, ignore_errors=True)
    try:
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
        sync_folder(folder.parent)
    except OSError as error:
        raise explained(error, folder) from error
    finally:
        shutil.rmtree(old, ignore_errors=True)


def same_file(handle: int, path: Path) -> bool:
    """Whether a path still names the file of a handle."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False
