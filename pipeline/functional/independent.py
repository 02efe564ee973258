"""Independent logistic regressions, one for each label that a row may have, at one strength of the penalty."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_matrix

from pipeline.functional.linear import FOLDS, Linear
from pipeline.functional.logistic import SIGMOID, STEPS, minima, select


def fit(
    train: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, "n c"],
    val: Float[np.ndarray, "v d"],
    val_labels: Int[np.ndarray, "v c"],
    strengths: Sequence[float],
) -> Linear:
    """The fit with the lowest log loss on the validation rows, summed over labels; see `logistic.fit`.

    Args:
        train, labels: rows, and 1 where they have a label, else 0.
        val, val_labels: the same for the validation rows, used only to choose the strength.
        strengths: candidates for the inverse of the L2 penalty; the first is taken among equals.
    """

    def val_loss(logits: np.ndarray) -> float:
        return SIGMOID.loss(logits.astype(np.float64), val_labels)[0] / len(val_labels)

    return select(train, labels.astype(np.float64), val, val_loss, strengths, SIGMOID)


def cross_fit(
    rows: Float[np.ndarray, "n d"], labels: Int[np.ndarray, "n c"], folds: Int[np.ndarray, " n"], strength: float
) -> tuple[Float[np.ndarray, "k c d"], Float[np.ndarray, "k c"]]:
    """Weights [K, C, D] and biases [K, C], float32: number k is fitted on all rows except those of fold k.

    If all other rows have a label, or none has it, the rows of the fold that differ are kept in the fit.
    """
    fitted = []
    for fold in range(FOLDS):
        others = folds != fold
        shares = labels[others].mean(0)
        others |= ((shares == 0) & (labels == 1)).any(1) | ((shares == 1) & (labels == 0)).any(1)
        fitted.append(next(minima(rows[others], labels[others].astype(np.float64), [strength], SIGMOID)))
    weights, biases = zip(*fitted, strict=True)
    return np.stack([weight.T for weight in weights]).astype(np.float32), np.stack(biases).astype(np.float32)


def fit_sparse(
    rows: csr_matrix, labels: Int[np.ndarray, "n c"], strength: float, row_weights: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, "c d"], Float[np.ndarray, " c"]]:
    """See `LinearModel`: one against the rest, label by label; each has rows with it and rows without."""
    from sklearn.linear_model import LogisticRegression

    models = [LogisticRegression(C=strength, max_iter=STEPS).fit(rows, label, row_weights) for label in labels.T]
    return np.concatenate([model.coef_ for model in models]), np.concatenate([model.intercept_ for model in models])
