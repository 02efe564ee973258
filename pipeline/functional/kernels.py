"""Kernels over the rows of one batch: the arithmetic of AFT (arXiv 2406.07337, section 3), in Gram form.

A kernel compares all pairs of rows, so a loss needs only one Gram matrix G [n, n] of n rows of width D. In this form
(K = H G H / (d d^T), with H = I - 11^T / n and d = sqrt(diag(H G H)) + 1e-8) the formula is exact, concatenated
features become a sum of Grams, outer products a product of Grams, and the gradient of the gates needs one matrix
product instead of a backward pass through the features.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

EPSILON = 1e-8
TINY = 1e-30
"""Below any squared norm that could matter next to EPSILON, above the smallest float32; keeps sqrt's slope finite."""
LEAST = 1e-12
"""A matrix with a smaller norm counts as 0."""


def centre(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Rows minus their mean row.

    Exact where all rows are equal, and accurate where the mean is far larger than the spread: the first row is
    subtracted before the mean is, which changes only the rounding of the result and its gradient.
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
    """Cosines from the Gram matrix of centred rows. A row of zeros has cosine 0 and gradient 0."""
    norms = centred_gram.diagonal().clamp_min(TINY).sqrt() + EPSILON
    return centred_gram / (norms[:, None] * norms)


def radial(cosines: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """The radial basis function kernel exp(-|f_i - f_j|^2) of unit rows f, from their cosines."""
    square = cosines.diagonal()
    return (2 * cosines - square[:, None] - square).exp()


def rms_gap(student: Float[Tensor, "n n"], teacher: Float[Tensor, "n n"]) -> Float[Tensor, ""]:
    """sqrt(mean over all n^2 entries of (student - teacher)^2 + 1e-8): AFT's penalty; never below 1e-4."""
    return ((student - teacher).square().mean() + EPSILON).sqrt()


def cosine_gap(
    student: Float[Tensor, "n d"], teacher: Float[Tensor, "n e"], gates: Float[Tensor, " e"]
) -> Float[Tensor, ""]:
    """`rms_gap(cosine(gram(centre(student))), cosine(gram(centre(teacher) * gates)))`, its gradient in closed form.

    It passes over each matrix far fewer times than autograd does. The gradient cannot be differentiated again, and
    `teacher` gets no gradient.

    Args:
        student, teacher: rows.
        gates: of the teacher's features, not negative.
    """
    gap: Tensor = _CosineGap.apply(student, teacher, gates)
    return gap


class _CosineGap(torch.autograd.Function):
    """R = sqrt(mean(E^2) + EPSILON), E = S S^T - T T^T. Rows are s_i = x_i / N_i with N_i = |x_i| + EPSILON, and t_i.

    E is symmetric, so dR/dS = c E S and dR/dT = -c E T with c = 2 / (n^2 R). The part along a row only changes the
    row's norm: dR/dx_i = (dR/ds_i - (dR/ds_i . s_i) x_i / |x_i|) / N_i; centring the rows centres this. For the
    teacher, x_id = y_id g_d, and dR/dg_d = sum_i y_id dR/dx_id = sum_i x_id dR/dx_id / g_d.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, gates: Tensor) -> Tensor:
        student, gated = centre(student), centre(teacher).mul_(gates)
        norms, gated_norms = (torch.linalg.vector_norm(rows, dim=1, keepdim=True) for rows in (student, gated))
        lengths, gated_lengths = norms + EPSILON, gated_norms + EPSILON  # N_i
        unit, gated_unit = student.div_(lengths), gated.div_(gated_lengths)  # [n, d], [n, e]
        difference = (unit @ unit.T).addmm_(gated_unit, gated_unit.T, alpha=-1)  # [n, n]
        gap = (torch.linalg.vector_norm(difference).square() / difference.numel() + EPSILON).sqrt()
        ctx.save_for_backward(unit, norms, lengths, gated_unit, gated_norms, gated_lengths, gates, difference, gap)
        return gap

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        unit, norms, lengths, gated_unit, gated_norms, gated_lengths, gates, difference, gap = ctx.saved_tensors
        factor = 2 * slope / (gap * difference.numel())
        of_student = of_gates = None
        if ctx.needs_input_grad[0]:
            pull = difference @ unit  # [n, d]
            along = (pull * unit).sum(1, keepdim=True) * (lengths / norms.clamp_min(TINY))
            of_student = pull.addcmul_(unit, along, value=-1).mul_(factor / lengths)
            of_student.sub_(of_student.mean(0))
        if ctx.needs_input_grad[2]:
            products = (difference @ gated_unit).mul_(gated_unit)  # [n, e]
            along = products.sum(1) * (gated_lengths / gated_norms.clamp_min(TINY)).squeeze(1)
            # Where a gate is 0, all of this is 0.
            of_gates = (along @ gated_unit.square() - products.sum(0)) * (factor / gates.clamp_min(TINY))
        return of_student, None, of_gates


def alignment(a: Float[Tensor, "n n"], b: Float[Tensor, "n n"]) -> Float[Tensor, ""]:
    """The cosine between two matrices as vectors, in [-1, 1]; 0 where one of them is 0."""
    return (a / torch.linalg.matrix_norm(a).clamp_min(LEAST) * (b / torch.linalg.matrix_norm(b).clamp_min(LEAST))).sum()


def cka(a: Float[Tensor, "n n"], b: Float[Tensor, "n n"]) -> Float[Tensor, ""]:
    """Centred kernel alignment (Kornblith et al., arXiv 1905.00414, equation 1) of two Gram matrices.

    Strongly biased unless n is far above the width of the features: independent features with n = 50 and d = 768 give
    0.94.
    """
    return alignment(double_centre(a), double_centre(b))


def off_diagonal_cka(a: Float[Tensor, "n n"], b: Float[Tensor, "n n"]) -> Float[Tensor, ""]:
    """`cka` without the diagonals of the centred matrices, which agree whatever the features say."""
    return alignment(_hollow(double_centre(a)), _hollow(double_centre(b)))


def debiased_cka(a: Float[Tensor, "n n"], b: Float[Tensor, "n n"]) -> Float[Tensor, ""]:
    """`cka` with the unbiased estimate of HSIC (Song et al., 2012): near 0 for independent features of any width.

    It needs four rows or more; with fewer it is 0.
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
    """An uncentred Gram matrix, kept as `rest + constant`: a large constant would use up float32's precision.

    `a + b` is the Gram matrix of concatenated features, `a * b` that of their outer products, without forming either:
    <a_i (x) b_i, a_j (x) b_j> = <a_i, a_j> <b_i, b_j>. Centring removes the constant, but in a
    product it first scales the other factor's rest.
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
