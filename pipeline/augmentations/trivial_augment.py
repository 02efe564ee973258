"""TrivialAugment (wide): one operation of random strength an image (https://arxiv.org/abs/2103.10158)."""

from typing import Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from pipeline import params
from pipeline.augmentations._policy import BINS, OPERATIONS, Space, apply

KIND: Literal["image"] = "image"
PLACE = 2

SPACE = Space(shear=0.99, translate=32.0, share=0.0, rotate=135.0, blend=0.99, bits=6)


class Settings(params.Settings):
    """This augmentation has no keys: that is its point."""


def numbers(settings: Settings) -> int:
    """Which operation, how strong, and in which direction."""
    return 3


def change(
    settings: Settings, images: Float[Tensor, "n c h w"], numbers: Float[np.ndarray, "n 3"]
) -> Float[Tensor, "n c h w"]:
    """Each image, changed by an operation of its own."""
    operations = (len(OPERATIONS) * numbers[:, 0]).astype(np.int64)
    levels = np.floor(BINS * numbers[:, 1]) / (BINS - 1)
    return apply(images, SPACE, operations, levels, np.where(numbers[:, 2] < 0.5, -1.0, 1.0))
