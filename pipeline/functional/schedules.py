"""How the weight of a penalty changes over training."""

import math
from typing import Literal

Schedule = Literal["constant", "linear_decay", "cosine_decay", "linear_rise"]


def factor(schedule: Schedule, progress: float) -> float:
    """The factor on the weight at a given `progress` of training: 0 at the first step, 1 after the last.

    `linear_decay` and `cosine_decay` go from 1 to 0, so that training ends on the task alone; `linear_rise` goes from 0
    to 1.
    """
    match schedule:
        case "constant":
            return 1.0
        case "linear_decay":
            return 1.0 - progress
        case "cosine_decay":
            return (1.0 + math.cos(math.pi * progress)) / 2
        case "linear_rise":
            return progress
