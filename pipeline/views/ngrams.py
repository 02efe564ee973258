"""N-grams: a few neighbouring words of a text, as a text of its own (https://arxiv.org/abs/1903.12136, section 3.2)."""

from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from pipeline import params

KIND: Literal["text"] = "text"
VERSION = 1
MOST = None
ROWS = 1


class Settings(params.Settings):
    """Keys of views of this family.

    Attributes:
        shortest: the fewest words of a view.
        longest: the most words of a view; a shorter text is taken whole.
    """

    shortest: int = Field(default=3, ge=1)
    longest: int = Field(default=10, ge=1)

    @model_validator(mode="after")
    def _in_order(self) -> "Settings":
        if self.shortest > self.longest:
            raise ValueError(f"shortest is {self.shortest} and longest {self.longest}; exchange them")
        return self


def rewrite(settings: Settings, random: np.random.Generator, text: str) -> str:
    """Neighbouring words: first their number is drawn, then their start. A text without words stays as it is."""
    words = text.split()
    if not words:
        return text
    length = min(int(random.integers(settings.shortest, settings.longest + 1)), len(words))
    start = int(random.integers(len(words) - length + 1))
    return " ".join(words[start : start + length])
