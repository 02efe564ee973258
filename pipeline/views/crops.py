"""Crops: a random box of an image, enlarged, mirrored half of the time, with slightly changed colours.

The random resized crop of Inception (https://arxiv.org/abs/1409.4842) with weaker colour jitter, as is usual for
distillation on shared views (https://arxiv.org/abs/2106.05237).
"""

from typing import Literal

import numpy as np
from jaxtyping import Float
from pydantic import Field

from pipeline import params
from pipeline.views import boxes

KIND: Literal["image"] = "image"
VERSION = 1
MOST = None
NUMBERS = 8


class Settings(params.Settings):
    """Keys of views of this family.

    Attributes:
        smallest: the smallest share of the image's area that a box covers.
        ratio: the largest ratio of a box's sides.
        mirror: exchange left and right in half of the views; false where that changes the meaning, as with digits.
        colour: brightness, contrast and saturation are multiplied by a factor from 1 - colour to 1 + colour.
    """

    smallest: float = Field(default=0.35, gt=0, le=1)
    ratio: float = Field(default=4 / 3, ge=1)
    mirror: bool = True
    colour: float = Field(default=0.2, ge=0, lt=1)


def draw(settings: Settings, numbers: Float[np.ndarray, "n 8"]) -> Float[np.ndarray, "n 8"]:
    """A box of random area and shape at a random place. A box that would not fit is cut to the image."""
    mirror = (numbers[:, 4:5] < 0.5) * float(settings.mirror)
    lowest, highest = 1 - settings.colour, 1 + settings.colour
    colours = lowest + (highest - lowest) * numbers[:, 5:]
    return np.concatenate([boxes(numbers[:, :4], settings.smallest, settings.ratio), mirror, colours], 1)
