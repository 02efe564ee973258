"""Comparison of files with their checksums, and a memory of it, so that each file is compared only once.

A file counts as unchanged as long as its size, time of modification and inode are. The memory is one small file per
folder, in `verified/` of the cache; if it is missing or cannot be written, files are read again.
"""

import json
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from pipeline.checksum import file_checksum
from pipeline.errors import UserError, system_error
from pipeline.files import PARTIAL, TEXT_BYTES, open_regular, read_regular, write_atomically
from pipeline.provenance import digest_of

NO_VERIFY = "AFT_NO_VERIFY"
"""If it is set in the environment, nothing is compared; `aft --no-verify` sets it, also for worker processes."""

State = list[int | str]
"""Size, time of modification in ns, inode and checksum of a file."""


def default_cache() -> Path:
    """$AFT_CACHE, or `aft` in the user's cache folder."""
    chosen = os.environ.get("AFT_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(chosen) if chosen else Path(home) / "aft"


def verifying() -> bool:
    """Whether files are compared with their checksums."""
    return not os.environ.get(NO_VERIFY)


def checksums(folder: Path) -> dict[str, str]:
    """The checksum of every file below a folder, by relative name, for the folder's record."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_checksum(path) for path in files}


class VerifiedFiles:
    """Compares files with their checksums, once, now or in the background.

    Args:
        folder: where the files are.
        checksums: by name in the folder.
        remedy: what to do about a damaged file, for the message.
        cache: the folder for the memory; the default one if None.
    """

    def __init__(self, folder: Path, checksums: Mapping[str, str], remedy: str, cache: Path | None = None):
        cache = cache or default_cache()
        self._folder, self._checksums, self._remedy = folder, checksums, remedy
        self._record = cache / "verified" / f"{digest_of([str(folder.resolve()), sorted(checksums)])}.json"
        self._thread: threading.Thread | None = None
        self._damage: str | None = None
        self._done = False

    def begin(self) -> None:
        """Start in a background thread, if not started yet."""
        if self._thread is None and not self._done:
            # A daemon thread: a process that ends without results does not wait for it.
            self._thread = threading.Thread(target=self._compare, name="store-verify", daemon=True)
            self._thread.start()

    def finish(self) -> None:
        """Wait until all files were compared.

        Raises:
            UserError: a file is damaged or missing.
        """
        if self._thread is not None:
            self._thread.join()
        # After a fork the child has no such thread, and compares by itself.
        if not self._done:
            self._compare()
        if self._damage is not None:
            raise UserError(self._damage)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_thread": None}

    def _compare(self) -> None:
        known, seen = self._known(), {}
        for name, checksum in self._checksums.items():
            path = self._folder / name
            try:
                os.close(open_regular(path))  # even if nothing is compared: a pipe would hang the reader
                state = _state(path, checksum)
                if verifying() and known.get(name) != state and file_checksum(path) != checksum:
                    raise UserError(f"{path}: damaged; {self._remedy}")
            except FileNotFoundError:
                self._damage = f"{path}: no such file; {self._remedy.removeprefix('delete this file and ')}"
                break
            except UserError as error:
                self._damage = str(error)
                break
            except OSError as error:
                self._damage = str(system_error(error, path))
                break
            seen[name] = state
        unfinished = any(part.endswith(PARTIAL) for part in self._folder.resolve().parts)  # soon of another name
        if verifying() and seen != known and not unfinished:
            # A failure only costs time: the files are read again next time.
            with suppress(UserError, OSError):
                write_atomically(self._record, json.dumps(seen))
        self._done = True

    def _known(self) -> dict[str, State]:
        try:
            found = json.loads(read_regular(self._record, TEXT_BYTES))
        except (OSError, ValueError, RecursionError, UserError):
            return {}
        return found if isinstance(found, dict) else {}


def _state(path: Path, checksum: str) -> State:
    found = os.stat(path)
    return [found.st_size, found.st_mtime_ns, found.st_ino, checksum]
