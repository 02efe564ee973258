"""What `aft export` records of a student that was taken home."""

from typing import ClassVar, Literal

from pydantic import Field

from pipeline.records.record import Record


class ExportRecord(Record):
    """export.json: what the folder of an exported student holds.

    Attributes:
        version: of the layout of the folder; another one is refused.
        format: the file in pipeline/exports/ that wrote the model, and reads it.
        run, seed: where the student comes from.
        refit: whether it was trained once more, on the labels of training and validation rows.
        kind: what its rows are.
        task, outputs, unit: what its outputs mean.
        table: how texts are made of the columns of a table, as in training; empty for images.
        compared: rows on which it was compared with the run's student, in another process.
        largest_difference: of an output there, absolute.
        versions: of the libraries that it was exported with.
        files: the checksum of every other file, by name.
    """

    command: ClassVar[str] = "aft export RUN --output FOLDER"

    version: int
    format: str
    run: str
    seed: int
    refit: bool = False
    kind: Literal["text", "image", "text+text", "image+text"]
    task: str
    outputs: tuple[str, ...]
    unit: str = ""
    table: dict[str, str] = Field(default_factory=dict)
    compared: int
    largest_difference: float
    versions: dict[str, str]
    files: dict[str, str]
