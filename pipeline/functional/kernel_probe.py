"""Linear models on a radial kernel of features: a probe that is not linear in the features.

With few labels, how much information a linear probe misses depends on the data. So both probes are fitted on the same
labelled rows, and validation rows decide which is better.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from pipeline.functional.knn import unit
from pipeline.functional.linear import Linear, LinearModel

SMALLEST = 1e-5
"""Directions of the landmarks' kernel with less than this share of the largest variance are left out."""


@dataclass(frozen=True)
class KernelFit:
    """outputs(x) = weight K(landmarks, x) + bias, with K(x, y) = exp(-sharpness |x - y|^2) on unit rows; all float32.

    Attributes:
        landmarks: unit rows [m, D], m of the labelled training rows, or all.
        sharpness: of the kernel.
        linear: the linear model of K(x, landmarks): weight [C, m], bias [C].
        fold_weight, fold_bias: the same for the fits without the training rows of one fold [K, C, m], [K, C].
    """

    landmarks: Float[np.ndarray, "m d"]
    sharpness: float
    linear: Linear
    fold_weight: Float[np.ndarray, "k c m"]
    fold_bias: Float[np.ndarray, "k c"]


def kernel(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"], sharpness: float) -> Float[np.ndarray, "n m"]:
    """exp(-sharpness |x_i - y_j|^2) of unit rows, for which |x - y|^2 = 2 - 2 x y."""
    values: np.ndarray = np.exp(2 * sharpness * (x @ y.T - 1))
    return values


def fit(
    model: LinearModel,
    train: Float[np.ndarray, "n d"],
    labels: np.ndarray,
    folds: Int[np.ndarray, " n"],
    val: Float[np.ndarray, "v d"],
    val_labels: np.ndarray,
    landmarks: Float[np.ndarray, "m d"],
    sharpness: Sequence[float],
    strengths: Sequence[float],
) -> KernelFit:
    """The fit with the sharpness and strength that give the lowest loss on the validation rows.

    The kernel is approximated from its values at the landmarks (Nystroem's method); with all training rows as landmarks
    it is exact, apart from directions of almost no variance.

    Args:
        model: fits linear models to such labels.
        train, labels, folds: standardised rows, their labels, and folds as `LinearModel.cross_fit` takes them.
        val, val_labels: the same for the validation rows, used only to choose.
        landmarks: standardised rows, among `train`.
        sharpness, strengths: candidates; the first is taken among equals.
    """
    train, val, landmarks = unit(train), unit(val), unit(landmarks)
    best: tuple[Linear, float, np.ndarray, np.ndarray] | None = None
    for sharp in sharpness:
        variances, axes = np.linalg.eigh(kernel(landmarks, landmarks, sharp).astype(np.float64))
        kept = variances > SMALLEST * variances[-1]
        whiten = axes[:, kept] / np.sqrt(variances[kept])
        near, near_val = ((kernel(rows, landmarks, sharp) @ whiten).astype(np.float32) for rows in (train, val))
        found = model.fit(near, labels, near_val, val_labels, strengths)
        if best is None or found.val_loss < best[0].val_loss:
            best = found, sharp, whiten, near
    assert best is not None
    found, sharp, whiten, near = best
    fold_weight, fold_bias = model.cross_fit(near, labels, folds, found.strength)

    def of_landmarks(weight: np.ndarray) -> np.ndarray:
        """Weights of the kernel's values at the landmarks, from weights of its directions."""
        return np.ascontiguousarray(weight @ whiten.T, np.float32)

    linear = Linear(of_landmarks(found.weight), found.bias, found.strength, found.val_loss)
    return KernelFit(landmarks, sharp, linear, of_landmarks(fold_weight), fold_bias)
