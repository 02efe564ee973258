"""Object storage, to read and write: s3://, gs:// and az://, through obstore.

There are no folders and no locks there, and nothing can be renamed. But an object appears as a whole, listings are
complete, and a write can be made conditional: on there being no such object, or on its version. A move is a copy and a
deletion, and a claim is a lease, which rests on these conditions. Services that ignore conditions are refused.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any
from uuid import uuid4

from pipeline import objects
from pipeline.ahead import mapped
from pipeline.checksum import checksum
from pipeline.errors import UserError
from pipeline.objects import AT_ONCE, asked, explained, fetch, fetched
from pipeline.objects import SCHEMES as SCHEMES
from pipeline.store.backends import JSON_BYTES, Backend, Bytes, WritableBackend
from pipeline.store.format import LOCKS, REPLACED
from pipeline.store.leases import Found, Lease, Version

BLOCK = 8 << 20
"""Bytes of a part of a large object, as it is sent or asked for."""

READ_BLOCK = 1 << 20


class ObjectBackend(WritableBackend):
    """Objects below a prefix.

    Args:
        store: of obstore.
        name: its URL, for messages.
        below: the prefix inside of `store`; it ends with a slash unless it is empty.
        clock: of the service; the backends of a store share it.
    """

    def __init__(self, store: Any, name: str, below: str = "", clock: "Clock | None" = None):
        self.name = name
        self._store, self._below = store, below
        self._clock = clock or Clock()

    def read(self, file: str, version: str | None = None) -> bytes | None:
        """A file's bytes; see `Backend`. Raises `UserError` if it has another version than a listing gave."""
        most = JSON_BYTES if file.endswith(".json") else None
        try:
            return fetch(self._store, self._below + file, f"{self.name}/{file}", _if(version), most)
        except FileNotFoundError:
            return None

    def size(self, file: str) -> int | None:
        with explained(self.name):
            try:
                return int(self._store.head(self._below + file)["size"])
            except FileNotFoundError:
                return None

    def blocks(self, file: str, version: str | None = None) -> Iterator[bytes]:
        """A file's bytes in parts; see `Backend`. All are of one version: of one that a listing gave, or of now."""
        with explained(self.name):
            about = self._store.head(self._below + file)
        asked, version = BLOCK, version or about["e_tag"]
        starts = range(0, about["size"], asked)
        # The next one is on its way while one is used.
        for part in mapped(lambda start: self.part(file, start, start + asked, version), starts, 2):
            yield from (part[at : at + READ_BLOCK] for at in range(0, len(part), READ_BLOCK))

    def part(self, file: str, start: int, stop: int, version: str | None = None) -> bytes:
        """Bytes of a file. Raises `UserError` if it has another version than one that a listing gave."""
        if stop <= start:
            return b""
        options = {"range": (start, stop), **_if(version)}
        return fetch(self._store, self._below + file, f"{self.name}/{file}", options)

    def files(self, below: str = "") -> list[str]:
        return sorted(self.sizes(below))

    def sizes(self, below: str = "") -> dict[str, int]:
        """The sizes of all files in bytes, or of those below one folder, by name."""
        return {file: about["size"] for file, about in self.listing(below).items()}

    def listing(self, below: str = "") -> dict[str, Mapping[str, Any]]:
        """What the service says of all files, or of those below one folder, by name."""
        prefix = f"{self._below}{below}".rstrip("/")
        with explained(self.name):
            listed = asked(lambda: [about for part in self._store.list(prefix or None) for about in part])
            return {about["path"].removeprefix(self._below): about for about in listed}

    def ages(self, below: str) -> dict[str, float]:
        """How many seconds ago each file in a folder was written."""
        with explained(self.name):
            listed = asked(lambda: [about for part in self._store.list(f"{self._below}{below}") for about in part])
            return {about["path"].removeprefix(self._below): self._age(about["last_modified"]) for about in listed}

    def find(self, file: str) -> Found | None:
        """A file with its version and its age, None if it does not exist."""
        try:
            content, about = fetched(self._store, self._below + file, f"{self.name}/{file}", {})
        except FileNotFoundError:
            return None
        with explained(self.name):
            return Found(content, dict(about), self._age(about["last_modified"]))

    def snapshot(self) -> "Snapshot":
        return Snapshot(self)

    def prepare(self) -> None:
        """Check that objects can be written, and that conditions are heeded, without which no claim is safe."""
        probe = f".probe-{uuid4().hex}"
        self.listing(probe)  # raises if there is no bucket; SeaweedFS would create it with the first write
        with explained(self.name):
            first = self._store.put(self._below + probe, b"1", mode="create")
            self._clock.set(self._store.head(self._below + probe)["last_modified"])
            self._store.put(self._below + probe, b"2")
            heeded = self.put_if(probe, b"3", None) is None and self.put_if(probe, b"4", first) is None
            self._store.delete(self._below + probe)
        if not heeded:
            raise UserError(
                f"{self.name}: this service ignores the conditions of a write (If-None-Match, If-Match), so processes "
                "would overwrite each other's work; use one that heeds them, or extract into a local folder"
            )

    def put(self, file: str, parts: Sequence[Bytes], durable: bool = True) -> str:
        views = [memoryview(part).cast("B") for part in parts if len(part)]
        with explained(self.name):
            if sum(view.nbytes for view in views) <= BLOCK:
                self._store.put(self._below + file, b"".join(views), use_multipart=False)
            else:
                blocks = (view[at : at + BLOCK] for view in views for at in range(0, view.nbytes, BLOCK))
                self._store.put(self._below + file, blocks, use_multipart=True, chunk_size=BLOCK)
        return checksum(views)

    def put_new(self, file: str, parts: Sequence[Bytes]) -> bool:
        return self.put_if(file, b"".join(parts), None) is not None

    def put_if(self, file: str, content: bytes, version: Version | None) -> Version | None:
        """Write a file if it still has a version, or still does not exist if that is None.

        Returns:
            Its new version, None if it was not written.
        """
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        mode = "create" if version is None else {key: version[key] for key in ("e_tag", "version") if version.get(key)}
        with explained(self.name):
            try:
                return dict(self._store.put(self._below + file, content, mode=mode))
            except (AlreadyExistsError, PreconditionError, FileNotFoundError):
                return None

    def delete(self, name: str) -> None:
        files = [self._below + file for file in (name, *self.files(name))]
        with explained(self.name), ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(self._delete, [files[at : at + 1000] for at in range(0, len(files), 1000)]))

    def copy(self, source: str, target: str) -> None:
        with explained(self.name):
            self._store.copy(self._below + source, self._below + target)

    def move(self, source: str, target: str) -> None:
        files = self.files(source) or [source] * (self.size(source) is not None)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda file: self.copy(file, target + file.removeprefix(source)), files))
        self.delete(source)

    def put_together(self, files: Mapping[str, Bytes]) -> None:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda file: self.put(file, [files[file]]), files))

    def claim(self, name: str) -> Lease:
        return Lease(self, f"{LOCKS}/{name}")

    def below(self, folder: str) -> "ObjectBackend":
        return ObjectBackend(self._store, f"{self.name}/{folder}", f"{self._below}{folder}/", self._clock)

    def _age(self, written: datetime) -> float:
        """Seconds since a time that the service gave."""
        if self._clock.ahead is None:
            probe = f"{self._below}.probe-{uuid4().hex}"
            self._store.put(probe, b"")
            self._clock.set(self._store.head(probe)["last_modified"])
            self._store.delete(probe)
        return self._clock.age(written)

    def _delete(self, paths: list[str]) -> None:
        try:
            self._store.delete(paths)
        except FileNotFoundError:  # some services say so, and may stop there
            for path in paths if len(paths) > 1 else []:
                self._delete([path])


