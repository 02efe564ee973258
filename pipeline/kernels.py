"""Kernels over the rows of one batch: the arithmetic of AFT (arXiv 2406.07337, section 3), in Gram form.

A kernel compares all pairs of rows, so all that a loss needs of n rows of width D is one Gram matrix G [n, n]. Written
that way (K = H G H / (d d^T), with H = I - 11^T / n and d = sqrt(diag(H G H)) + 1e-8) the formula is exact, features
side by side become a sum of Grams, outer products a product of Grams, and the gradient of the gates needs one matrix
product instead of a backward pass through the features.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

EPSILON = 1e-8
TINY = 1e-30
"""Below any squared norm that could matter beside EPSILON, above the smallest float32; keeps sqrt's slope finite."""


def centre(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Rows minus their mean row.

    Exact where all rows are equal, and accurate where the mean is far larger than the spread: the first row is taken
    off before the mean is, which changes nothing in the result, or its gradient, but the rounding.
    """
    rows = rows - rows[:1].detach()
    return rows - rows.mean(0)


def gram(rows: Float[Tensor, "n d"], weight: Float[Tensor, "..."] | None = None) -> Float[Tensor, "n n"]:
    """Products of all pairs of rows, sum_d weight_d x_id x_jd; `weight` is [d], one number, or None for 1.

    A gate g on each feature is `weight = g ** 2`. Where `rows` needs no gradient, that of the weight costs one product
    of an [n, n] with an [n, d] matrix.
    """
    return (rows if weight is None else rows * weight) @ rows.T


def double_centre(matrix: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """H matrix H: the Gram matrix of rows x becomes that of centred rows."""
    return matrix - matrix.mean(0) - matrix.mean(1, keepdim=True) + matrix.mean()


def cosine(centred_gram: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """Cosines from the Gram matrix of centred rows; 0 for a row of zeros, whose gradient is 0 as well."""
    norms = centred_gram.diagonal().clamp_min(TINY).sqrt() + EPSILON
    return centred_gram / (norms[:, None] * norms)


def radial(cosines: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """The radial basis function kernel exp(-|f_i - f_j|^2) of the unit rows f whose cosines are given."""
    square = cosines.diagonal()
    return (2 * cosines - square[:, None] - square).exp()


def rms_gap(student: Float[Tensor, "n n"], teacher: Float[Tensor, "n n"]) -> Float[Tensor, ""]:
    """sqrt(mean over all n^2 entries of (student - teacher)^2 + 1e-8): AFT's penalty; never below 1e-4."""
    return ((student - teacher).square().mean() + EPSILON).sqrt()


@dataclass(frozen=True)
class SplitGram:
    """An uncentred Gram matrix, held as `rest + constant` so that its large constant part cannot swamp float32.

    Features side by side are `a + b`, their outer products `a * b`, without ever forming the features:
    <a_i (x) b_i, a_j (x) b_j> = <a_i, a_j> <b_i, b_j>. Centring removes the constant, but not before a product, where
    it scales the other factor's rest.
    """

    rest: Float[Tensor, "n n"]
    constant: Float[Tensor, ""]

    @classmethod
    def of(cls, rows: Float[Tensor, "n d"], weight: Float[Tensor, "..."] | None = None) -> "SplitGram":
        """The Gram matrix of rows m + u around their mean row m: u u^T + p 1^T + 1 p^T, p = u m, and |m|^2 apart."""
        mean = rows.mean(0)
        weighted = mean if weight is None else mean * weight
        around = rows - mean
        projection = around @ weighted
        return cls(gram(around, weight) + projection[:, None] + projection, mean @ weighted)

    def __add__(self, other: "SplitGram") -> "SplitGram":
        return SplitGram(self.rest + other.rest, self.constant + other.constant)

    def __mul__(self, other: "SplitGram") -> "SplitGram":
        rest = self.rest * other.rest + self.constant * other.rest + other.constant * self.rest
        return SplitGram(rest, self.constant * other.constant)

    def centred(self) -> Float[Tensor, "n n"]:
        """The Gram matrix of the centred features."""
        return double_centre(self.rest)
