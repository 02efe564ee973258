"""Logistic regression, multinomial or with independent labels, by a quasi-Newton method.

General solvers take hundreds of steps if the variance of features differs much between directions, as it does for
teachers and kernels. Here rows are rotated to their principal axes and each axis is scaled by its expected curvature:
tens of steps are enough. With fewer rows than features, the problem also shrinks to the span of the rows.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_matrix
from scipy.special import expit, log_softmax

from pipeline.functional.linear import FOLDS, Linear, principal_axes
from pipeline.functional.metrics import log_loss

GRADIENT = 1e-4
"""Stop when no derivative along an axis of expected curvature 1 is larger, in nats summed over rows."""

LOSS = 1e-10
"""Or when a step lowers the loss by a smaller share, which single precision cannot resolve."""

STEPS = 1000
"""Or after this many steps: an almost unpenalised fit of few rows has no finite minimum."""


@dataclass(frozen=True)
class Likelihood:
    """How logits become probabilities.

    Attributes:
        loss: takes logits and 0/1 targets, both [n, C]; returns the summed negative log-likelihood and the
            probabilities.
        curvature: takes C; returns the expected curvature along a logit during the fit.
    """

    loss: Callable[[np.ndarray, np.ndarray], tuple[float, np.ndarray]]
    curvature: Callable[[int], float]


def _softmax(logits: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
    log_probabilities = log_softmax(logits, axis=1)
    return -float((log_probabilities * targets).sum()), np.exp(log_probabilities)


def _sigmoid(logits: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
    return float((np.logaddexp(0, logits) - logits * targets).sum()), expit(logits)


SOFTMAX = Likelihood(_softmax, lambda classes: 1 / classes)
"""One of C classes. A uniform softmax has curvature 1 / C."""

SIGMOID = Likelihood(_sigmoid, lambda classes: 1 / 4)
"""Each of C labels by itself."""


def fit(
    train: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    val: Float[np.ndarray, "v d"],
    val_labels: Int[np.ndarray, " v"],
    strengths: Sequence[float],
) -> Linear:
    """The fit with the lowest log loss on the validation rows.

    Strengths are tried in ascending order until one is worse on the validation rows than the best so far: larger ones
    fit the training rows even more closely, and take longest.

    Args:
        train, labels: rows of every class, and their class numbers.
        val, val_labels: the same of the validation rows; they choose among the strengths and do nothing else.
        strengths: candidates for the inverse of the L2 penalty; the first of equals is taken.
    """
    targets = np.eye(labels.max() + 1)[labels]
    return select(train, targets, val, lambda logits: log_loss(logits, val_labels), strengths, SOFTMAX)


def select(
    train: Float[np.ndarray, "n d"],
    targets: Float[np.ndarray, "n c"],
    val: Float[np.ndarray, "v d"],
    val_loss: Callable[[np.ndarray], float],
    strengths: Sequence[float],
    likelihood: Likelihood,
) -> Linear:
    """The fit whose outputs on the validation rows have the lowest `val_loss`; see `fit`."""
    ascending = sorted(strengths)
    best: Linear | None = None
    for strength, (weight, bias) in zip(ascending, minima(train, targets, ascending, likelihood), strict=True):
        # safetensors writes memory as it is, so the array must be in row order.
        weight, bias = np.ascontiguousarray(weight.T, np.float32), bias.astype(np.float32)
        found = Linear(weight, bias, strength, val_loss(val @ weight.T + bias))
        if best is not None and found.val_loss > best.val_loss:
            break
        if best is None or found.val_loss < best.val_loss:
            best = found
    assert best is not None
    return best


def minima(
    rows: Float[np.ndarray, "n d"],
    targets: Float[np.ndarray, "n c"],
    strengths: Sequence[float],
    likelihood: Likelihood = SOFTMAX,
) -> Iterator[tuple[Float[np.ndarray, "d c"], Float[np.ndarray, " c"]]]:
    """Weight [D, C] and bias [C] for each strength s in turn: minimum of sum_i loss(x_i W + b, t_i) + |W|^2 / (2 s).

    Each starts from the one before, so ascending strengths are fastest; the minimum is the same. The bias is not
    penalised. For a softmax, its mean over classes, which changes nothing, is removed.

    Args:
        rows: the work is done in their precision.
        targets: 0 or 1; every class has a row.
        strengths: inverses of the L2 penalty.
        likelihood: its `loss` is minimised.
    """
    centre = rows.mean(0, dtype=np.float64)
    centred = rows - centre.astype(rows.dtype)
    axes, squares = principal_axes(centred)
    turned = centred @ axes.astype(rows.dtype)
    weight, bias = np.zeros((len(squares), targets.shape[1])), np.zeros(targets.shape[1])
    for strength in strengths:
        weight, bias = _minimum(turned, targets, strength, squares, weight, bias, likelihood)
        whole = axes @ weight
        shared = bias.mean() if likelihood is SOFTMAX else 0.0
        yield whole, bias - shared - centre @ whole


def cross_fit(
    rows: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"], folds: Int[np.ndarray, " n"], strength: float
) -> tuple[Float[np.ndarray, "k c d"], Float[np.ndarray, "k c"]]:
    """Weights [K, C, D] and biases [K, C], float32: number k is fitted on all rows except those of fold k.

    Args:
        rows, labels: rows of every class, and their class numbers.
        folds: of each row, as `pipeline.functional.linear.folds` gives them for these rows or for more.
        strength: the inverse of the L2 penalty.
    """
    fitted = []
    for fold in range(FOLDS):
        others = folds != fold
        others |= ~np.isin(labels, labels[others])  # a class that only this fold has is learned from the fold
        targets = np.eye(labels.max() + 1)[labels[others]]
        fitted.append(next(minima(rows[others], targets, [strength])))
    weights, biases = zip(*fitted, strict=True)
    return np.stack([weight.T for weight in weights]).astype(np.float32), np.stack(biases).astype(np.float32)


def fit_sparse(
    rows: csr_matrix, labels: Int[np.ndarray, " n"], strength: float, row_weights: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, "c d"], Float[np.ndarray, " c"]]:
    """See `LinearModel`. Of two classes, each has half of the logit that scikit-learn fits."""
    # Imported here: it takes a while, and probes do not need it.
    from sklearn.linear_model import LogisticRegression

    found = LogisticRegression(C=strength, max_iter=STEPS).fit(rows, labels, row_weights)
    weight, bias = found.coef_, found.intercept_
    if len(weight) == 1:
        return np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight, bias


def _minimum(
    rows: Float[np.ndarray, "n k"],
    wanted: Float[np.ndarray, "n c"],
    strength: float,
    squares: Float[np.ndarray, " k"],
    weight: Float[np.ndarray, "k c"],
    bias: Float[np.ndarray, " c"],
    likelihood: Likelihood,
) -> tuple[Float[np.ndarray, "k c"], Float[np.ndarray, " c"]]:
    """The minimum, searched from `weight` and `bias`."""
    n, classes = wanted.shape
    k = len(squares)
    curvature = likelihood.curvature(classes)
    scale = 1 / np.sqrt(np.append(squares * curvature + 1 / strength, n * curvature))[:, None]

    def loss_and_gradient(scaled: np.ndarray) -> tuple[float, np.ndarray]:
        point = scaled.reshape(k + 1, classes) * scale
        weight, bias = point[:k], point[k]
        loss, probabilities = likelihood.loss(rows @ weight.astype(rows.dtype) + bias, wanted)
        error = probabilities - wanted
        pull = np.concatenate([rows.T @ error.astype(rows.dtype) + weight / strength, error.sum(0, keepdims=True)])
        loss += float(np.square(weight).sum()) / (2 * strength)
        return loss, (pull * scale).ravel()

    start = np.concatenate([weight, bias[None]]) / scale
    options = {"maxiter": STEPS, "maxfun": 2 * STEPS, "gtol": GRADIENT, "ftol": LOSS, "maxcor": 20}
    # Imported here: it takes a while, and only fitting needs it.
    from scipy.optimize import minimize

    found = minimize(loss_and_gradient, start.ravel(), jac=True, method="L-BFGS-B", options=options)
    point = found.x.reshape(k + 1, classes) * scale
    return point[:k], point[k]
