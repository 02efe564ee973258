"""Sources of data, one file a family. The file name is the name: `family: text_table` is `text_table.py`.

A family offers

- `KIND`: "text" or "image", what its rows hold;
- `Settings`: its keys in the `dataset` section of params.yaml;
- `rows(settings)`: yields every `Row`, in an order that does not change between calls;
- `TASK`: the task in `pipeline/tasks/` where its labels can be of one only; left out where the labels decide.

A family only reads. Splits, duplicates and rows that are left out are the business of `pipeline.data`.
"""

from dataclasses import dataclass
from typing import Literal

from pipeline.tasks import Label

Kind = Literal["text", "image"]

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test"}
"""What sources call their splits, in lower case, and what we call them."""


@dataclass(frozen=True)
class Row:
    """One example as its source has it.

    Attributes:
        id: names the row for good; unique in the dataset.
        content: raw text, or the encoded bytes of an image exactly as they came.
        label: a text, or the names of all labels that the row has, or None for a row whose label is not known.
        split: a name in `SPLITS`, in any case, where the source fixes it, else None.
        group: rows of one group are never in different splits (one author, one photo), or None.
        line: where the row begins in a file of lines, from 1, for messages; None for other sources.
    """

    id: str
    content: str | bytes
    label: Label | None = None
    split: str | None = None
    group: str | None = None
    line: int | None = None
