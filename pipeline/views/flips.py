"""Flips: the mirrored image, a single view."""

from typing import Literal

import numpy as np

from pipeline import params
from pipeline.views import Change

KIND: Literal["image"] = "image"
VERSION = 1
MOST = 1


class Settings(params.Settings):
    """This family has no keys of its own."""


def draw(settings: Settings, random: np.random.Generator) -> Change:
    """Left and right exchanged."""
    return Change(mirror=1.0)
