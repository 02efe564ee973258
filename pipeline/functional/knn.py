"""Classification by nearest neighbours: what the geometry of features knows without anything being fitted."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int


def unit(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Rows divided by their L2 norm; a row of zeros stays one."""
    lengths: np.ndarray = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.maximum(lengths, 1e-12)


def vote(
    bank: Float[np.ndarray, "m d"],
    labels: Int[np.ndarray, " m"],
    queries: Float[np.ndarray, "n d"],
    numbers: Sequence[int],
    classes: int,
) -> Int[np.ndarray, "k n"]:
    """The class of each query by the votes of its nearest rows in the bank, for each number of neighbours.

    Nearest is the largest cosine. The class with the most neighbours wins; among classes with as many, the one whose
    neighbours have the larger sum of cosines.

    Args:
        bank, labels: rows of unit norm and their class numbers.
        queries: rows of unit norm; they and the bank give one matrix [n, m].
        numbers: how many neighbours vote, each at most m.
        classes: C.
    """
    cosines = queries @ bank.T
    most = max(numbers)
    near = np.argpartition(cosines, len(bank) - most, axis=1)[:, len(bank) - most :]
    order = np.argsort(-np.take_along_axis(cosines, near, 1), axis=1, kind="stable")
    near = np.take_along_axis(near, order, 1)
    close = np.take_along_axis(cosines, near, 1).astype(np.float64)
    chosen = []
    for number in numbers:
        score = np.zeros((len(queries), classes))
        # A cosine divided by 2 (k + 1) sums to less than half a vote: it decides between equals and nothing else.
        ballots = 1 + close[:, :number] / (2 * (number + 1))
        np.add.at(score, (np.arange(len(queries))[:, None], labels[near[:, :number]]), ballots)
        chosen.append(score.argmax(1))
    return np.stack(chosen)
