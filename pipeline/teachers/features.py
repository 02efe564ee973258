"""Features that were computed elsewhere, as a teacher: a file of vectors and the ids of their rows.

A row of the dataset gets the features with the same id. That they were computed from that row cannot be checked. Files
have the formats of `aft features import`, and are read fastest if they are in the order of the dataset.
"""

import io
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from pipeline import params
from pipeline.errors import UserError, count, listed
from pipeline.files import read_regular
from pipeline.ids import Ids, Places
from pipeline.provenance import digest_files
from pipeline.store import interchange
from pipeline.teachers import Precision, Teacher

VERSION = 1
"""Increased whenever this file gives other features for the same recipe."""


class Settings(params.Settings):
    """Keys of a teacher of this family.

    Attributes:
        path: the file: .npy, .parquet, .h5, .safetensors or .pt, with features [rows, ...].
        ids: a file with one id per line, in the order of the features. If None, the file itself has the ids, as a
            column `id` in Parquet or a dataset `ids` in HDF5.
        heads: the name of the features.
    """

    path: str
    ids: str | None = None
    heads: tuple[Literal["pooled"]] = Field(default=("pooled",), strict=False)


def load(settings: Settings, precision: Precision, device: torch.device) -> "Features":
    """The teacher. The values are those of the file; the precision changes nothing.

    Raises:
        UserError: the file is missing, damaged or holds no features; ids are missing, repeated, or too few or many.
    """
    return Features(settings, device)


class Features(Teacher):
    """Rows of a file. A transformed row is its row number in the file."""

    kind = "id"
    uniform = True

    def __init__(self, settings: Settings, device: torch.device):
        path = Path(settings.path)
        self.settings, self.path, self.device = settings, path, device
        self.table = interchange.read_table(path)
        ids = self.table.ids if settings.ids is None else _lines(Path(settings.ids))
        if ids is None:
            raise UserError(f"{path}: no ids of rows there; write them to a file, one id per line, and set `ids` to it")
        if len(ids) != self.table.count:
            there = count(self.table.count, "row")
            raise UserError(f"{settings.ids}: {count(len(ids), 'id')}, and {path} has {there}; make them fit")
        self.ids = Ids.of(ids)
        self.places = Places(self.ids)
        if (twice := self.places.repeated()) is not None:
            raise UserError(f"{path}: the id {listed([repr(twice)])} occurs twice; every row needs its own")
        self.heads = {"pooled": self.table.shape}
        self.recipe = {
            "family": "features",
            "version": VERSION,
            "file": digest_files(path),
            "ids": None if settings.ids is None else digest_files(Path(settings.ids)),
            "precision": self.table.dtype,
        }
        self._reading = threading.Lock()  # not every format may be read by several threads

    def __reduce__(self) -> tuple[Any, ...]:
        return Features, (self.settings, self.device)

    def transform(self, content: Any) -> int:
        place = self.places.find(content)
        if place < 0:
            some = listed([repr(str(id)) for id in self.ids[:3]])
            raise ValueError(f"{self.path} has no features for it; its ids look like {some}")
        return place

    def cost(self, example: int) -> int:
        return 1

    def collate(self, examples: Sequence[int]) -> Mapping[str, Tensor]:
        places = np.asarray(examples)
        order = np.argsort(places, kind="stable")
        found = np.empty((len(places), *self.table.shape), np.float32)
        with self._reading:
            for run in np.split(order, np.flatnonzero(np.diff(places[order]) != 1) + 1):
                start = int(places[run[0]])
                found[run] = self.table.read(start, start + len(run))
        return {"features": torch.from_numpy(found)}

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"pooled": batch["features"]}


def _lines(path: Path) -> list[str]:
    """The lines of a file. `splitlines` would also end one at other marks, which an id may have."""
    try:
        text = read_regular(path).decode("utf-8-sig")
        return [line.rstrip("\n") for line in io.StringIO(text, newline=None)]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check `ids`") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 from byte {error.start} on; save it as UTF-8") from None
