"""Crops: a random box of an image, enlarged, mirrored half of the time, with slightly changed colours.

The random resized crop of Inception (https://arxiv.org/abs/1409.4842) with weaker colour jitter, as is usual for
distillation on shared views (https://arxiv.org/abs/2106.05237).
"""

import math
from typing import Literal

import numpy as np
from pydantic import Field

from pipeline import params
from pipeline.views import Change

KIND: Literal["image"] = "image"
VERSION = 1
MOST = None


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


def draw(settings: Settings, random: np.random.Generator) -> Change:
    """A box of random area and shape at a random place. A box that would not fit is cut to the image."""
    area = random.uniform(settings.smallest, 1)
    shape = math.exp(random.uniform(-1, 1) * math.log(settings.ratio))
    width, height = min(math.sqrt(area * shape), 1.0), min(math.sqrt(area / shape), 1.0)
    left, top = random.uniform(0, 1 - width), random.uniform(0, 1 - height)
    mirror = float(random.random() < 0.5)
    colours = random.uniform(1 - settings.colour, 1 + settings.colour, 3)
    return Change(left, top, width, height, mirror if settings.mirror else 0.0, *colours.tolist())
