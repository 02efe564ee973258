"""Sources of data, one file per family. The file name is the name: `family: text_table` is `text_table.py`.

A family offers

- `KIND`: a `Kind`, what its rows hold; None if it depends on the settings, which then have a property `kind`;
- `Settings`: its keys in the `dataset` section of params.yaml;
- `rows(settings)`: yields every `Row`, in an order that does not change between calls. Rows that cannot be read, and
  files that are not examples, are yielded as well and marked, so that nothing disappears without being counted;
- `rows(settings, passed)` instead, if it reads files one after another: it asks `passed.first_row(file)` for each,
  leaves out the rows before that one, and gives each row its `origin`;
- `TASK`: the task in `pipeline/tasks/` if its labels are always of one task; left out if the labels decide.

A family only reads. `pipeline.data` makes splits, removes duplicates and leaves out rows.
"""

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.datasets._locations import Location
from pipeline.datasets._passed import Passed as Passed
from pipeline.datasets._passed import SourceChanged as SourceChanged
from pipeline.tasks import Label

Kind = Literal["text", "image", "text+text", "image+text"]
"""What a row holds: a text, an image, or a pair."""

SIDES = ("first", "second")
"""The two contents of a pair."""

RowContent = str | bytes | tuple[str | bytes, str | bytes]
"""A raw text, the encoded bytes of an image exactly as they came, or a pair of these."""

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "development"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What sources call their splits, in lower case, and what we call them; not `eval`, which may be val or test."""


def split_of(name: str) -> str | None:
    """Our name of a split that a source calls `name`, such as `Training`, `test_set` or `val2017`; None: it is none."""
    match = re.fullmatch(r"([a-z]+)[-_ ]?(set|data|images|split)?[-_ ]?(\d{4})?", name.strip().lower())
    return SPLITS.get(match[1]) if match else None


def parts_of(kind: str) -> list[str]:
    """The kinds of the contents of a row, of which a pair has two."""
    return kind.split("+")


def rows_called(kind: str) -> str:
    """What messages call rows of a kind."""
    return {"text+text": "pairs of texts", "image+text": "pairs of image and text"}.get(kind, f"{kind}s")


def kind_of(family: Any, settings: Any) -> Kind:
    """What the rows of a source hold."""
    kind: Kind = family.KIND or settings.kind
    return kind


@dataclass(frozen=True)
class Row:
    """One example as its source has it.

    Attributes:
        id: permanent, and unique in the dataset.
        content: of the type that belongs to its kind.
        label: a text, or the names of all labels of the row, or None if the label is not known.
        split: a name that `split_of` knows, if the source fixes it, else None.
        group: rows of one group are never in different splits (one author, one photo), or None.
        line: where the row begins in a file of lines, from 1, for messages; None for other sources.
        problem: why the source cannot read the row, whose content is then empty; None if it can.
        skipped: whether this is not an example, such as a file of notes among images; `problem` then says what it is.
            It is counted and listed, and does not stop anything.
        file: the file of the line, if there are several, for messages.
        remarks: notes for the user on how the row was read; the rows with each remark are counted.
        location: where its content lies, for datasets that do not copy it; None if it has no place of its own.
        origin: the file that all of it was read from, as `Passed` was asked for it; None if there is no such file.
        further: whether it is from a further source of rows without labels; set by `pipeline.data`.
    """

    id: str
    content: RowContent
    label: Label | None = None
    split: str | None = None
    group: str | None = None
    line: int | None = None
    problem: str | None = None
    skipped: bool = False
    file: str | None = None
    remarks: tuple[str, ...] = ()
    location: Location | None = None
    origin: str | None = field(default=None, compare=False)
    further: bool = False

    @property
    def place(self) -> str:
        """How messages name the row: `row r7 (line 9)`, or `row r7` where the source has no lines."""
        return place(self.id, self.line, self.file)


@dataclass(frozen=True)
class NewRows:
    """Rows to predict, of a source that has no labels.

    Attributes:
        ids: of all.
        contents: texts, paths or bytes of images, or pairs.
        problems: why a row cannot be read; empty if no problem is known.
        remarks: notes for the user on how each row was read, as in `Row`.
    """

    ids: list[str]
    contents: list[Any]
    problems: list[str]
    remarks: list[tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: slice) -> "NewRows":
        return NewRows(self.ids[rows], self.contents[rows], self.problems[rows], self.remarks[rows])

    def __add__(self, other: "NewRows") -> "NewRows":
        return NewRows(
            self.ids + other.ids,
            self.contents + other.contents,
            self.problems + other.problems,
            self.remarks + other.remarks,
        )


def place(id: str, line: int | None, file: str | None) -> str:
    """How messages name a row: `row r7 (line 9 of b.csv)`, with what is known of it."""
    where = " of ".join(filter(None, [f"line {line}" if line else "", file or ""]))
    return f"row {id} ({where})" if where else f"row {id}"
