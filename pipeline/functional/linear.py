"""Linear models for probes: the result of a fit, and the interface of what fits one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

FOLDS = 5
"""Number of folds for cross-fitting: the outputs for the rows of a fold come from a fit on the other folds."""

BLOCK = 8192
"""Rows that are converted to double precision at a time."""


@dataclass(frozen=True)
class Linear:
    """outputs(x) = weight x + bias, float32, and how it was chosen on validation rows.

    Attributes:
        weight: [C, D].
        bias: [C].
        strength: the inverse of the L2 penalty.
        val_loss: on the validation rows, which chose the strength.
    """

    weight: Float[np.ndarray, "c d"]
    bias: Float[np.ndarray, " c"]
    strength: float
    val_loss: float

    def outputs(self, rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n c"]:
        """Outputs of rows."""
        outputs: np.ndarray = rows @ self.weight.T + self.bias
        return outputs


@runtime_checkable
class LinearModel(Protocol):
    """The interface of a module that fits linear models to one kind of labels."""

    def fit(
        self,
        train: Float[np.ndarray, "n d"],
        labels: np.ndarray,
        val: Float[np.ndarray, "v d"],
        val_labels: np.ndarray,
        strengths: Sequence[float],
    ) -> Linear:
        """The fit on the training rows with the strength that gives the lowest loss on the validation rows."""
        ...

    def cross_fit(
        self, rows: Float[np.ndarray, "n d"], labels: np.ndarray, folds: Int[np.ndarray, " n"], strength: float
    ) -> tuple[Float[np.ndarray, "k c d"], Float[np.ndarray, "k c"]]:
        """Weights and biases, float32: number k is fitted on all rows except those of fold k."""
        ...


def folds(strata: Int[np.ndarray, " n"], seed: int) -> Int[np.ndarray, " n"]:
    """The fold of each row, 0 to `FOLDS` - 1, at random, with every stratum spread as evenly as possible."""
    order = np.random.default_rng([seed, 1]).permutation(len(strata))
    folds = np.empty(len(strata), np.int64)
    folds[order[np.argsort(strata[order], kind="stable")]] = np.arange(len(strata)) % FOLDS
    return folds


def principal_axes(
    centred: Float[np.ndarray, "n d"],
) -> tuple[Float[np.ndarray, "d k"], Float[np.ndarray, " k"]]:
    """Orthonormal axes that span the rows, and the sum of squares along each, float64."""
    n, d = centred.shape
    tall = d <= n  # the smaller of the two Gram matrices is enough
    # In double precision, some rows at a time: single precision would lose the axes of little variance.
    blocks = (centred[a : a + BLOCK].astype(np.float64) for a in range(0, n, BLOCK))
    gram = sum(block.T @ block for block in blocks) if tall else centred.astype(np.float64) @ centred.T
    squares, vectors = np.linalg.eigh(gram)
    kept = squares > max(n, d) * np.finfo(np.float64).eps * squares[-1]
    squares, vectors = squares[kept], vectors[:, kept]
    return (vectors if tall else centred.T @ (vectors / np.sqrt(squares))), squares
