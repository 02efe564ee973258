"""Word dropout: a text without some of its words, or tokens for a student that reads tokens (arXiv 1511.06349)."""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from pydantic import Field

from pipeline import params

KIND: Literal["text"] = "text"
PLACE = 0


class Settings(params.Settings):
    """Keys of this augmentation.

    Attributes:
        share: probability that a word is left out, for each word independently.
    """

    share: float = Field(default=0.1, gt=0, lt=1)


def keep(settings: Settings, numbers: Float[np.ndarray, "..."]) -> Bool[np.ndarray, "..."]:
    """Those with a number of `share` or more."""
    kept: np.ndarray = numbers >= settings.share
    return kept
