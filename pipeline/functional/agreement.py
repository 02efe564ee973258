"""Whether two classifiers know different things: how much they gain together, and how often only one of them is right.

Both measures look at rows with known labels and at whether a classifier is right there, never at what it says instead.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from pipeline.functional.statistics import Paired, paired

Hits = Sequence[Bool[np.ndarray, " _"]]
"""Per draw of the splits, which rows a classifier has right."""


def gain(hits: Hits, others: Hits) -> Paired:
    """Accuracy minus the other's on the same rows, as a mean with its interval.

    Over draws where there are several. A single draw is compared row by row: its interval tells how much other rows
    of the same kind would change, and nothing of how much other training labels would.
    """
    if len(hits) == 1:
        return paired(hits[0].astype(float) - others[0].astype(float))
    return paired([float(mine.mean() - theirs.mean()) for mine, theirs in zip(hits, others, strict=True)])


def one_right(hits: Bool[np.ndarray, " n"], others: Bool[np.ndarray, " n"]) -> tuple[float, float]:
    """The share of rows that exactly one of two classifiers has right, and what it would be by chance.

    By chance means that being right is independent between them at their accuracies p and q: p (1 - q) + q (1 - p).
    Below chance they err on the same rows, as two teachers that know the same do; the same classifier twice has 0.
    """
    p, q = float(hits.mean()), float(others.mean())
    return float((hits != others).mean()), p * (1 - q) + q * (1 - p)
