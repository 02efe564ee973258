"""A backend in memory: the smallest one that keeps the whole contract."""

import threading
import time
from collections.abc import Iterator, Sequence

from pipeline.checksum import checksum
from pipeline.store.backends import Bytes, WritableBackend

SCHEMES = ("ram",)
BLOCK = 7


class MemoryBackend(WritableBackend):
    """Files in a dict. Folders of it share the dict."""

    def __init__(self, name: str = "ram://store"):
        self.name = name
        self.contents: dict[str, bytes] = {}
        self.guard = threading.RLock()
        self.holders: dict[str, dict[int, bool]] = {}
        self.root = ""

    def read(self, file: str) -> bytes | None:
        return self.contents.get(self.root + file)

    def size(self, file: str) -> int | None:
        data = self.read(file)
        return None if data is None else len(data)

    def blocks(self, file: str) -> Iterator[bytes]:
        data = self.read(file)
        if data is None:
            raise FileNotFoundError(2, "No such file", file)
        yield from (data[at : at + BLOCK] for at in range(0, len(data), BLOCK))

    def files(self, below: str = "") -> list[str]:
        start = f"{self.root}{below}/" if below else self.root
        with self.guard:
            return sorted(name.removeprefix(self.root) for name in self.contents if name.startswith(start))

    def prepare(self) -> None:
        pass

    def put(self, file: str, parts: Sequence[Bytes], durable: bool = True) -> str:
        data = b"".join(bytes(part) for part in parts)
        with self.guard:
            self.contents[self.root + file] = data
        return checksum([data])

    def put_new(self, file: str, parts: Sequence[Bytes]) -> bool:
        with self.guard:
            new = self.size(file) is None
            if new:
                self.put(file, parts)
            return new

    def delete(self, name: str) -> None:
        with self.guard:
            for file in [name, *self.files(name)]:
                self.contents.pop(self.root + file, None)

    def claim(self, name: str) -> "MemoryClaim":
        return MemoryClaim(self, self.root + name)

    def below(self, folder: str) -> "MemoryBackend":
        part = MemoryBackend(f"{self.name}/{folder}")
        part.contents, part.guard, part.holders = self.contents, self.guard, self.holders
        part.root = f"{self.root}{folder}/"
        return part


class MemoryClaim:
    """A claim among the threads of one process."""

    lingers = 0.0

    def __init__(self, backend: MemoryBackend, name: str):
        self.guard, self.holders = backend.guard, backend.holders.setdefault(name, {})

    def acquire(self, exclusive: bool = True, patience: float = 0.0) -> bool:
        deadline = time.monotonic() + patience
        while True:
            with self.guard:
                others = [kind for holder, kind in self.holders.items() if holder != id(self)]
                if not (any(others) or (exclusive and others)):
                    self.holders[id(self)] = exclusive
                    return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.001)

    def release(self) -> None:
        with self.guard:
            self.holders.pop(id(self), None)

    def confirm(self) -> None:
        pass

    def owner(self) -> str:
        return "another thread"


def open(url: str) -> MemoryBackend:
    return MemoryBackend(url)
