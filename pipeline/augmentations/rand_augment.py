"""RandAugment: some random operations of one strength, one after another (https://arxiv.org/abs/1909.13719)."""

from typing import Literal

import numpy as np
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from pipeline import params
from pipeline.augmentations._policy import BINS, OPERATIONS, Space, apply

KIND: Literal["image"] = "image"
PLACE = 2

SPACE = Space(shear=0.3, translate=0.0, share=150 / 331, rotate=30.0, blend=0.9, bits=4)


class Settings(params.Settings):
    """Keys of this augmentation.

    Attributes:
        operations: how many of an image.
        strength: of each, from 0 to 30.
    """

    operations: int = Field(default=2, ge=1)
    strength: int = Field(default=9, ge=0, lt=BINS)


def numbers(settings: Settings) -> int:
    """For each operation, which and in which direction."""
    return 2 * settings.operations


def change(
    settings: Settings, images: Float[Tensor, "n c h w"], numbers: Float[np.ndarray, "n k"]
) -> Float[Tensor, "n c h w"]:
    """Each image, changed by operations of its own."""
    levels = np.full(len(images), settings.strength / (BINS - 1))
    for which, direction in zip(numbers.T[::2], numbers.T[1::2], strict=True):
        operations = (len(OPERATIONS) * which).astype(np.int64)
        images = apply(images, SPACE, operations, levels, np.where(direction < 0.5, -1.0, 1.0))
    return images
