"""What can be concluded from several seeds or splits.

Runs that share their seeds are compared seed by seed: two runs with one seed see the same rows and start from the same
student, so most of the random variation cancels in their difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from jaxtyping import Float

LEVEL = 0.95
"""Coverage of the intervals in this module."""


def standard_error(values: Sequence[float] | Float[np.ndarray, " n"]) -> float | None:
    """The standard error of the mean of n values, sqrt(sum (x - mean)^2 / (n - 1) / n); None for a single value."""
    return float(np.std(values, ddof=1) / sqrt(len(values))) if len(values) > 1 else None


@dataclass(frozen=True)
class Paired:
    """The difference of two runs over the seeds they share. With a single seed, what needs several is None.

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
        """Whether the interval contains 0: the seeds are compatible with no difference."""
        return self.low is None or self.high is None or self.low <= 0 <= self.high


def paired(differences: Sequence[float] | Float[np.ndarray, " n"], level: float = LEVEL) -> Paired:
    """Mean, standard error, t interval and wins of differences taken seed by seed.

    Differences that are all equal have a standard error of 0 and an interval of width 0.
    """
    values = np.asarray(differences, dtype=np.float64)
    n, mean, error = len(values), float(values.mean()), standard_error(values)
    wins = int((values > 0).sum())
    if error is None:
        return Paired(mean, None, None, None, None, wins, n)
    from scipy import special  # takes a tenth of a second, and is not needed to read a `Paired`

    reach = float(special.stdtrit(n - 1, (1 + level) / 2)) * error
    # Equal differences have no spread to divide by: p is 0, or 1 if they are 0.
    p = float(2 * special.stdtr(n - 1, -abs(mean) / error)) if error > 0 else float(mean == 0)
    return Paired(mean, error, mean - reach, mean + reach, p, wins, n)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (1979), in the order given: below alpha exactly where his procedure rejects at alpha.

    The probability that any of them is below alpha by chance is at most alpha, also if they are dependent.
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
    """The part of a gap that a gain closes: 0 is none of it, 1 is all of it, more is past it.

    Attributes:
        share: mean gain over mean gap; None where there is no gap to close.
        low, high: Fieller's interval; None where it is unbounded.
        note: why something is None; empty otherwise.
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
        return Share(None, note="there is no gap: the probe is not better than plain training")
    share = mean_gain / mean_gap
    if n == 1:
        return Share(share, note="one seed gives no interval")
    from scipy import special

    covariance = np.cov(gain, gap) / n
    t2 = float(special.stdtrit(n - 1, (1 + level) / 2)) ** 2
    # Squared, the condition on r reads a r^2 - 2 b r + c <= 0.
    a = mean_gap**2 - t2 * covariance[1, 1]
    b = mean_gain * mean_gap - t2 * covariance[0, 1]
    c = mean_gain**2 - t2 * covariance[0, 0]
    if a <= 0:
        return Share(share, note="the gap itself is within the noise, so the interval is unbounded")
    # r = share is always a solution, so a negative discriminant can only come from rounding.
    root = sqrt(max(0.0, b * b - a * c))
    return Share(share, float((b - root) / a), float((b + root) / a))
