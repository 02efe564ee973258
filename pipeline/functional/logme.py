"""LogME (You et al., ICML 2021, arXiv 2102.11005): how well a linear model on fixed features explains the labels."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

ROUNDS = 11
TOLERANCE = 1e-3
BLOCK = 8192
"""Rows held in float64 at a time."""


@dataclass(frozen=True)
class LogME:
    """`score`: log evidence per row, mean over columns. `weights`: the posterior mean of each column's model."""

    score: float
    weights: Float[Tensor, "c d"]


def logme(features: Float[Tensor, "n d"], targets: Float[Tensor, "n c"], compat: str | None = None) -> LogME:
    """The evidence of a Bayesian linear regression of each target column on the features, maximised over precisions.

    The prior precision a and the noise precision b are found by fixed-point iteration. With singular values s of the
    features F [n, D] and m the posterior mean, the log evidence of a column t is
    D/2 log a + n/2 log b - 1/2 sum_{j=1..D} log(a + b s_j^2) - b/2 |t - F m|^2 - a/2 |m|^2 - n/2 log(2 pi),
    the log density of t under N(0, I / b + F F^T / a). Features are not centred, and there is no bias.

    Args:
        features: raw features of the labelled rows.
        targets: such as one-hot labels, on the same device.
        compat: "published" sums over min(n, D) singular values only, as the authors' code does. Where D > n, that
            leaves (D - n)/2 log a in the score and ranks wide features wrongly when there are few rows.
    """
    n, d = features.shape
    targets = targets.double()
    square, axes, along = _spectrum(features, targets)
    beyond = 0 if compat == "published" else d - len(square)
    scores, weights = [], []
    for column, seen in zip(targets.T, along.T, strict=True):
        energy = column.square().sum()
        a, b = 1.0, 1.0
        for _ in range(ROUNDS):
            ratio = a / b
            size, rest = _fit(square, seen, energy, ratio)
            known = (square / (square + ratio)).sum().item()
            a, b = _positive(known / (size + 1e-5)), _positive((n - known) / (rest + 1e-5))
            if abs(a / b - ratio) <= TOLERANCE * ratio:
                break
        size, rest = _fit(square, seen, energy, a / b)
        determinant = (a + b * square).log().sum().item() + beyond * math.log(a)
        evidence = d * math.log(a) + n * math.log(b) - determinant - b * rest - a * size - n * math.log(2 * math.pi)
        scores.append(evidence / 2 / n)
        weights.append(axes @ (seen / (square + a / b)))
    return LogME(sum(scores) / len(scores), torch.stack(weights).float())


def _spectrum(
    features: Float[Tensor, "n d"], targets: Float[Tensor, "n c"]
) -> tuple[Float[Tensor, " k"], Float[Tensor, "d k"], Float[Tensor, "k c"]]:
    """Squared singular values and right singular vectors of F, k = min(n, d), and V^T F^T t of every column t."""
    n, d = features.shape
    if n < d:
        left, s, right = torch.linalg.svd(features.double(), full_matrices=False)
        return s.square(), right.T, s[:, None] * (left.T @ targets)
    second, product = targets.new_zeros(d, d), targets.new_zeros(d, targets.shape[1])
    for rows, columns in zip(features.split(BLOCK), targets.split(BLOCK), strict=True):
        wide = rows.double()
        second += wide.T @ wide
        product += wide.T @ columns
    square, axes = torch.linalg.eigh(second)
    return square.clamp_min(0), axes, axes.T @ product


def _fit(square: Tensor, seen: Tensor, energy: Tensor, ratio: float) -> tuple[float, float]:
    """|m|^2 and |t - F m|^2 of the ridge regression m whose penalty is `ratio`."""
    shrunk = seen / (square + ratio)
    size, rest = shrunk.square().sum(), energy - (shrunk.square() * (square + 2 * ratio)).sum()
    return size.item(), max(rest.item(), 0.0)


def _positive(precision: float) -> float:
    """Keep a precision positive and finite: features of zeros, or as many features as rows, leave it unbounded."""
    return min(max(precision, 1e-10), 1e10)
