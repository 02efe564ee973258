"""What a dataset is made of: its source, and further ones whose rows have no label."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.datasets import Kind, Row, kind_of
from pipeline.errors import UserError
from pipeline.params import read_plugin

PREFIX = "unlabelled"
"""What the ids of rows of further sources begin with, so that none is an id of the source's own."""


@dataclass(frozen=True)
class Sources:
    """All rows of a dataset, read anew each time.

    Attributes:
        kind: what its rows hold.
        task: the task of its labels, where they can be of one only.
        own: yields the rows of its source.
        further: yields those of each further source.
    """

    kind: Kind
    task: str | None
    own: Callable[[], Iterator[Row]]
    further: Sequence[Callable[[], Iterator[Row]]] = ()

    def rows(self) -> Iterator[Row]:
        """Every row, the source's own first. Others have neither label nor split."""
        yield from self.own()
        for number, rows in enumerate(self.further, start=1):
            prefix = PREFIX if number == 1 else f"{PREFIX}-{number}"
            for row in rows():
                file = row.file or prefix
                yield replace(row, id=f"{prefix}:{row.id}", label=None, split=None, file=file, further=True)


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
    further = []
    for values in [unlabelled] if isinstance(unlabelled, Mapping) else unlabelled:
        other, its = read_plugin("datasets", values, f"{where}.unlabelled")
        if kind_of(other, its) != kind:
            raise UserError(
                f"{where}.unlabelled: {values['family']} holds {kind_of(other, its)} rows, and the source {kind}; "
                "choose another, or remove it"
            )
        further.append((other, its))
    return Sources(
        kind,
        getattr(family, "TASK", None),
        lambda: family.rows(settings),
        [lambda other=other, its=its: other.rows(its) for other, its in further],  # type: ignore[misc]
    )
