"""What a set of predictions is worth, and what a set of seeds allows us to say.

The first half scores logits against labels. The second half compares runs that share their seeds: differences are
taken seed by seed, because two runs of one seed see the same rows and start from the same student, so that most of the
luck cancels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from jaxtyping import Float, Int
from scipy import special, stats

LEVEL = 0.95
"""How often the intervals of this module are meant to cover the truth."""


def accuracy(logits: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"]) -> float:
    """The share of rows whose largest logit is at their label. Among equal logits the first counts."""
    return float(np.mean(logits.argmax(1) == labels))


def macro_f1(logits: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"]) -> float:
    """The mean over classes of F1 = 2 TP / (2 TP + FP + FN), every class counting the same.

    Classes that are neither a label nor a prediction anywhere have no F1 and are left out.
    """
    classes = logits.shape[1]
    predictions = logits.argmax(1)
    hits = np.bincount(labels[predictions == labels], minlength=classes)
    appearances = np.bincount(labels, minlength=classes) + np.bincount(predictions, minlength=classes)
    seen = appearances > 0
    return float(np.mean(2 * hits[seen] / appearances[seen]))


def log_loss(logits: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"]) -> float:
    """The mean of -log softmax(logits)[label], in nats, computed in float64."""
    log_probabilities = special.log_softmax(logits.astype(np.float64), axis=1)
    return float(-np.mean(log_probabilities[np.arange(len(labels)), labels]))


def calibration_error(logits: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"], bins: int = 15) -> float:
    """The expected calibration error of the predicted class (Guo et al. 2017, arXiv 1706.04599, equation 3).

    Rows are sorted into `bins` equally wide intervals ((k-1)/bins, k/bins] of confidence; the result is the mean over
    rows of |accuracy - mean confidence| of their interval.
    """
    probabilities = special.softmax(logits.astype(np.float64), axis=1)
    confidence = probabilities.max(1)
    hit = logits.argmax(1) == labels
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    surplus = np.bincount(index, weights=hit - confidence, minlength=bins)
    return float(np.abs(surplus).sum() / len(labels))


def largest_class_share(logits: Float[np.ndarray, "n c"]) -> float:
    """The share of rows given the most frequent prediction; 1 means that the model knows one class only."""
    return float(np.bincount(logits.argmax(1)).max() / len(logits))


def standard_error(values: Sequence[float] | Float[np.ndarray, " n"]) -> float | None:
    """The standard error of the mean of n values, sqrt(sum (x - mean)^2 / (n - 1) / n); None for a single value."""
    return float(np.std(values, ddof=1) / sqrt(len(values))) if len(values) > 1 else None


@dataclass(frozen=True)
class Paired:
    """A run against another over the seeds they share. What one seed cannot give is None.

    Attributes:
        mean: the mean difference.
        standard_error: of that mean.
        low, high: Student's t interval for the mean with n - 1 degrees of freedom.
        p: two-sided p-value of the paired t-test.
        wins: how many seeds have a difference above 0.
        n: how many seeds there are.
    """

    mean: float
    standard_error: float | None
    low: float | None
    high: float | None
    p: float | None
    wins: int
    n: int

    @property
    def inside_noise(self) -> bool:
        """Whether no difference at all is among the values that the seeds are compatible with."""
        return self.low is None or self.high is None or self.low <= 0 <= self.high


def paired(differences: Sequence[float] | Float[np.ndarray, " n"], level: float = LEVEL) -> Paired:
    """Mean, standard error, t interval and wins of differences taken seed by seed.

    Differences that are all the same have a standard error of 0 and an interval without width.
    """
    values = np.asarray(differences, dtype=np.float64)
    n, mean, error = len(values), float(values.mean()), standard_error(values)
    wins = int((values > 0).sum())
    if error is None:
        return Paired(mean, None, None, None, None, wins, n)
    reach = float(stats.t.ppf((1 + level) / 2, n - 1)) * error
    # Equal differences leave nothing to divide by: they are certain, and certainly nothing if they are 0.
    p = float(2 * stats.t.sf(abs(mean) / error, n - 1)) if error > 0 else float(mean == 0)
    return Paired(mean, error, mean - reach, mean + reach, p, wins, n)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (1979), in the order given: below alpha exactly where his procedure rejects at alpha.

    The chance that any one of them falls below alpha by luck alone is at most alpha, whatever their dependence.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


@dataclass(frozen=True)
class Share:
    """The part of a gap that a gain closes: 0 is nothing, 1 is all of it, more is beyond.

    Attributes:
        share: mean gain over mean gap; None where there is no gap to close.
        low, high: Fieller's interval; None where there is none.
        note: why something is None, in words; empty otherwise.
    """

    share: float | None
    low: float | None = None
    high: float | None = None
    note: str = ""


def gap_closed(
    gains: Sequence[float] | Float[np.ndarray, " n"],
    gaps: Sequence[float] | Float[np.ndarray, " n"],
    level: float = LEVEL,
) -> Share:
    """The share of the gap that the gain closes, with Fieller's interval for a ratio of paired means.

    The interval holds every r for which the t interval of gain - r gap holds 0 (Fieller 1954). It is bounded only if
    the gap itself is clear of 0; otherwise no finite interval has the stated coverage and none is given.

    Args:
        gains: per seed, the method's score minus the baseline's.
        gaps: per seed, the reference's score minus the baseline's.
    """
    gain, gap = np.asarray(gains, dtype=np.float64), np.asarray(gaps, dtype=np.float64)
    n, mean_gain, mean_gap = len(gain), float(gain.mean()), float(gap.mean())
    if mean_gap <= 0:
        return Share(None, note="there is no gap: the probe is not above plain training")
    share = mean_gain / mean_gap
    if n == 1:
        return Share(share, note="one seed gives no interval")
    covariance = np.cov(gain, gap) / n
    t2 = float(stats.t.ppf((1 + level) / 2, n - 1)) ** 2
    # Squared, the condition on r reads a r^2 - 2 b r + c <= 0.
    a = mean_gap**2 - t2 * covariance[1, 1]
    b = mean_gain * mean_gap - t2 * covariance[0, 1]
    c = mean_gain**2 - t2 * covariance[0, 0]
    if a <= 0:
        return Share(share, note="the gap itself is within the noise, so the interval is unbounded")
    # r = share is always a solution, so that a negative discriminant can only be rounding.
    root = sqrt(max(0.0, b * b - a * c))
    return Share(share, float((b - root) / a), float((b + root) / a))
