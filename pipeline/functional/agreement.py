"""Whether two models know different things: how much one scores above the other, and how often only one is right."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from pipeline.functional.statistics import Paired, paired

RowScores = Sequence[Float[np.ndarray, " _"]]
"""Per split, the score of every row, such as 1 where a prediction is right and 0 where it is wrong."""


def gain(scores: RowScores, others: RowScores) -> Paired:
    """The mean score minus the other model's on the same rows, as a mean with its interval.

    The interval is over splits where there are several. A single split is compared row by row: its interval covers the
    choice of test rows, but not the choice of training labels.
    """
    if len(scores) == 1:
        return paired(scores[0] - others[0])
    return paired([float(mine.mean() - theirs.mean()) for mine, theirs in zip(scores, others, strict=True)])


def one_right(hits: Bool[np.ndarray, " n"], others: Bool[np.ndarray, " n"]) -> tuple[float, float]:
    """The share of rows that exactly one of two classifiers gets right, and what it would be by chance.

    By chance means that being right is independent between them at their accuracies p and q: p (1 - q) + q (1 - p).
    A share below chance means that both are wrong on the same rows, as two similar teachers are; a classifier compared
    with itself gives 0.
    """
    p, q = float(hits.mean()), float(others.mean())
    return float((hits != others).mean()), p * (1 - q) + q * (1 - p)
