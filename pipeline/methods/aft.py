"""Adaptive Feature Transfer (arXiv 2406.07337): the student's kernel follows the teachers', on features it chooses."""

import math

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from pipeline.kernels import centre, cosine, gram, rms_gap
from pipeline.methods import Context, Signals, Transfer, full_precision
from pipeline.targets import Targets, TargetSettings


class Settings(TargetSettings):
    """The published form by default; what is published is raw features, side by side.

    Attributes:
        learning_rate: of the gates.
    """

    learning_rate: float = Field(1e-2, gt=0)

    def build(self, context: Context) -> Transfer:
        return AdaptiveFeatureTransfer(self, Targets(self, context), context.student_width)


class AdaptiveFeatureTransfer(Transfer):
    """R = sqrt(mean((K_S - K_T)^2) + 1e-8), the gap between two kernels of a batch, over all n^2 pairs of rows.

    A kernel is the cosines between the rows, after each column was centred over the batch. K_S is that of the student's
    features, K_T that of the teachers' features, each multiplied by its gate sigmoid(s); s starts at 0 and is learned
    together with the student, on the same penalty. R is blind to shifting, scaling and rotating the student's features.
    A batch of two rows teaches nothing, because centring makes them opposite: R is 1e-4 there, its least.
    """

    def __init__(self, settings: Settings, targets: Targets, student_width: int):
        super().__init__()
        self.learning_rate = settings.learning_rate
        self.targets = targets
        self.student_width = student_width
        self.scores = nn.ParameterList(torch.zeros(width) for width in targets.widths)

    @full_precision
    def forward(self, signals: Signals) -> Float[Tensor, ""]:
        student = gram(centre(signals.features))
        teacher = torch.zeros_like(student)
        for block, score in zip(self.targets(signals.teachers), self.scores, strict=True):
            teacher = teacher + gram(centre(block), score.sigmoid().square())
        return rms_gap(cosine(student), cosine(teacher))

    def chance(self) -> float:
        """For features that have nothing to do with one another and equal variance in each direction."""
        return math.sqrt(1 / self.student_width + 1 / self.targets.width)

    def gates(self) -> dict[str, Float[Tensor, " _"]]:
        scores = zip(self.targets.names, self.scores, strict=True)
        return {name: score.detach().sigmoid() for name, score in scores}

    def log(self) -> dict[str, float]:
        gates = torch.cat(list(self.gates().values()))
        return {"gate_mean": gates.mean().item(), "gate_std": gates.std().item()}
