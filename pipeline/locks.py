"""Locks on files of this machine, which end with their holder."""

import errno
import fcntl
import os
import socket
import stat
import time
from pathlib import Path

from pipeline.errors import UserError
from pipeline.files import explained, make_folder, own_file, same_file


class Lock:
    """An advisory lock on a file, which the kernel releases when its holder ends, even if it is killed.

    So there are no stale locks: a file left by a dead process is not locked. The file's text names its last holder, for
    messages.
    """

    lingers = 0.0

    def __init__(self, path: Path):
        self.path = path
        self._handle: int | None = None

    def acquire(self, exclusive: bool = True, patience: float = 0.0) -> bool:
        """Try for `patience` seconds; returns whether it is held now. Acquiring a held lock changes its kind."""
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

    def confirm(self) -> None:
        """Nothing: the kernel does not take a lock away."""

    def owner(self) -> str:
        """The holder of the lock, as far as known from the file."""
        try:
            return self.path.read_text(encoding="utf-8").strip() or "another process"
        except OSError:
            return "another process"

    def _try(self, kind: int) -> bool:
        while True:
            handle = self._handle
            if handle is None:
                make_folder(self.path.parent, sync_name=False)  # no lock is held after a power cut
                try:
                    handle = own_file(self.path, os.O_RDWR | os.O_CREAT)
                except FileNotFoundError:  # the folder was deleted in the meantime
                    continue
                except OSError as error:
                    if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
                        raise UserError(f"{self.path}: is not a lock file ({error.strerror}); delete it") from None
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
                    f"{self.path}: this file system has no locks ({error.strerror}); use a local disk"
                ) from None
            # An untrusted store may hold anything under the name of a lock.
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                os.close(handle)
                self._handle = None
                raise UserError(f"{self.path}: is not a lock file; delete it")
            # If the file was deleted between opening and locking it, the lock protects nothing.
            if not same_file(handle, self.path):
                os.close(handle)
                self._handle = None
                continue
            self._handle = handle
            try:
                os.truncate(handle, 0)
                os.pwrite(handle, myself().encode(), 0)
            except OSError as error:
                os.close(handle)
                self._handle = None
                raise explained(error, self.path) from error
            return True


def myself() -> str:
    """This process, for messages of other processes."""
    return f"process {os.getpid()} on {socket.gethostname()} (since {time.strftime('%Y-%m-%d %H:%M:%S')})"
