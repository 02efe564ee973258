"""Mixup: the weighted mean of two images, and of their labels (https://arxiv.org/abs/1710.09412)."""

from typing import Literal

import numpy as np
from jaxtyping import Float
from pydantic import Field
from scipy.special import betaincinv
from torch import Tensor

from pipeline import params
from pipeline.augmentations._pixels import per_row

KIND: Literal["image"] = "image"
PLACE = 5


class Settings(params.Settings):
    """Keys of this augmentation.

    Attributes:
        alpha: the share of an image in its mixture has a Beta(alpha, alpha) distribution; larger values mix more.
        share: of the rows that are mixed.
    """

    alpha: float = Field(default=0.2, gt=0)
    share: float = Field(default=1.0, gt=0, le=1)


def numbers(settings: Settings) -> int:
    """The share of the row's own image."""
    return 1


def share(settings: Settings, numbers: Float[np.ndarray, "n 1"]) -> Float[np.ndarray, " n"]:
    """By the inverse of the distribution function."""
    found: np.ndarray = betaincinv(settings.alpha, settings.alpha, numbers[:, 0])
    return found


def mix(
    settings: Settings,
    images: Float[Tensor, "n c h w"],
    others: Float[Tensor, "n c h w"],
    numbers: Float[np.ndarray, "n 1"],
) -> Float[Tensor, "n c h w"]:
    """The mixtures."""
    return others.lerp(images, per_row(share(settings, numbers), images))
