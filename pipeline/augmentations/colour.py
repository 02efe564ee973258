"""Colour: brightness, contrast and saturation, changed a little, in this order."""

from typing import Literal

import numpy as np
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from pipeline import params
from pipeline.views import changed_colours

KIND: Literal["image"] = "image"
PLACE = 3


class Settings(params.Settings):
    """Keys of this augmentation.

    Attributes:
        strength: each is multiplied by a factor from 1 - strength to 1 + strength.
    """

    strength: float = Field(default=0.2, ge=0, lt=1)


def numbers(settings: Settings) -> int:
    """A factor each."""
    return 3


def change(
    settings: Settings, images: Float[Tensor, "n c h w"], numbers: Float[np.ndarray, "n 3"]
) -> Float[Tensor, "n c h w"]:
    """As the colours of views are changed."""
    return changed_colours(images, 1 + settings.strength * (2 * numbers - 1))
