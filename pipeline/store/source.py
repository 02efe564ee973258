"""The features of one source: one head of one teacher's store, one vector per row."""

from dataclasses import dataclass
from typing import Any

from pipeline.errors import UserError
from pipeline.project import Project
from pipeline.sources import Source
from pipeline.store.reader import Reader
from pipeline.store.store import FeatureStore


@dataclass(frozen=True)
class SourceFeatures:
    """The features of a source, opened for reading.

    Attributes:
        source: which they are.
        store: of its teacher.
    """

    source: Source
    store: FeatureStore

    @classmethod
    def open(cls, project: Project, source: Source) -> "SourceFeatures":
        """Open the features of a source, which must be one vector per row.

        Raises:
            UserError: there is no such store or head, or a row of it is not one vector.
        """
        store = FeatureStore.open(project.store(source.teacher))
        if source.head not in store.heads and source.head not in store.incomplete:
            heads = sorted(head for head, kept in store.heads.items() if len(kept.shape) == 1)
            others = [Source(source.teacher, head).name for head in heads]
            instead = f"; write {' or '.join(others)}" if others else ""
            raise UserError(f"{store.path}: no head `{source.head}`, which `{source}` stands for{instead}")
        shape = store.heads[store.head_name(source.head)].shape
        if len(shape) != 1:
            raise UserError(
                f"{store.path}: a row of head `{source.head}` is {' x '.join(map(str, shape))} numbers and not one "
                f"vector, so nothing can be probed or learned from `{source}`; take another head, such as pooled"
            )
        return cls(source, store)

    @classmethod
    def all_of(cls, project: Project, teacher: str) -> "list[SourceFeatures]":
        """All complete heads of a teacher's store that are one vector per row.

        Raises:
            UserError: there is no store, or no such head in it.
        """
        store = FeatureStore.open(project.store(teacher))
        found = [cls(Source(teacher, head), store) for head, kept in store.heads.items() if len(kept.shape) == 1]
        if not found:
            raise UserError(
                f"{store.path}: no head is one vector per row, so there is nothing to probe; add `pooled` to the heads "
                f"of teachers.{teacher} in params.yaml and run `aft extract {teacher}`"
            )
        return sorted(found, key=lambda features: features.name)

    @property
    def name(self) -> str:
        """Of the source."""
        return self.source.name

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return self.store.heads[self.source.head].shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all rows on the disk."""
        return self.store.head_nbytes(self.source.head)

    @property
    def digest(self) -> str:
        """Changes when any of these features does. Other heads of the store do not count."""
        return self.store.head_digest(self.source.head)

    def reader(self, **options: Any) -> Reader:
        """A reader; options as in `FeatureStore.reader`."""
        return self.store.reader(self.source.head, **options)
