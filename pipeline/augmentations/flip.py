"""Flip: left and right exchanged, for some images."""

from typing import Literal

import numpy as np
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from pipeline import params
from pipeline.augmentations._pixels import per_row

KIND: Literal["image"] = "image"
PLACE = 1


class Settings(params.Settings):
    """Keys of this augmentation. Leave it out where a mirrored image is another thing, as with digits.

    Attributes:
        share: of the images.
    """

    share: float = Field(default=0.5, ge=0, le=1)


def numbers(settings: Settings) -> int:
    """Whether."""
    return 1


def change(
    settings: Settings, images: Float[Tensor, "n c h w"], numbers: Float[np.ndarray, "n 1"]
) -> Float[Tensor, "n c h w"]:
    """Some of the images, mirrored."""
    return images.flip(3).where(per_row(numbers[:, 0], images) < settings.share, images)
