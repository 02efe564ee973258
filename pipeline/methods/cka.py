"""Centred kernel alignment (Kornblith et al., arXiv 1905.00414) of student and teachers, as a penalty."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.functional import kernels
from pipeline.functional.kernels import TINY, centre, gram
from pipeline.methods import Context, Signals, Transfer, full_precision
from pipeline.methods._targets import Targets, TargetSettings


class Settings(TargetSettings):
    """Keys of the method.

    Attributes:
        estimate: of CKA: `plain`, as published, or `debiased`: in small batches, plain CKA is high for any wide
            features.
    """

    estimate: Literal["plain", "debiased"] = "plain"

    def build(self, context: Context) -> Transfer:
        return CentredKernelAlignment(Targets(self, context), self.estimate)


class CentredKernelAlignment(Transfer):
    """1 - CKA between the linear kernels of the student's features and of the concatenated targets.

    Unlike in AFT, longer rows count more, and there are no parameters.
    """

    def __init__(self, targets: Targets, estimate: Literal["plain", "debiased"]):
        super().__init__()
        self.targets, self.reads = targets, targets.reads
        self.estimate = estimate

    @full_precision
    def forward(self, signals: Signals) -> Float[Tensor, ""]:
        student = _unit_trace(gram(centre(signals.features)))
        blocks = [gram(centre(block)) for block in self.targets(signals)]
        teacher = _unit_trace(torch.stack(blocks).sum(0))
        similarity = kernels.cka if self.estimate == "plain" else kernels.debiased_cka
        return 1 - similarity(student, teacher)


def _unit_trace(matrix: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """CKA does not depend on scale, but in float32 the squares of tiny entries would become 0."""
    return matrix / matrix.trace().clamp_min(TINY)
