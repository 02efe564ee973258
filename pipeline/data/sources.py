"""What a dataset is made of: its source, and further ones whose rows have no label; and how far they were read."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any, NamedTuple

from pipeline.datasets import Kind, Passed, Row, kind_of
from pipeline.errors import UserError
from pipeline.params import read_plugin

PREFIX = "unlabelled"
"""What the ids of rows of further sources begin with, so that none is an id of the source's own."""


class Position(NamedTuple):
    """How far a source was read.

    Attributes:
        rows: how many rows come before.
        files: how many files were begun.
        digest: of these; see `Passed`.
        inside: how many rows of the last of them come before; None: all.
    """

    rows: int = 0
    files: int = 0
    digest: str = ""
    inside: int | None = None


@dataclass(frozen=True)
class Known:
    """What is known of rows that are not read again.

    Attributes:
        positions: up to where, of each source that was begun.
        ids: gives the ids of the rows from one on, up to another.
        labels: the names of their labels.
    """

    positions: Sequence[Position] = ()
    ids: Callable[[int, int], Iterator[str]] = lambda start, stop: iter(())
    labels: Collection[Any] = ()


@dataclass(frozen=True)
class Sources:
    """All rows of a dataset, read anew each time.

    Attributes:
        kind: what its rows hold.
        task: the task of its labels, where they can be of one only.
        each: read its source, and each further one.
    """

    kind: Kind
    task: str | None
    each: Sequence[Callable[[Passed], Iterator[Row]]]

    def rows(self, known: Known = Known()) -> "Reading":
        """Every row that is not known, the source's own first. Others have neither label nor split."""
        return Reading(self.each, known)


class Reading:
    """The rows of sources, as they are read.

    Attributes:
        begun: how many rows come before the first one that is read.
        divides: whether all rows before the one that was given last can be left out another time.
    """

    def __init__(self, each: Sequence[Callable[[Passed], Iterator[Row]]], known: Known):
        self._each, self._known = each, known
        self.begun = sum(position.rows for position in known.positions)
        self.divides = True
        self._ended: list[Position] = []
        self._rows, self._file, self._file_begins = 0, (0, ""), 0

    @property
    def positions(self) -> list[Position]:
        """Up to the row that was given last, or of all at the end; if it `divides`."""
        if len(self._ended) == len(self._each):
            return self._ended
        return [*self._ended, Position(self._rows, *self._file, self._rows - self._file_begins)]

    def __iter__(self) -> Iterator[Row]:
        """Raises `SourceChanged` if what is not read again is not as it was."""
        first = 0
        for source, read in enumerate(self._each):
            prefix = {0: "", 1: f"{PREFIX}:"}.get(source, f"{PREFIX}-{source}:")
            begin = self._known.positions[source] if source < len(self._known.positions) else Position()
            ids = (id.removeprefix(prefix) for id in self._known.ids(first, first + begin.rows))
            passed = Passed(*begin[1:], ids, None if source else self._known.labels)
            rows, origin = begin.rows, ""
            for row in read(passed):
                if self.divides and row.origin != origin:
                    file = passed.up_to(row.origin)
                    self.divides = file is not None
                    if file:
                        origin, self._file, self._file_begins = row.origin or "", file[0], rows - file[1]
                self._rows = rows
                rows += 1
                if source:
                    where = row.file or prefix[:-1]
                    row = replace(row, id=prefix + row.id, label=None, split=None, file=where, further=True)
                yield row
            passed.check()
            self.divides = self.divides and passed.asked[0] > 0
            self._ended.append(Position(rows, *passed.asked))
            first += rows


def read_sources(
    source: Mapping[str, Any], unlabelled: Mapping[str, Any] | Sequence[Mapping[str, Any]] = (), where: str = "dataset"
) -> Sources:
    """The sources that settings describe.

    Args:
        source, unlabelled: of the section `dataset` of params.yaml.
        where: its name, for messages.

    Raises:
        UserError: a family or a key is wrong, or further rows are of another kind.
    """
    family, settings = read_plugin("datasets", source, f"{where}.source")
    kind = kind_of(family, settings)
    each = [_reader(family, settings)]
    for values in [unlabelled] if isinstance(unlabelled, Mapping) else unlabelled:
        other, its = read_plugin("datasets", values, f"{where}.unlabelled")
        if kind_of(other, its) != kind:
            raise UserError(
                f"{where}.unlabelled: {values['family']} holds {kind_of(other, its)} rows, and the source {kind}; "
                "choose another, or remove it"
            )
        each.append(_reader(other, its))
    return Sources(kind, getattr(family, "TASK", None), each)


def _reader(family: Any, settings: Any) -> Callable[[Passed], Iterator[Row]]:
    """Reads a source; of a family that takes no `passed`, all of it."""
    if "passed" in signature(family.rows).parameters:
        return lambda passed: family.rows(settings, passed)
    return lambda passed: family.rows(settings)
