"""Pairs: two texts joined, the row's own first.

The other text comes from any other row, drawn from (seed, row id, view number) like everything in a view, so a store
does not depend on splits. Validation and test rows of a split are not used as partners there: in training, a view with
such a partner is replaced by the clean row.
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
        separator: text between the two.
    """

    separator: str = " "


def rewrite(settings: Settings, random: np.random.Generator, text: str, other: str) -> str:
    """Both texts in full."""
    return f"{text}{settings.separator}{other}"
