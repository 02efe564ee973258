"""Pairs: two texts joined, the row's own first.

The other text is that of any other row, drawn like all of a view from (seed, row id, view number), so a store does not
depend on splits. Rows that are validation or test rows in a split are no partners there: in training, a view with such
a partner gives way to the clean row.
"""

from typing import Literal

import numpy as np

from pipeline import params

KIND: Literal["text"] = "text"
VERSION = 1
MOST = None
ROWS = 2


class Settings(params.Settings):
    """Keys of views of this family.

    Attributes:
        separator: what stands between the texts.
    """

    separator: str = " "


def rewrite(settings: Settings, random: np.random.Generator, text: str, other: str) -> str:
    """Both texts, whole."""
    return f"{text}{settings.separator}{other}"
