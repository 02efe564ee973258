"""A probe that need not be linear: logistic regression on a radial kernel of one teacher's features.

With few labels a linear probe leaves much of what a teacher knows on the table, or not: it depends on the data. So both
are fitted, on the same labelled rows, and validation rows say which is better.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from pipeline.functional import logistic
from pipeline.functional.knn import unit

SMALLEST = 1e-5
"""Directions of the landmarks' kernel with less than this share of the strongest one's variance are left out."""


@dataclass(frozen=True)
class KernelProbe:
    """logits(x) = K(x, landmarks) weight + bias, with K(x, y) = exp(-sharpness |x - y|^2) on unit rows; all float32.

    Attributes:
        landmarks: unit rows [m, D], m of the labelled training rows, or all.
        sharpness: of the kernel.
        weight: [m, C].
        bias: [C].
        fold_weight, fold_bias: the same of the fit without the training rows of each fold [K, m, C], [K, C].
        strength: the inverse of the L2 penalty that was chosen.
        val_log_loss: on the validation rows, which chose sharpness and strength.
    """

    landmarks: Float[np.ndarray, "m d"]
    sharpness: float
    weight: Float[np.ndarray, "m c"]
    bias: Float[np.ndarray, " c"]
    fold_weight: Float[np.ndarray, "k m c"]
    fold_bias: Float[np.ndarray, "k c"]
    strength: float
    val_log_loss: float

    def logits(self, standard: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n c"]:
        """Logits of standardised rows, whose norms do not matter."""
        return kernel(unit(standard), self.landmarks, self.sharpness) @ self.weight + self.bias


def kernel(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"], sharpness: float) -> Float[np.ndarray, "n m"]:
    """exp(-sharpness |x_i - y_j|^2) of unit rows, for which |x - y|^2 = 2 - 2 x y."""
    values: np.ndarray = np.exp(2 * sharpness * (x @ y.T - 1))
    return values


def fit(
    train: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    folds: Int[np.ndarray, " n"],
    val: Float[np.ndarray, "v d"],
    val_labels: Int[np.ndarray, " v"],
    landmarks: Float[np.ndarray, "m d"],
    sharpness: Sequence[float],
    strengths: Sequence[float],
) -> KernelProbe:
    """The sharpness and strength whose log loss on the validation rows is the least.

    The kernel is approximated from its values at the landmarks (Nystroem's method); with all training rows as landmarks
    it is exact, but for directions that hold next to nothing.

    Args:
        train, labels, folds: standardised rows of every class, their class numbers, and folds as `logistic.cross_fit`
            takes them.
        val, val_labels: the same of the validation rows; they choose and do nothing else.
        landmarks: standardised rows, among `train`.
        sharpness, strengths: candidates; the first of equals is taken.
    """
    train, val, landmarks = unit(train), unit(val), unit(landmarks)
    best: tuple[logistic.Linear, float, np.ndarray, np.ndarray] | None = None
    for sharp in sharpness:
        variances, axes = np.linalg.eigh(kernel(landmarks, landmarks, sharp).astype(np.float64))
        kept = variances > SMALLEST * variances[-1]
        whiten = axes[:, kept] / np.sqrt(variances[kept])
        near, near_val = ((kernel(rows, landmarks, sharp) @ whiten).astype(np.float32) for rows in (train, val))
        found = logistic.fit(near, labels, near_val, val_labels, strengths)
        if best is None or found.val_loss < best[0].val_loss:
            best = found, sharp, whiten, near
    assert best is not None
    found, sharp, whiten, near = best
    fold_weight, fold_bias = logistic.cross_fit(near, labels, folds, found.strength)

    def of_landmarks(weight: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(whiten @ weight.swapaxes(-1, -2), np.float32)

    return KernelProbe(
        landmarks, sharp, of_landmarks(found.weight), found.bias, of_landmarks(fold_weight), fold_bias,
        found.strength, found.val_loss,
    )  # fmt: skip
