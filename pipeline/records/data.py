"""What `aft prepare` records of the dataset."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from pipeline.provenance import digest_of
from pipeline.records.record import Record


class ManifestRecord(Record):
    """data/manifest.json: what the prepared rows are, and what was left out.

    Attributes:
        format: of the folder; another one is refused.
        kind: `text` or `image`.
        digest: of the ids and contents of all rows.
        task, outputs, unit: what a label is, and the names of a model's outputs.
        label_shape: of one label; empty where it is a single number.
        classes: their names; empty where the task has none.
        without_label: rows that have none.
        splits: how many there are.
        roles: by name, the number that stands for it in rows.parquet.
        rows_of_class: per split, by role, the rows of every class.
        dropped: rows of the source that were left out, by reason.
        notes: what the user should know of the data.
        settings: of `dataset` in params.yaml, with all defaults.
        files: the checksums of the other files, by name.
    """

    command: ClassVar[str] = "aft prepare"

    format: int
    kind: Literal["text", "image"]
    rows: int
    digest: str
    task: str
    outputs: tuple[str, ...]
    unit: str
    label_shape: tuple[int, ...]
    classes: tuple[str, ...] = ()
    without_label: int
    splits: int
    roles: dict[str, int]
    rows_of_class: tuple[dict[str, tuple[int, ...]], ...] = ()
    dropped: dict[str, int] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()
    settings: dict[str, Any]
    files: dict[str, str]

    @property
    def files_digest(self) -> str:
        """Of everything prepared: contents, labels and roles. Records of later stages hold it."""
        return digest_of(self.files)
