"""Word dropout: a text without some of its words (https://arxiv.org/abs/1511.06349)."""

from typing import Literal

import numpy as np
from pydantic import Field

from pipeline import params

KIND: Literal["text"] = "text"
VERSION = 1
MOST = None
ROWS = 1


class Settings(params.Settings):
    """Keys of views of this family.

    Attributes:
        share: probability that a word is left out, for each word independently.
    """

    share: float = Field(default=0.2, gt=0, lt=1)


def rewrite(settings: Settings, random: np.random.Generator, text: str) -> str:
    """The remaining words, at least one, joined by spaces. A text without words stays as it is."""
    words = text.split()
    if not words:
        return text
    drawn = random.random(len(words))
    kept = [word for word, number in zip(words, drawn, strict=True) if number >= settings.share]
    return " ".join(kept or [words[int(drawn.argmax())]])
