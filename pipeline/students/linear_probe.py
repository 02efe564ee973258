r"""A linear head on the features in the stores: a baseline, not a student that can be served alone.

Side by side, the head is linear in the features of all sources. As an outer product, for two sources of different
modalities, it is linear in every product of a feature of one source and a feature of the other,

$$ z_c = \sum_{ij} W_{cij} u_i v_j + b_c, $$

a bilinear form, computed output by output: the n x d_u d_v products are never formed. With `scaling: as_published`
these are the linear probes of Qiu et al. 2024 (https://arxiv.org/abs/2406.07337); the other scaling is ours. Both are
trained with the run's own optimiser, seeds and rows.

The features that it returns are the scaled features of all sources side by side. They are not trained.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline import students
from pipeline.errors import UserError
from pipeline.functional.standardisation import statistics
from pipeline.params import Settings as Base
from pipeline.store import Reader

KIND: Literal["features"] = "features"


class Settings(Base):
    """Keys of a student of this family.

    Attributes:
        combine: `side_by_side`, or `outer_product` of two sources.
        scaling: `as_published` leaves features raw; `standardised` gives each feature mean 0 and one scale, and each
            source's rows mean norm 1, over the training rows. Products of centred features cannot distinguish a row
            from its negative, so a standardised outer product also gives each source a feature that is always 1: the
            products then include the features of each source alone.
    """

    combine: Literal["side_by_side", "outer_product"] = "side_by_side"
    scaling: Literal["as_published", "standardised"] = "standardised"


def fit(settings: Settings, teachers: Mapping[str, Reader], rows: np.ndarray) -> dict[str, Any]:
    """The width of each source, and the shift and scale of every feature, from the training rows."""
    if settings.combine == "outer_product" and len(teachers) != 2:
        raise UserError(
            f"linear_probe: combine: outer_product multiplies the features of two sources, and the run has "
            f"{len(teachers)}: name two, or set combine: side_by_side"
        )
    widths = [reader.dim for reader in teachers.values()]
    if settings.scaling == "as_published":
        return {"widths": widths, "shift": 0.0, "scale": 1.0}
    shifts, scales = [], []
    for name, reader in teachers.items():
        mean, std, row_norm = statistics(rows, reader)
        if row_norm == 0:
            raise UserError(f"linear_probe: the features of `{name}` are the same for every training row")
        shifts.append(mean)
        scales.append(1 / (std * row_norm))
    return {"widths": widths, "shift": np.concatenate(shifts).tolist(), "scale": np.concatenate(scales).tolist()}


def inputs(settings: Settings, fitted: dict[str, Any], teachers: Mapping[str, Reader]) -> "Cached":
    """The features as they are stored."""
    return Cached(tuple(teachers.values()))


def build(settings: Settings, fitted: dict[str, Any], classes: int, pretrained: bool = True) -> "LinearProbe":
    """A head for C outputs that starts at zero; `pretrained` changes nothing."""
    return LinearProbe(settings, fitted, classes)


class Cached:
    """Raw features of each source, in the run's order."""

    def __init__(self, readers: tuple[Reader, ...]):
        self.readers = readers

    def batch(
        self, rows: np.ndarray, views: None = None, augmented: None = None, device: torch.device = students.CPU
    ) -> Any:
        """Features of the rows, [n, D] per source, in the precision that the store gives them; always of clean rows."""
        return students.place(tuple(torch.from_numpy(reader(rows)) for reader in self.readers), device)

    def keep_on(self, device: torch.device, budget: int) -> int:
        """Nothing: the readers of a run's teachers are elsewhere."""
        return 0


class LinearProbe(students.Student):
    """See the module."""

    shift: Tensor
    scale: Tensor

    def __init__(self, settings: Settings, fitted: dict[str, Any], classes: int):
        super().__init__()
        self.widths: list[int] = fitted["widths"]
        self.width = sum(self.widths)
        self.register_buffer("shift", torch.tensor(fitted["shift"]))
        self.register_buffer("scale", torch.tensor(fitted["scale"]))
        self.product = settings.combine == "outer_product"
        self.constants = int(settings.scaling == "standardised")
        self.head: nn.Module = nn.Linear(self.width, classes)
        if self.product:
            one, other = (width + self.constants for width in self.widths)
            self.head = nn.Bilinear(one, other, classes)
        # The loss is convex, so any start gives the same minimum; from zero, no random numbers are needed.
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def forward(self, inputs: tuple[Float[Tensor, "n _"], ...]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n c"]]:
        """Scaled features side by side, and outputs, of n rows; see `Cached.batch`."""
        features = (torch.cat([raw.to(self.scale.dtype) for raw in inputs], 1) - self.shift) * self.scale
        if not self.product:
            return features, self.head(features)
        one, other = (nn.functional.pad(x, (self.constants, 0), value=1.0) for x in features.split(self.widths, 1))
        return features, self.head(one, other)
