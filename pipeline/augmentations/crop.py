"""Crop: a random box of the image, enlarged to its size, as in Inception (https://arxiv.org/abs/1409.4842)."""

from typing import Literal

import numpy as np
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from pipeline import params
from pipeline.views import Change, boxes, changed_batch

KIND: Literal["image"] = "image"
PLACE = 0


class Settings(params.Settings):
    """Keys of this augmentation.

    Attributes:
        smallest: the smallest share of the image's area that a box covers.
        ratio: the largest ratio of a box's sides.
    """

    smallest: float = Field(default=0.35, gt=0, le=1)
    ratio: float = Field(default=4 / 3, ge=1)


def numbers(settings: Settings) -> int:
    """Area, shape and place."""
    return 4


def change(
    settings: Settings, images: Float[Tensor, "n c h w"], numbers: Float[np.ndarray, "n 4"]
) -> Float[Tensor, "n c h w"]:
    """The boxes that `boxes` draws, by bilinear interpolation."""
    found = boxes(numbers, settings.smallest, settings.ratio)
    return changed_batch(images, np.concatenate([found, np.tile(Change()[4:], (len(found), 1))], 1))
