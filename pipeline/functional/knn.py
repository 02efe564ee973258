"""Predictions by nearest neighbours: what the geometry of features knows without anything being fitted."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def unit(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Rows divided by their L2 norm; a row of zeros stays one."""
    lengths: np.ndarray = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.maximum(lengths, 1e-12)


def vote(
    bank: Float[np.ndarray, "m d"],
    targets: Float[np.ndarray, "m c"],
    queries: Float[np.ndarray, "n d"],
    numbers: Sequence[int],
) -> Float[np.ndarray, "k n c"]:
    """The mean target of the nearest rows in the bank of each query, for each number of neighbours.

    Nearest is the largest cosine. With one-hot targets, the largest output is that of the class with the most
    neighbours; among classes with as many, of the one whose neighbours have the larger sum of cosines.

    Args:
        bank, targets: rows of unit norm and their targets.
        queries: rows of unit norm; they and the bank give one matrix [n, m].
        numbers: how many neighbours vote, each at most m.
    """
    cosines = queries @ bank.T
    most = max(numbers)
    near = np.argpartition(cosines, len(bank) - most, axis=1)[:, len(bank) - most :]
    order = np.argsort(-np.take_along_axis(cosines, near, 1), axis=1, kind="stable")
    near = np.take_along_axis(near, order, 1)
    close = np.take_along_axis(cosines, near, 1).astype(np.float64)
    outputs = []
    for number in numbers:
        output = np.zeros((len(queries), targets.shape[1]))
        # A cosine divided by 2 (k + 1) sums to less than half a vote: it decides between equals and nothing else.
        ballots = 1 + close[:, :number] / (2 * (number + 1))
        for place in range(number):
            output += ballots[:, place, None] * targets[near[:, place]]
        outputs.append(output / ballots.sum(1, keepdims=True))
    return np.stack(outputs)
