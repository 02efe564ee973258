"""Where a store's files are: one contract, and one file for each kind of place.

A backend keeps files by their name below a root, such as `pooled/c.0.0`. The store reads and writes through this
contract alone; what a file system or a service offers beyond it is used in its file here only.

- `local.py`: a folder on this machine, to read and write;
- `remote.py`: whatever fsspec reaches by a URL, to read.

Another place, such as object storage, is one more file. It names the URL schemes that it serves in `SCHEMES` (`*` for
those that nobody else does), and `open(url)` returns its backend. `tests/store/backends/contract.py` tests any backend.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Protocol, runtime_checkable

Bytes = bytes | memoryview

JSON_BYTES = 16 << 20
"""More than any JSON file of a store has: larger ones are refused before they are read."""


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

        Raises `UserError` where a name stands for something else than a file, or a JSON file is too large for a store.
        """

    @abstractmethod
    def size(self, file: str) -> int | None:
        """A file's size in bytes, None if it does not exist. Raises `UserError` if it is something else than a file."""

    @abstractmethod
    def blocks(self, file: str) -> Iterator[bytes]:
        """A file's bytes from start to end, a block at a time. Raises `OSError` if it cannot be read."""

    @abstractmethod
    def files(self, below: str = "") -> list[str]:
        """The names of all files, or of those below one folder, in order."""


class WritableBackend(Backend):
    """Files to read and write.

    A file is whole or does not exist, at any moment and for any reader. Finished files are replaced, never changed in
    place. Writing raises `UserError` where the user can help: no space, no permission.
    """

    @abstractmethod
    def prepare(self) -> None:
        """Make ready for writing: create the root, find out whether it can be written."""

    @abstractmethod
    def put(self, file: str, parts: Sequence[Bytes], durable: bool = True) -> str:
        """Write a file atomically, the parts one after the other, and return their checksum.

        Args:
            file: replaced if it exists. Only one process at a time writes one file.
            parts: C-contiguous.
            durable: survive a power cut once this returns. If False, `sync` has to follow.
        """

    @abstractmethod
    def put_new(self, file: str, parts: Sequence[Bytes]) -> bool:
        """The same if the file does not exist; returns whether it was written. Of several processes, one succeeds."""

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
        """Write several new files, none of which counts without the others; in any order, durable at the end."""
        for file, content in files.items():
            self.put(file, [content])

    def sync(self, files: Iterable[str]) -> None:
        """Make files that were written with `durable=False` survive a power cut."""

    def copy(self, source: str, target: str) -> None:
        """Copy a finished file; or share its bytes, since neither will ever change."""
        self.put(target, [self.read(source) or b""])

    def move(self, source: str, target: str) -> None:
        """Move a file, or a folder with all files below it. If it is cut short, repeating it completes it."""
        for file in [source] if self.size(source) is not None else self.files(source):
            self.copy(file, target + file.removeprefix(source))
            self.delete(file)


@runtime_checkable
class Claim(Protocol):
    """A right that one process has alone, or that several share. It ends with its process, however that ends."""

    def acquire(self, exclusive: bool = True, patience: float = 0.0) -> bool:
        """Try for `patience` seconds; returns whether it is held now. A claim that is held changes its kind.

        A failed change of kind may lose the claim.
        """

    def release(self) -> None:
        """Give it up, if it is held."""

    def owner(self) -> str:
        """Who holds it, as far as is known, for messages."""


def backend_at(place: str | Path | Backend) -> Backend:
    """The backend of a path or URL; a backend is returned as it is."""
    if isinstance(place, Backend):
        return place
    scheme = str(place).partition("://")[0] if "://" in str(place) else ""
    modules = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
    serving = {served: module for module in modules for served in module.SCHEMES}
    opened: Backend = serving.get(scheme, serving["*"]).open(str(place))
    return opened
