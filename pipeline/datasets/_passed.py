"""Files of a source that an interrupted `aft prepare` has read, and that need not be read again."""

from collections import deque
from collections.abc import Collection, Iterable
from hashlib import blake2b

from pipeline.errors import UserError
from pipeline.objects import Place, version_of


class SourceChanged(UserError):
    """A file that an interrupted run has read is not as it was."""


class Passed:
    """The first files of a source, by number and digest; all of them when they were read, none at first.

    A source asks for each of its files before it reads it, in order, and in the thread of who takes its rows.

    Args:
        files: how many are not read again.
        digest: of their names and versions.
        ids: of their rows.
        labels: the names of those that their rows have; None: not known.
    """

    def __init__(self, files: int = 0, digest: str = "", ids: Iterable[str] = (), labels: Collection[str] | None = ()):
        self.files, self.digest, self.ids, self.labels = files, digest, ids, labels
        self._asked, self._hasher = 0, blake2b(digest_size=16)
        self._coming: deque[tuple[str, tuple[int, str]]] = deque()

    def skips(self, file: Place) -> bool:
        """Whether a file is not read again.

        Raises:
            SourceChanged: the files before it are not those that were read.
        """
        if self._asked == self.files:
            self.check()
        before = self.asked
        self._hasher.update(f"{file}\n{version_of(file)}\n".encode(errors="surrogateescape"))
        self._asked += 1
        if self._asked <= self.files:
            return True
        self._coming.append((str(file), before))
        return False

    def check(self) -> None:
        """Raise `SourceChanged` if the files so far are not those that were read, or more of them are to come."""
        if self.files and self._asked <= self.files and self.asked != (self.files, self.digest):
            raise SourceChanged("dataset.source: has changed since it was read; run `aft prepare` again")

    @property
    def asked(self) -> tuple[int, str]:
        """The number and the digest of all files so far."""
        return self._asked, self._hasher.hexdigest()

    def before(self, origin: str | None) -> tuple[int, str] | None:
        """The number and the digest of the files before the one that a row comes from; None if it is not known."""
        while self._coming and self._coming[0][0] != origin:
            self._coming.popleft()
        return self._coming[0][1] if self._coming else None
