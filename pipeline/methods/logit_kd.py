"""Logit distillation (Hinton et al., arXiv 1503.02531) from linear probes on the teachers' features."""

from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from pipeline import params
from pipeline.methods import Context, Signals, Transfer, full_precision
from pipeline.targets import ProbeLogits, WhichProbe


class Settings(params.Settings):
    """Keys of the method.

    Attributes:
        probe: whose logits the student follows: of each teacher's `linear` or `kernel` probe, or of the `best` of both
            by log loss on validation rows.
        cross_fit: take what is said of a labelled row from a probe that was fitted without it. What a probe says of
            rows that it was fitted on is hardly more than it was told.
        temperature: softens both sides; its square multiplies the penalty, so that the gradient keeps its size.
    """

    probe: WhichProbe = "linear"
    cross_fit: bool = False
    temperature: float = Field(4.0, gt=0)

    def build(self, context: Context) -> Transfer:
        return LogitDistillation(ProbeLogits(context, self.probe, self.cross_fit), self.temperature)


class LogitDistillation(Transfer):
    """T^2 * mean over rows of KL(softmax(t / T) || softmax(s / T)).

    s are the student's logits, t the mean over the teachers of the log-softmax of what their probes say.
    """

    def __init__(self, teacher_logits: ProbeLogits, temperature: float):
        super().__init__()
        self.teacher_logits = teacher_logits
        self.temperature = temperature

    @full_precision
    def forward(self, signals: Signals) -> Float[Tensor, ""]:
        teacher = (self.teacher_logits(signals) / self.temperature).log_softmax(1)
        student = (signals.logits / self.temperature).log_softmax(1)
        return self.temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)
