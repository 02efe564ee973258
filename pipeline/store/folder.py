"""Where a store's files are: a local folder, or anywhere that fsspec reaches."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import UserError

BLOCK = 1 << 20


class Folder(ABC):
    """Files by their name below a root, such as `pooled/c.0.0`; read-only."""

    name: str

    @abstractmethod
    def read(self, file: str) -> bytes | None:
        """A file's bytes, None if it is not there."""

    @abstractmethod
    def size(self, file: str) -> int | None:
        """A file's size in bytes, None if it is not there."""

    @abstractmethod
    def blocks(self, file: str) -> Iterator[bytes]:
        """A file's bytes from start to end, none of it kept. Raises `OSError` if it cannot be read."""

    @abstractmethod
    def files(self) -> list[str]:
        """The names of all files, in order."""


class LocalFolder(Folder):
    """A folder on this machine."""

    def __init__(self, path: Path):
        self.path = path
        self.name = str(path)

    def read(self, file: str) -> bytes | None:
        try:
            return (self.path / file).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def size(self, file: str) -> int | None:
        try:
            return (self.path / file).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def blocks(self, file: str) -> Iterator[bytes]:
        with (self.path / file).open("rb") as opened:
            yield from iter(lambda: opened.read(BLOCK), b"")

    def files(self) -> list[str]:
        return sorted(
            file.relative_to(self.path).as_posix()
            for file in self.path.rglob("*")
            if file.is_symlink() or not file.is_dir()
        )


class RemoteFolder(Folder):
    """A folder behind a URL. One listing and one fetch of all JSON files, not a round trip for each."""

    def __init__(self, url: str):
        try:
            import fsspec
        except ModuleNotFoundError:
            raise UserError(f"{url}: remote stores need fsspec; pip install fsspec") from None
        self.name = url
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
            found = self._files.find(self._root, detail=True)
            prefix = self._files._strip_protocol(self._root).rstrip("/") + "/"
            self._sizes = {path.removeprefix(prefix): int(about["size"]) for path, about in found.items()}
            texts = [name for name in self._sizes if name.endswith(".json") and "/replaced/" not in f"/{name}"]
            fetched = self._files.cat([prefix + name for name in texts]) if texts else {}
        except (ValueError, ImportError, OSError) as error:
            raise UserError(f"{url}: cannot be read: {' '.join(str(error).split())}") from None
        self._prefix = prefix
        self._texts = {path.removeprefix(prefix): text for path, text in fetched.items()}

    def read(self, file: str) -> bytes | None:
        if file not in self._sizes:
            return None
        return self._texts[file] if file in self._texts else self._files.cat_file(self._prefix + file)

    def size(self, file: str) -> int | None:
        return self._sizes.get(file)

    def blocks(self, file: str) -> Iterator[bytes]:
        with self._files.open(self._prefix + file, "rb") as opened:
            yield from iter(lambda: opened.read(BLOCK), b"")

    def files(self) -> list[str]:
        return sorted(self._sizes)


def folder_at(path: str | Path) -> Folder:
    """The folder at a path, or behind a URL."""
    return RemoteFolder(str(path)) if "://" in str(path) else LocalFolder(Path(path))
