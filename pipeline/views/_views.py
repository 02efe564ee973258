"""The views of a teacher: their family and settings, and the view of each row."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from PIL import Image
from pydantic import Field

from pipeline.data import Dataset
from pipeline.datasets import Kind, rows_called
from pipeline.errors import UserError, count, listed
from pipeline.params import Params, Settings, parse, read_plugin
from pipeline.plugins import plugin, plugins
from pipeline.views._images import Change, changed

MOST = 1000
"""Views of a row in a store, each of which is a head of its own there."""


class ViewSettings(Settings):
    """Keys of views that all families share.

    Attributes:
        count: views of each row, the clean row not counted; 1,000 at most.
        seed: of their random numbers.
    """

    count: int = Field(ge=1)
    seed: int = Field(default=0, ge=0)


@dataclass(frozen=True)
class Views:
    """The views that a teacher sees of every row. Numbers of views count from 1; 0 is the clean row.

    Attributes:
        family: the file in pipeline/views/.
        settings: its own keys.
        count: views of each row.
        seed: of their random numbers.
    """

    family: str
    settings: Settings
    count: int
    seed: int

    @classmethod
    def read(cls, values: Any, where: str) -> "Views":
        """Read a section `views`.

        Raises:
            UserError: there is no such family, a key is wrong, the family has fewer different views, or it is more
                views than a store keeps.
        """
        if not isinstance(values, Mapping):
            raise UserError(f"{where}: expected a mapping such as {{family: crops, count: 4}}, found {values!r}")
        if values.get("count") == 0:
            raise UserError(f"{where}.count: 0 views; write 1 or more, or drop `views` to keep clean rows alone")
        common = {key: value for key, value in values.items() if key in ViewSettings.model_fields}
        own = {key: value for key, value in values.items() if key not in common}
        module, settings = read_plugin("views", own, where)
        asked = parse(ViewSettings, common, where)
        if module.MOST is not None and asked.count > module.MOST:
            raise UserError(
                f"{where}.count: {count(asked.count, 'view')}, and `{own['family']}` makes {module.MOST} that differ; "
                f"write count: {module.MOST}"
            )
        if asked.count > MOST:
            raise UserError(
                f"{where}.count: {count(asked.count, 'view')}, and a store keeps {MOST:,} of a row at most; write "
                "fewer, and `teacher: live` in runs that want views without end"
            )
        return cls(own["family"], settings, asked.count, asked.seed)

    @property
    def kind(self) -> Kind:
        """The rows that it changes."""
        kind: Kind = self._module.KIND
        return kind

    @property
    def paired(self) -> bool:
        """Whether a view is made of two rows."""
        return self.kind == "text" and self._module.ROWS > 1

    def check(self, kind: Kind, where: str) -> None:
        """Make sure that a dataset holds the rows that these views change.

        Raises:
            UserError: it does not; the line names the families that fit.
        """
        if kind != self.kind:
            others = [name for name in plugins("views") if kind == plugin("views", name).KIND]
            raise UserError(
                f"{where}: `{self.family}` changes {self.kind}s, and the dataset holds {rows_called(kind)}; "
                f"{f'take {listed(others)}' if others else 'remove it'}"
            )

    def records(self, data: Dataset) -> list[dict[str, Any]]:
        """The records of all views; see `record`."""
        return [self.record(number, data) for number in range(1, self.count + 1)]

    def record(self, number: int, data: Dataset) -> dict[str, Any]:
        """Everything that the view with this number depends on except the row, as JSON: the view's part of an identity.

        A view that is made of two rows depends on all rows, because any of them may be the partner.
        """
        found = {
            "family": self.family,
            "version": self._module.VERSION,
            "settings": self.settings.model_dump(mode="json"),
            "seed": self.seed,
            "number": number,
        }
        return found | ({"rows": data.digest} if self.paired else {})

    def text(self, data: Dataset, row: int, number: int) -> str:
        """The text of a view."""
        if not number:
            return str(data.content([row])[0])
        random = generator(self.seed, _id(data, row), number)
        rows = [row, _other(data, row, random)] if self.paired else [row]
        text: str = self._module.rewrite(self.settings, random, *map(str, data.content(rows)))
        return text

    def image(self, data: Dataset, row: int, number: int) -> Image.Image:
        """The image of a view, RGB: square, as large as the centre square of the row's image."""
        return changed(data.image(row).convert("RGB"), self._change(data, row, number))

    def content(self, data: Dataset, row: int, number: int) -> str | Image.Image:
        """The text or the image of a view, as `Teacher.transform` takes it. Raises ValueError if it does not decode."""
        return self.text(data, row, number) if self.kind == "text" else self.image(data, row, number)

    def changes(self, data: Dataset, rows: np.ndarray, numbers: np.ndarray) -> Float[np.ndarray, "n 8"]:
        """A `Change` for each row and number of a view, in the order given, as numbers."""
        pairs = zip(rows.tolist(), numbers.tolist(), strict=True)
        return np.array([self._change(data, row, number) for row, number in pairs]).reshape(-1, len(Change._fields))

    def partners(self, data: Dataset, rows: np.ndarray, numbers: np.ndarray) -> Int[np.ndarray, " n"]:
        """The other row that each view is made of; the row itself where there is none."""
        if not self.paired:
            return rows
        pairs = zip(rows.tolist(), numbers.tolist(), strict=True)
        found = [
            _other(data, row, generator(self.seed, _id(data, row), number)) if number else row for row, number in pairs
        ]
        return np.array(found, np.int64)

    def __str__(self) -> str:
        return f"{count(self.count, 'view')} `{self.family}`"

    @property
    def _module(self) -> ModuleType:
        return plugin("views", self.family)

    def _change(self, data: Dataset, row: int, number: int) -> Change:
        if not number:
            return Change()
        numbers = generator(self.seed, _id(data, row), number).random((1, self._module.NUMBERS))
        return Change(*self._module.draw(self.settings, numbers)[0].tolist())


def teacher_views(params: Params, teacher: str) -> Views | None:
    """The views that `teachers.<teacher>` asks for; None if it only has clean rows.

    Raises:
        UserError: there is no such teacher, or its views are wrong.
    """
    values = params.section(f"teachers.{teacher}").get("views")
    return None if values is None else Views.read(values, f"{params.source}: teachers.{teacher}.views")


def generator(seed: int, row_id: str, number: int) -> np.random.Generator:
    """The random numbers of one view of one row."""
    digest = blake2b(f"{seed}:{number}:{row_id}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest, "<u8")))


def _id(data: Dataset, row: int) -> str:
    return str(data.ids[row])


def _other(data: Dataset, row: int, random: np.random.Generator) -> int:
    """A random other row; the row itself in a dataset of one row."""
    if len(data) == 1:
        return row
    other = int(random.integers(len(data) - 1))
    return other + (other >= row)
