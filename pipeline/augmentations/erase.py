"""Random erasing: a box of the image gets the image's mean colour (https://arxiv.org/abs/1708.04896)."""

from typing import Literal

import numpy as np
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from pipeline import params
from pipeline.augmentations._pixels import box_mask

KIND: Literal["image"] = "image"
PLACE = 4


class Settings(params.Settings):
    """Keys of this augmentation.

    Attributes:
        share: of the images.
        smallest, largest: the share of an image's area that a box covers.
        ratio: the largest ratio of a box's sides.
    """

    share: float = Field(default=0.25, ge=0, le=1)
    smallest: float = Field(default=0.02, gt=0, lt=1)
    largest: float = Field(default=0.33, gt=0, lt=1)
    ratio: float = Field(default=3.3, ge=1)

    @model_validator(mode="after")
    def _in_order(self) -> "Settings":
        if self.smallest > self.largest:
            raise ValueError(f"smallest is {self.smallest} and largest {self.largest}; exchange them")
        return self


def numbers(settings: Settings) -> int:
    """Whether, area, shape and place."""
    return 5


def change(
    settings: Settings, images: Float[Tensor, "n c h w"], numbers: Float[np.ndarray, "n 5"]
) -> Float[Tensor, "n c h w"]:
    """Some of the images with a box of their mean colour. A box that would not fit is cut to the image."""
    area = settings.smallest + (settings.largest - settings.smallest) * numbers[:, 1]
    shape = settings.ratio ** (2 * numbers[:, 2] - 1)
    sides = np.minimum(np.sqrt([area * shape, area / shape]), 1) * (numbers[:, 0] < settings.share)
    mask = box_mask(np.stack([*((1 - sides) * numbers[:, 3:].T), *sides], 1), images)
    return images.lerp(images.mean((2, 3), keepdim=True), mask)
