"""A store at a URL, read-only: s3://, gs://, https://, zip:// and others that fsspec supports."""

from collections.abc import Iterator

from pipeline.errors import UserError
from pipeline.store.backends import JSON_BYTES, Backend

SCHEMES = ("*",)
BLOCK = 1 << 20


class RemoteBackend(Backend):
    """Files at a URL. One listing and one download of all JSON files, instead of a request for each.

    Raises:
        UserError: fsspec or the package for this scheme is missing, or the URL cannot be read.
    """

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
            texts = [name for name in texts if self._sizes[name] <= JSON_BYTES]
            fetched = self._files.cat([prefix + name for name in texts]) if texts else {}
        except (ValueError, ImportError, OSError) as error:
            raise UserError(f"{url}: cannot be read: {' '.join(str(error).split())}") from None
        self._prefix = prefix
        self._texts = {path.removeprefix(prefix): text for path, text in fetched.items()}

    def read(self, file: str) -> bytes | None:
        if file not in self._sizes:
            return None
        if file.endswith(".json") and self._sizes[file] > JSON_BYTES:
            raise UserError(f"{self.name}/{file}: has {self._sizes[file]:,} bytes, which is too large for such a file")
        return self._texts[file] if file in self._texts else self._files.cat_file(self._prefix + file)

    def size(self, file: str) -> int | None:
        return self._sizes.get(file)

    def blocks(self, file: str) -> Iterator[bytes]:
        with self._files.open(self._prefix + file, "rb") as opened:
            yield from iter(lambda: opened.read(BLOCK), b"")

    def part(self, file: str, start: int, stop: int) -> bytes:
        found: bytes = self._files.cat_file(self._prefix + file, start, stop)
        return found

    def files(self, below: str = "") -> list[str]:
        return sorted(name for name in self._sizes if not below or name.startswith(f"{below}/"))


def open(url: str) -> RemoteBackend:
    """The store at a URL."""
    return RemoteBackend(url)
