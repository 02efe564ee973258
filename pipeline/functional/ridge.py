"""Ridge regression in closed form, for every strength from one eigendecomposition."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_matrix

from pipeline.functional.linear import BLOCK, FOLDS, Linear, principal_axes


def fit(
    train: Float[np.ndarray, "n d"],
    labels: Float[np.ndarray, " n"],
    val: Float[np.ndarray, "v d"],
    val_labels: Float[np.ndarray, " v"],
    strengths: Sequence[float],
) -> Linear:
    """The fit with the lowest mean squared error on the validation rows; see `minima`.

    Args:
        train, labels: rows and their labels.
        val, val_labels: the same for the validation rows, used only to choose the strength.
        strengths: candidates for the inverse of the L2 penalty; the smallest is taken among equals.
    """
    best: Linear | None = None
    ascending = sorted(strengths)
    for strength, (weight, bias) in zip(ascending, minima(train, labels, ascending), strict=True):
        error = val @ weight + bias - val_labels
        loss = float(np.square(error, dtype=np.float64).mean())
        if best is None or loss < best.val_loss:
            best = Linear(weight.astype(np.float32)[None], np.array([bias], np.float32), strength, loss)
    assert best is not None
    return best


def minima(
    rows: Float[np.ndarray, "n d"], labels: Float[np.ndarray, " n"], strengths: Sequence[float]
) -> list[tuple[Float[np.ndarray, " d"], float]]:
    """Weight w [D] and bias b for each strength s: the minimum of sum_i (x_i w + b - y_i)^2 / 2 + |w|^2 / (2 s).

    The bias is not penalised. Computed in float64; equal labels, or equal rows, give a weight of 0.
    """
    centre, mean = rows.mean(0, dtype=np.float64), float(labels.mean(dtype=np.float64))
    centred, wanted = rows - centre.astype(rows.dtype), labels.astype(np.float64) - mean
    axes, squares = principal_axes(centred)
    blocks = [slice(start, start + BLOCK) for start in range(0, len(rows), BLOCK)]
    pulls = [wanted[block] @ centred[block].astype(np.float64) for block in blocks]
    along = np.sum(pulls, axis=0) @ axes
    weights = [axes @ (along / (squares + 1 / strength)) for strength in strengths]
    return [(weight, mean - float(centre @ weight)) for weight in weights]


def cross_fit(
    rows: Float[np.ndarray, "n d"], labels: Float[np.ndarray, " n"], folds: Int[np.ndarray, " n"], strength: float
) -> tuple[Float[np.ndarray, "k 1 d"], Float[np.ndarray, "k 1"]]:
    """Weights and biases, float32: number k is fitted on all rows except those of fold k."""
    kept = [folds != fold for fold in range(FOLDS)]
    fitted = [minima(rows[others], labels[others], [strength])[0] for others in kept]
    weights, biases = zip(*fitted, strict=True)
    return np.stack(weights)[:, None].astype(np.float32), np.array(biases, np.float32)[:, None]


def fit_sparse(
    rows: csr_matrix, labels: Float[np.ndarray, " n"], strength: float, row_weights: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, "1 d"], Float[np.ndarray, " 1"]]:
    """See `LinearModel`."""
    from sklearn.linear_model import Ridge

    found = Ridge(alpha=1 / strength, solver="sparse_cg", tol=1e-8).fit(rows, labels.astype(np.float64), row_weights)
    return found.coef_[None], np.array([found.intercept_])
