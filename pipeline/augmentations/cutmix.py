"""CutMix: a box of another image is pasted in, and the label mixed by area (https://arxiv.org/abs/1905.04899)."""

from typing import Literal

import numpy as np
from jaxtyping import Float
from pydantic import Field
from scipy.special import betaincinv
from torch import Tensor

from pipeline import params
from pipeline.augmentations._pixels import box_mask

KIND: Literal["image"] = "image"
PLACE = 6


class Settings(params.Settings):
    """Keys of this augmentation.

    Attributes:
        alpha: the area of a box has a Beta(alpha, alpha) distribution, before it is cut to the image.
        share: of the rows that are mixed.
    """

    alpha: float = Field(default=1.0, gt=0)
    share: float = Field(default=1.0, gt=0, le=1)


def numbers(settings: Settings) -> int:
    """Area and centre."""
    return 3


def share(settings: Settings, numbers: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, " n"]:
    """The area outside of the box."""
    _, _, width, height = _boxes(settings, numbers).T
    outside: np.ndarray = 1 - width * height
    return outside


def mix(
    settings: Settings,
    images: Float[Tensor, "n c h w"],
    others: Float[Tensor, "n c h w"],
    numbers: Float[np.ndarray, "n 3"],
) -> Float[Tensor, "n c h w"]:
    """Inside the box the other image. A pixel on the edge is a mixture of both."""
    return images.lerp(others, box_mask(_boxes(settings, numbers), images))


def _boxes(settings: Settings, numbers: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 4"]:
    """Squares of random area around a random point, cut to the image."""
    half = np.sqrt(betaincinv(settings.alpha, settings.alpha, numbers[:, :1])) / 2
    start, end = np.maximum(numbers[:, 1:] - half, 0), np.minimum(numbers[:, 1:] + half, 1)
    return np.concatenate([start, end - start], 1)
