"""Files of a source that an interrupted `aft prepare` has read, and that need not be read again."""

from collections import deque
from collections.abc import Collection, Iterable
from hashlib import blake2b

from pipeline.errors import UserError
from pipeline.objects import Place, version_of


class SourceChanged(UserError):
    """A file that an interrupted run has read is not as it was."""


class Passed:
    """The first files of a source, by number and digest, of which no row is given again; none at first.

    A source asks for each of its files before it reads it, in order, and in the thread of who takes its rows.

    Args:
        files: how many were begun.
        digest: of their names and versions.
        inside: how many rows of the last of them are not given again; None: all.
        ids: of all these rows.
        labels: the names of those that their rows have; None: not known.
    """

    def __init__(
        self,
        files: int = 0,
        digest: str = "",
        inside: int | None = None,
        ids: Iterable[str] = (),
        labels: Collection[str] | None = (),
    ):
        self.files, self.digest, self.inside, self.ids, self.labels = files, digest, inside, ids, labels
        self._asked, self._hasher = 0, blake2b(digest_size=16)
        self._coming: deque[tuple[str, tuple[int, str], int]] = deque()

    def first_row(self, file: Place) -> int | None:
        """The number of the first row of a file to give, from 0; None if there is none, so that it is not read.

        Raises:
            SourceChanged: the files so far are not those that were read.
        """
        self._hasher.update(f"{file}\n{version_of(file)}\n".encode(errors="surrogateescape"))
        self._asked += 1
        if self._asked == self.files and self.asked != (self.files, self.digest):
            raise _changed()
        first = 0 if self._asked > self.files else self.inside if self._asked == self.files else None
        if first is not None:
            self._coming.append((str(file), self.asked, first))
        return first

    def check(self) -> None:
        """Raise `SourceChanged` if more files were read than there are."""
        if self._asked < self.files:
            raise _changed()

    @property
    def asked(self) -> tuple[int, str]:
        """The number and the digest of all files so far."""
        return self._asked, self._hasher.hexdigest()

    def up_to(self, origin: str | None) -> tuple[tuple[int, str], int] | None:
        """Of the file that a row comes from: `asked` with it, and its `first_row`; None if it is not known."""
        while self._coming and self._coming[0][0] != origin:
            self._coming.popleft()
        return self._coming[0][1:] if self._coming else None


def _changed() -> SourceChanged:
    return SourceChanged("dataset.source: has changed since it was read; run `aft prepare` again")
