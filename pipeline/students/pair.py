r"""A student of pairs: one model for each side, and a head that is bilinear in their features.

$$ z_c = a_c(u) + b_c(v) + u^\top W_c v, $$

with the features u and v of the two sides, and a and b the linear heads of their models. The products say what one side
means for the other; they start at 0. The student's features are those of both sides, one after the other.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import field_validator
from torch import Tensor, nn

from pipeline import students
from pipeline.augmentations import Augmented
from pipeline.data import Dataset
from pipeline.datasets import SIDES
from pipeline.errors import UserError
from pipeline.params import Settings as Base
from pipeline.params import read_plugin
from pipeline.students._contract import CPU, Graph
from pipeline.views import Views

KIND: Literal["pair"] = "pair"


class Settings(Base):
    """Keys of a student of this family.

    Attributes:
        first: the model of the first content of a pair: a family of students and its settings, such as
            `{family: bag_of_words, width: 64}`.
        second: that of the second. If None, another one with the same settings as the first.
    """

    first: dict[str, Any]
    second: dict[str, Any] | None = None

    @field_validator("first", "second")
    @classmethod
    def _is_a_student_of_rows(cls, values: dict[str, Any] | None) -> dict[str, Any] | None:
        if values is None:
            return None
        try:
            family, _ = read_plugin("students", values, "it")
        except UserError as error:
            raise ValueError(f"is no student: {error}") from None
        if family.KIND not in ("text", "image"):
            raise ValueError(f"{values['family']} reads {family.KIND}; take a family that reads texts or images")
        return values

    @property
    def sides(self) -> list[tuple[ModuleType, Any]]:
        """The family of each side and its settings."""
        return [read_plugin("students", values, "side") for values in (self.first, self.second or self.first)]


def fit(settings: Settings, data: Dataset, rows: np.ndarray) -> dict[str, Any]:
    """What each side's family fits on its contents of the training rows.

    Raises:
        UserError: a side's family reads another kind of content.
    """
    fitted = {}
    for side, (family, own) in zip(SIDES, settings.sides, strict=True):
        seen = data.of(side)
        if seen.kind != family.KIND:
            raise UserError(f"pair: the {side} content of a row is {seen.kind}, and its student reads {family.KIND}")
        fitted[side] = family.fit(own, seen, rows)
    return fitted


def inputs(settings: Settings, fitted: dict[str, Any], data: Dataset, views: Views | None = None) -> "Pairs":
    """Both sides of the pairs, as their families read them. Pairs have no views."""
    return Pairs([f.inputs(own, fitted[s], data.of(s)) for s, (f, own) in zip(SIDES, settings.sides, strict=True)])


def preprocessing(settings: Settings, fitted: dict[str, Any]) -> "BothSides":
    """Both sides of new pairs."""
    return BothSides([f.preprocessing(own, fitted[s]) for s, (f, own) in zip(SIDES, settings.sides, strict=True)])


def build(settings: Settings, fitted: dict[str, Any], classes: int, pretrained: bool = True) -> "PairStudent":
    """A student for C classes."""
    sides = zip(SIDES, settings.sides, strict=True)
    return PairStudent([f.build(own, fitted[s], classes, pretrained=pretrained) for s, (f, own) in sides], classes)


class Pairs:
    """A dataset of pairs, as `students.Inputs`: a batch is that of each side."""

    def __init__(self, sides: Sequence[students.Inputs]):
        self.sides = sides

    def batch(
        self,
        rows: np.ndarray,
        views: np.ndarray | None = None,
        augmented: Augmented | None = None,
        device: torch.device = CPU,
    ) -> tuple[Any, ...]:
        """The batch of each side; pairs have neither views nor augmentations."""
        return tuple(side.batch(rows, device=device) for side in self.sides)

    def keep_on(self, device: torch.device, budget: int) -> int:
        """The bytes that both sides take; the first one has the whole budget."""
        taken = 0
        for side in self.sides:
            taken += side.keep_on(device, budget - taken)
        return taken


class BothSides:
    """New pairs, as `students.Preprocessing`."""

    def __init__(self, sides: Sequence[students.Preprocessing]):
        self.sides = sides

    @property
    def in_python(self) -> bool:
        """Whether it is, for both sides."""
        return all(side.in_python for side in self.sides)

    def __call__(self, rows: Sequence[tuple[Any, Any]]) -> tuple[Any, ...]:
        """The batch of each side."""
        return tuple(side(contents) for side, contents in zip(self.sides, zip(*rows, strict=True), strict=True))

    def files(self) -> dict[str, str]:
        """Those of each side, in a folder of its name."""
        both = zip(SIDES, self.sides, strict=True)
        return {f"{name}/{file}": text for name, side in both for file, text in side.files().items()}


class PairStudent(students.Student):
    """See the module.

    Args:
        sides: the model of each side, with as many outputs.
        classes: outputs.
    """

    def __init__(self, sides: Sequence[students.Student], classes: int):
        super().__init__()
        self.sides = nn.ModuleList(sides)
        first, second = (side.width for side in sides)
        self.width = first + second
        self.products = nn.Bilinear(first, second, classes, bias=False)
        nn.init.zeros_(self.products.weight)

    def forward(self, inputs: tuple[Any, ...]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n c"]]:
        """Features and outputs of n pairs; see `Pairs.batch`."""
        (one, first), (other, second) = (side(batch) for side, batch in zip(self.sides, inputs, strict=True))
        return torch.cat([one, other], 1), first + second + self.products(one, other)

    def graph(self) -> Graph:
        """Not yet: formats that keep a graph hold students of one content."""
        raise UserError("a pair student has no graph of plain tensors; export it with --format native")
