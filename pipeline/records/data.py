"""The record of `aft prepare`: the dataset."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from pipeline.provenance import digest_of
from pipeline.records.record import Record


class ManifestRecord(Record):
    """data/manifest.json: the prepared rows, and what was left out.

    Attributes:
        format: version of the folder's layout; other versions are refused.
        kind: what rows hold; see `pipeline.datasets.Kind`.
        digest: of the ids and contents of all rows.
        task, outputs, unit: of the labels, and the names of a model's outputs.
        label_shape: of one label; empty where it is a single number.
        classes: their names; empty where the task has none.
        without_label: how many rows have none.
        splits: how many there are.
        roles: by name, the number in rows.parquet.
        rows_of_class: per split, by role, the rows of every class.
        dropped: rows of the source that were left out, by reason.
        notes: what the user should know about the data.
        settings: of `dataset` in params.yaml, with all defaults.
        files: the checksums of the other files, by name.
    """

    command: ClassVar[str] = "aft prepare"

    format: int
    kind: Literal["text", "image", "text+text", "image+text"]
    rows: int
    digest: str
    task: str
    outputs: tuple[str, ...]
    unit: str
    label_shape: tuple[int, ...]
    classes: tuple[str, ...] = ()
    without_label: int
    splits: int = Field(ge=1)
    roles: dict[str, int]
    rows_of_class: tuple[dict[str, tuple[int, ...]], ...] = ()
    dropped: dict[str, int] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()
    settings: dict[str, Any]
    files: dict[str, str]

    @property
    def files_digest(self) -> str:
        """The digest of everything prepared: contents, labels and roles. Records of later stages contain it."""
        return digest_of(self.files)
