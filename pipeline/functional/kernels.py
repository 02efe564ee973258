"""Kernels over the rows of one batch: the arithmetic of AFT (arXiv 2406.07337, section 3), in Gram form.

A kernel compares all pairs of rows, so all that a loss needs of n rows of width D is one Gram matrix G [n, n]. Written
that way (K = H G H / (d d^T), with H = I - 11^T / n and d = sqrt(diag(H G H)) + 1e-8) the formula is exact, features
side by side become a sum of Grams, outer products a product of Grams, and the gradient of the gates needs one matrix
product instead of a backward pass through the features.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

EPSILON = 1e-8
TINY = 1e-30
"""Below any squared norm that could matter next to EPSILON, above the smallest float32; keeps sqrt's slope finite."""
LEAST = 1e-12
"""A matrix of a smaller norm is taken for 0."""


def centre(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Rows minus their mean row.

    Exact where all rows are equal, and accurate where the mean is far larger than the spread: the first row is taken
    off before the mean is, which changes nothing in the result, or its gradient, but the rounding.
    """
    shifted = rows - rows[:1].detach()
    return shifted.sub_(shifted.mean(0))


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


def alignment(a: Float[Tensor, "n n"], b: Float[Tensor, "n n"]) -> Float[Tensor, ""]:
    """The cosine between two matrices as vectors, in [-1, 1]; 0 where one of them is 0."""
    return (a / torch.linalg.matrix_norm(a).clamp_min(LEAST) * (b / torch.linalg.matrix_norm(b).clamp_min(LEAST))).sum()


def cka(a: Float[Tensor, "n n"], b: Float[Tensor, "n n"]) -> Float[Tensor, ""]:
    """Centred kernel alignment (Kornblith et al., arXiv 1905.00414, equation 1) of two Gram matrices.

    Badly biased where n is not far above the width of the features: independent ones at n = 50, d = 768 score 0.94.
    """
    return alignment(double_centre(a), double_centre(b))


def off_diagonal_cka(a: Float[Tensor, "n n"], b: Float[Tensor, "n n"]) -> Float[Tensor, ""]:
    """`cka` without the diagonals of the centred matrices, which agree whatever the features say."""
    return alignment(_hollow(double_centre(a)), _hollow(double_centre(b)))


def debiased_cka(a: Float[Tensor, "n n"], b: Float[Tensor, "n n"]) -> Float[Tensor, ""]:
    """`cka` with the unbiased estimate of HSIC (Song et al., 2012): near 0 for independent features of any width.

    It needs four rows or more; fewer are 0.
    """
    return alignment(_u_centre(a), _u_centre(b))


def _u_centre(matrix: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """Centring of a matrix without its diagonal (Székely and Rizzo, 2014): off-diagonal rows sum to 0, diagonal is 0.

    Its inner products divided by n (n - 3) are the unbiased HSIC; in a cosine between two of them the factor cancels.
    """
    n = len(matrix)
    if n < 4:
        return matrix * 0
    hollow = _hollow(matrix)
    rows = hollow.sum(1) / (n - 2)
    return _hollow(hollow - rows[:, None] - rows + hollow.sum() / ((n - 1) * (n - 2)))


def _hollow(matrix: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    return matrix - matrix.diagonal().diag()


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
        around = centre(rows)
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
