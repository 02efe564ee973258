"""Logit distillation after standardising each row's logits (Sun et al., CVPR 2024, arXiv 2403.01427)."""

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import UserError
from pipeline.methods import Context, Signals, Transfer, full_precision
from pipeline.methods._targets import LogitSettings

EPSILON = 1e-7


class Settings(LogitSettings):
    """Keys of the method, beside whose logits the student follows.

    Attributes:
        temperature: standardised logits are at most (C - 1) / sqrt(C): the more classes C, the higher makes sense.
    """

    temperature: float = Field(2.0, gt=0)

    def build(self, context: Context) -> Transfer:
        """Raises: UserError: there are two classes, of whose standardised logits only the sign is left."""
        if context.classes < 3:
            raise UserError(
                "logit_standardisation needs three classes or more: of two standardised logits only the sign is left; "
                "use logit_kd"
            )
        return StandardisedLogitDistillation(self.teacher_logits(context), self.temperature)


class StandardisedLogitDistillation(Transfer):
    """T^2 * mean over rows of KL(softmax(z(t) / T) || softmax(z(s) / T)), z(x) = (x - mean x) / (1e-7 + std x).

    Mean and unbiased standard deviation are over the classes of one row. s are the student's logits, t the mean over
    the teachers of the log-softmax of what their probes or heads say. It is blind to shifting and scaling a row of
    logits: the student need not match the teachers' confidence.
    """

    def __init__(self, teacher_logits: nn.Module, temperature: float):
        super().__init__()
        self.teacher_logits = teacher_logits
        self.temperature = temperature

    @full_precision
    def forward(self, signals: Signals) -> Float[Tensor, ""]:
        teacher = (_standardise(self.teacher_logits(signals)) / self.temperature).log_softmax(1)
        student = (_standardise(signals.logits) / self.temperature).log_softmax(1)
        return self.temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def _standardise(logits: Float[Tensor, "n classes"]) -> Float[Tensor, "n classes"]:
    centred = logits - logits.mean(1, keepdim=True)
    variance = centred.square().sum(1, keepdim=True) / (logits.shape[1] - 1)
    # A row of equal logits, such as a head that starts at 0 gives, says nothing; the formula's slope there is 1e7.
    says_something = variance > EPSILON**2
    return centred * says_something / (EPSILON + variance.clamp_min(EPSILON**2).sqrt())
