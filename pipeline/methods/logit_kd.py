"""Logit distillation (Hinton et al., arXiv 1503.02531) from probes on the teachers' features, or their own heads."""

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.methods import Context, Signals, Transfer, full_precision
from pipeline.methods._targets import LogitSettings


class Settings(LogitSettings):
    """Keys of the method, beside whose logits the student follows.

    Attributes:
        temperature: softens both sides; its square multiplies the penalty, so that the gradient keeps its size.
    """

    temperature: float = Field(4.0, gt=0)

    def build(self, context: Context) -> Transfer:
        return LogitDistillation(self.teacher_logits(context), self.temperature)


class LogitDistillation(Transfer):
    """T^2 * mean over rows of KL(softmax(t / T) || softmax(s / T)).

    s are the student's logits, t the mean over the teachers of the log-softmax of what their probes or heads say.
    """

    def __init__(self, teacher_logits: nn.Module, temperature: float):
        super().__init__()
        self.teacher_logits = teacher_logits
        self.temperature = temperature

    @full_precision
    def forward(self, signals: Signals) -> Float[Tensor, ""]:
        teacher = (self.teacher_logits(signals) / self.temperature).log_softmax(1)
        student = (signals.logits / self.temperature).log_softmax(1)
        return self.temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)
