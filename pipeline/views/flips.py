"""Flips: the mirrored image, a single view."""

from typing import Literal

import numpy as np
from jaxtyping import Float

from pipeline import params
from pipeline.views import Change

KIND: Literal["image"] = "image"
VERSION = 1
MOST = 1
NUMBERS = 0


class Settings(params.Settings):
    """This family has no keys of its own."""


def draw(settings: Settings, numbers: Float[np.ndarray, "n 0"]) -> Float[np.ndarray, "n 8"]:
    """Left and right exchanged."""
    return np.tile(Change(mirror=1.0), (len(numbers), 1))
