"""Relational knowledge distillation (Park et al., CVPR 2019, arXiv 1904.05068): distances between rows, and angles."""

from functools import partial

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from pipeline.functional.kernels import TINY, centre, gram
from pipeline.methods import Context, Signals, Transfer, full_precision
from pipeline.methods._targets import Targets, TargetSettings

ENTRIES = 1 << 22
"""Angles in memory at a time, of n^3."""


class Settings(TargetSettings):
    """Weights of the two parts, by default as the AFT paper combines them: (distances + 2 angles) / 2.

    Attributes:
        distance_weight: of the differences of distances between rows.
        angle_weight: of the differences of angles between rows.
    """

    distance_weight: float = Field(0.5, ge=0)
    angle_weight: float = Field(1.0, ge=0)

    @model_validator(mode="after")
    def _something_counts(self) -> "Settings":
        if self.distance_weight == self.angle_weight == 0:
            raise ValueError("distance_weight and angle_weight are both 0; give one of them a weight")
        return self

    def build(self, context: Context) -> Transfer:
        return RelationalDistillation(Targets(self, context), self.distance_weight, self.angle_weight)


class RelationalDistillation(Transfer):
    """distance_weight * mean_ij h(d_ij - d'_ij) + angle_weight * mean_ijk h(a_ijk - a'_ijk), h the smooth L1 loss.

    d_ij is the distance between rows i and j over the mean distance of rows that differ; a_ijk is the cosine of the
    angle at row i between the directions to j and k, and 0 if row j or k equals row i. Primes are the concatenated
    targets. Angles come from the Gram matrix, (G_jk - G_ij - G_ik + G_ii) / (d_ij d_ik). They are computed in parts,
    and again in the backward pass, so that memory does not grow with n^3.
    """

    def __init__(self, targets: Targets, distance_weight: float, angle_weight: float):
        super().__init__()
        self.targets, self.reads = targets, targets.reads
        self.distance_weight = distance_weight
        self.angle_weight = angle_weight

    @full_precision
    def forward(self, signals: Signals) -> Float[Tensor, ""]:
        student = gram(centre(signals.features))
        teacher = torch.stack([gram(centre(block)) for block in self.targets(signals)]).sum(0)
        distances, teacher_distances = _distances(student), _distances(teacher)
        penalty = student.new_zeros(())
        if self.distance_weight:
            both = (_relative(distances), _relative(teacher_distances))
            penalty = penalty + self.distance_weight * F.smooth_l1_loss(*both)
        if self.angle_weight:
            penalty = penalty + self.angle_weight * _angle_loss(student, distances, teacher, teacher_distances)
        return penalty


def _distances(centred_gram: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """Distances between rows; exactly 0, without gradient, for those that rounding cannot distinguish."""
    square = centred_gram.diagonal()
    sums = square[:, None] + square
    apart = sums - 2 * centred_gram
    distinct = apart > 64 * torch.finfo(apart.dtype).eps * sums
    return torch.where(distinct, apart, TINY).sqrt() * distinct


def _relative(distances: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    count = (distances > 0).sum().clamp_min(1)
    return distances / (distances.sum() / count).clamp_min(TINY)


def _angles(centred_gram: Float[Tensor, "n n"], distances: Float[Tensor, "n n"], at: slice) -> Float[Tensor, "m n n"]:
    """Cosines of the angles at some rows between the directions to all pairs of rows."""
    here, away = centred_gram[at], distances[at]
    square = centred_gram.diagonal()[at]
    inverse = torch.where(away > 0, 1 / torch.where(away > 0, away, 1), 0)
    products = centred_gram - here[:, :, None] - here[:, None, :] + square[:, None, None]
    return products * inverse[:, :, None] * inverse[:, None, :]


def _angle_loss(
    student: Float[Tensor, "n n"],
    distances: Float[Tensor, "n n"],
    teacher: Float[Tensor, "n n"],
    teacher_distances: Float[Tensor, "n n"],
) -> Float[Tensor, ""]:
    n = len(student)
    step = max(1, ENTRIES // n**2)

    def part(student: Tensor, distances: Tensor, teacher: Tensor, teacher_distances: Tensor, start: int) -> Tensor:
        at = slice(start, start + step)
        angles, teacher_angles = _angles(student, distances, at), _angles(teacher, teacher_distances, at)
        return F.smooth_l1_loss(angles, teacher_angles, reduction="sum")

    arguments = (student, distances, teacher, teacher_distances)
    if step >= n:
        return part(*arguments, 0) / n**3
    again = partial(checkpoint, part, *arguments, use_reentrant=False, preserve_rng_state=False)
    parts = [again(start) for start in range(0, n, step)]
    return torch.stack(parts).sum() / n**3
