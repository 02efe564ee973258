"""Backends: where a store's files are. One contract, and one file per kind of storage.

A backend keeps files by name below a root, such as `pooled/c.0.0`. The store reads and writes only through this
contract; features of one file system or service are used only in its file.

- `local.py`: a folder on this machine, to read and write;
- `object.py`: a prefix of a bucket, s3://, gs:// or az://, to read and write;
- `remote.py`: any other URL that fsspec supports, to read.

Other storage is one more file. It lists its URL schemes in `SCHEMES` (`*` for all that no
other file has), and `open(url)` returns its backend. `tests/store/backends/contract.py` tests any backend.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Protocol, runtime_checkable

from pipeline.store.remote import Pointer

Bytes = bytes | memoryview

JSON_BYTES = 16 << 20
"""The most bytes of a JSON file in a store: larger ones are refused before they are read."""


class Backend(ABC):
    """Files to read. Safe for any number of threads.

    Attributes:
        name: the path or URL, for messages.
        folder: the local folder whose files may be mapped into memory; None if there is none.
    """

    name: str
    folder: Path | None = None

    @abstractmethod
    def read(self, file: str) -> bytes | None:
        """A file's bytes, None if it does not exist.

        Raises `UserError` if the name is not a regular file, or a JSON file is too large for a store.
        """

    @abstractmethod
    def size(self, file: str) -> int | None:
        """A file's size in bytes, None if it does not exist. Raises `UserError` if it is not a regular file."""

    @abstractmethod
    def blocks(self, file: str) -> Iterator[bytes]:
        """A file's bytes from start to end, a block at a time. Raises `OSError` if it cannot be read."""

    def part(self, file: str, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop - 1` of a file that exists, as far as it has them."""
        return (self.read(file) or b"")[start:stop]

    @abstractmethod
    def files(self, below: str = "") -> list[str]:
        """The names of all files, or of those below one folder, in order."""

    def snapshot(self) -> "Backend":
        """These files as they are now, to read many small ones; this backend itself where that is not faster."""
        return self


class WritableBackend(Backend):
    """Files to read and write.

    At any moment, a file is complete or does not exist, for all readers. Finished files are replaced, never changed in
    place. Writing raises `UserError` for what the user can fix, such as a full disk or missing permission.
    """

    @abstractmethod
    def prepare(self) -> None:
        """Prepare for writing: create the root, and check that it can be written."""

    @abstractmethod
    def put(self, file: str, parts: Sequence[Bytes], durable: bool = True) -> str:
        """Write a file atomically, from its parts in order, and return their checksum.

        Args:
            file: replaced if it exists. Only one process may write a file at a time.
            parts: C-contiguous.
            durable: whether the file survives a power cut once this returns. If False, `sync` must follow.
        """

    @abstractmethod
    def put_new(self, file: str, parts: Sequence[Bytes]) -> bool:
        """Write a file unless it exists; returns whether it was written. Among several processes, one succeeds."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Delete a file, or a folder with all files below it. Neither needs to exist."""

    @abstractmethod
    def claim(self, name: str) -> "Claim":
        """A claim on a name, not acquired yet."""

    @abstractmethod
    def below(self, folder: str) -> "WritableBackend":
        """A folder of this backend as a backend."""

    def put_together(self, files: Mapping[str, Bytes]) -> None:
        """Write several new files that only count together; in any order, durable at the end."""
        for file, content in files.items():
            self.put(file, [content])

    def sync(self, files: Iterable[str]) -> None:
        """Make files that were written with `durable=False` survive a power cut."""

    def copy(self, source: str, target: str) -> None:
        """Copy a finished file, or share its bytes, since neither file will change."""
        self.put(target, [self.read(source) or b""])

    def move(self, source: str, target: str) -> None:
        """Move a file, or a folder with all files below it. An interrupted move is completed by repeating it."""
        for file in [source] if self.size(source) is not None else self.files(source):
            self.copy(file, target + file.removeprefix(source))
            self.delete(file)


@runtime_checkable
class Claim(Protocol):
    """A lock that one process holds exclusively, or several share. It ends with its process, even if that is killed."""

    @property
    def lingers(self) -> float:
        """For how many seconds it may be held after its process was killed."""

    def acquire(self, exclusive: bool = True, patience: float = 0.0) -> bool:
        """Try for `patience` seconds; returns whether it is held now. Acquiring a held claim changes its kind.

        A failed change of kind may lose the claim.
        """

    def release(self) -> None:
        """Release it, if it is held."""

    def confirm(self) -> None:
        """Make sure that it is still held. Raises `UserError` if it was lost, as on object storage it can be."""

    def owner(self) -> str:
        """The holder, as far as known, for messages."""


def backend_at(place: str | Path | Backend) -> Backend:
    """The backend of a path or URL; a backend is returned as it is.

    A folder may stand for a URL; see `pipeline/store/remote.py`.
    """
    if isinstance(place, Backend):
        return place
    if "://" not in str(place) and (pointer := Pointer.of(Path(place))):
        place = pointer.url
    scheme = str(place).partition("://")[0] if "://" in str(place) else ""
    modules = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
    serving = {served: module for module in modules for served in module.SCHEMES}
    opened: Backend = serving.get(scheme, serving["*"]).open(str(place))
    return opened
