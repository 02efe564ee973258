"""The features of one source: one head of one teacher's store, one vector per row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count, takewhile
from typing import Any

from pipeline.errors import UserError
from pipeline.project import Project
from pipeline.sources import Source, view_head
from pipeline.store.changes import differences
from pipeline.store.reader import Reader
from pipeline.store.store import FeatureStore


@dataclass(frozen=True)
class SourceFeatures:
    """The features of a source, opened for reading.

    Attributes:
        source: the source.
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
            clean = {head: kept for head, kept in store.heads.items() if kept.view is None}
            heads = sorted(head for head, kept in clean.items() if len(kept.shape) == 1)
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
        found = [
            cls(Source(teacher, head), store)
            for head, kept in store.heads.items()
            if len(kept.shape) == 1 and kept.view is None
        ]
        if not found:
            raise UserError(
                f"{store.path}: no head is one vector per row, so there is nothing to probe; add `pooled` to the heads "
                f"of teachers.{teacher} in params.yaml and run `aft extract {teacher}`"
            )
        return sorted(found, key=lambda features: features.name)

    @property
    def name(self) -> str:
        """The name of the source."""
        return self.source.name

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return self.store.heads[self.source.head].shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all rows on disk."""
        return self.store.head_nbytes(self.source.head)

    @property
    def digest(self) -> str:
        """A digest of these features; other heads of the store do not affect it."""
        return self.store.head_digest(self.source.head)

    def check_classes(self, classes: Sequence[str]) -> None:
        """Make sure that a head with a column for each class, made from their names, has these classes in this order.

        Raises:
            UserError: it has others.
        """
        made = (self.store.heads[self.source.head].recipe or {}).get("classes")
        if made is not None and list(made) != list(classes):
            raise UserError(
                f"{self.store.path}: head `{self.source.head}` is of other classes, or in another order, than the "
                f"dataset's; run `aft extract {self.source.teacher}`"
            )

    @property
    def has_outputs(self) -> bool:
        """Whether these features are outputs for the task, one for each class that the head was made from."""
        return "classes" in (self.store.heads[self.source.head].recipe or {})

    def kept_views(self) -> dict[str, tuple[str, ...]]:
        """By family of views, the heads with these features for views 1, 2 and so on, with the settings of view 1."""
        found: dict[str, dict[int, str]] = {}
        for name, head in self.store.heads.items():
            if head.view is not None and name.startswith(f"{self.source.head}@"):
                found.setdefault(head.view["family"], {})[head.view["number"]] = name
        kept: dict[str, tuple[str, ...]] = {}
        for family, names in found.items():
            first = self.store.heads[names[1]].view if 1 in names else None
            alike = takewhile(lambda number: self._is_view(names.get(number), first, number), count(1))  # noqa: B023
            kept[family] = tuple(names[number] for number in alike)
        return kept

    def check_views(self, wanted: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
        """The heads with these features for some views.

        Args:
            wanted: for each, its part of a head's identity; see `Views.record`.

        Raises:
            UserError: the store does not have them, or with other settings.
        """
        heads = []
        again = f"run `aft extract {self.source.teacher}` and then `aft probe {self.source.teacher}`"
        for view in wanted:
            name = view_head(self.source.head, view["family"], view["number"])
            if name not in self.store.heads:
                raise UserError(
                    f"{self.store.path}: `{self.source.clean}` has no view {view['number']} by `{view['family']}`; "
                    f"{again}"
                )
            if changed := ", ".join(differences(dict(self.store.heads[name].view or {}), dict(view))):
                raise UserError(f"{self.store.path}: head `{name}` is of other views ({changed}); {again}")
            heads.append(name)
        return tuple(heads)

    def _is_view(self, head: str | None, first: Mapping[str, Any] | None, number: int) -> bool:
        """Whether a head is a view like the first one except for its number."""
        return head is not None and first is not None and self.store.heads[head].view == {**first, "number": number}

    def reader(self, **options: Any) -> Reader:
        """A reader; options as in `FeatureStore.reader`."""
        return self.store.reader(self.source.head, **options)
