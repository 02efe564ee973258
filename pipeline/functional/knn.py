"""Predictions by nearest neighbours: what features tell about labels without fitting a model."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def unit(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Rows divided by their L2 norm; a row of zeros stays as it is."""
    lengths: np.ndarray = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.maximum(lengths, 1e-12)


def vote(
    bank: Float[np.ndarray, "m d"],
    targets: Float[np.ndarray, "m c"],
    queries: Float[np.ndarray, "n d"],
    numbers: Sequence[int],
) -> Float[np.ndarray, "k n c"]:
    """For each query, the mean target of its nearest rows in the bank, for each number of neighbours.

    Nearest means the largest cosine. With one-hot targets, the class with the most neighbours has the largest output;
    among classes with equally many, it is the one with the larger sum of cosines.

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
        # Cosines divided by 2 (k + 1) sum to less than half a vote: they only decide ties.
        ballots = 1 + close[:, :number] / (2 * (number + 1))
        for place in range(number):
            output += ballots[:, place, None] * targets[near[:, place]]
        outputs.append(output / ballots.sum(1, keepdims=True))
    return np.stack(outputs)