class Clock:
    """The time of a service, by the last time that it gave. Clocks of machines differ, and may be set."""

    def __init__(self) -> None:
        self.ahead: float | None = None

    def set(self, now: datetime) -> None:
        """The time of the service is `now`."""
        self.ahead = now.timestamp() - time.monotonic()

    def age(self, written: datetime) -> float:
        """Seconds since a time of the service."""
        assert self.ahead is not None
        return time.monotonic() + self.ahead - written.timestamp()


class Snapshot(Backend):
    """The files of a backend as they are now, to read: one listing, and small files read together.

    With a request for each of thousands of markers, one after the other, opening a store would take minutes.
    """

    def __init__(self, backend: ObjectBackend):
        self.name = backend.name
        self._backend = backend
        listing = backend.listing()
        self._sizes = {
            file: about["size"] for file, about in listing.items() if not file.startswith((f"{LOCKS}/", f"{REPLACED}/"))
        }
        self._versions = {file: listing[file]["e_tag"] for file in self._sizes}
        texts = [file for file, size in self._sizes.items() if file.endswith(".json") and size <= JSON_BYTES]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            self._texts = dict(zip(texts, pool.map(backend.read, texts), strict=True))

    def read(self, file: str) -> bytes | None:
        if file not in self._sizes:
            return None
        return self._texts[file] if file in self._texts else self._backend.read(file, self._versions[file])

    def size(self, file: str) -> int | None:
        return self._sizes.get(file)

    def blocks(self, file: str) -> Iterator[bytes]:
        return self._backend.blocks(file, self._versions.get(file))

    def part(self, file: str, start: int, stop: int) -> bytes:
        return self._backend.part(file, start, stop, self._versions[file])

    def files(self, below: str = "") -> list[str]:
        return sorted(file for file in self._sizes if not below or file.startswith(f"{below}/"))


def _if(version: str | None) -> dict[str, str]:
    """The condition that an object still has a version."""
    return {"if_match": version} if version else {}


def open(url: str) -> ObjectBackend:
    """The store at a URL.

    Raises:
        UserError: obstore is not installed, or this is no URL of a bucket and a prefix without credentials in it.
    """
    scheme, rest = url.partition("://")[::2]
    if not rest.partition("/")[2].strip("/"):
        objects.check(url)
        raise UserError(f"{url}: write {scheme}://BUCKET/PREFIX")
    return ObjectBackend(objects.connect(url), url.rstrip("/"))
