"""Logit distillation after standardising each row's logits (Sun et al., CVPR 2024, arXiv 2403.01427).

The penalty is T^2 * mean over rows of KL(softmax(z(t) / T) || softmax(z(s) / T)), z(x) = (x - mean x) / (1e-7 + std x):
`logit_kd` on standardised logits. Shifting and scaling a row of logits changes nothing, so the student need not match
the teachers' confidence.
"""

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from pipeline.errors import UserError
from pipeline.methods import Context, Transfer
from pipeline.methods._targets import OutputSettings
from pipeline.methods.logit_kd import LogitDistillation

TASKS = ("classification",)
"""See `pipeline.methods`. In other tasks, the outputs of a row are not on one scale."""

EPSILON = 1e-7


class Settings(OutputSettings):
    """Keys of the method, and which outputs the student follows.

    Attributes:
        temperature: standardised logits are at most (C - 1) / sqrt(C), so more classes C allow a higher one.
    """

    temperature: float = Field(2.0, gt=0)

    def build(self, context: Context) -> Transfer:
        """Raises `UserError` for fewer than three outputs: of two standardised logits only the sign is left."""
        if len(context.task.outputs) < 3:
            raise UserError(
                "logit_standardisation needs three outputs or more: of two standardised logits only the sign is left; "
                "use logit_kd"
            )
        return LogitDistillation(context.task, self.teacher_outputs(context), self.temperature, standardised)


def standardised(logits: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
    """z of every row: mean 0 and unbiased standard deviation 1 over its outputs; 0 for a row of equal logits."""
    centred = logits - logits.mean(1, keepdim=True)
    variance = centred.square().sum(1, keepdim=True) / (logits.shape[1] - 1)
    # A row of equal logits, as from a head that starts at 0, becomes 0: the formula's slope there would be 1e7.
    varied = variance > EPSILON**2
    return centred * varied / (EPSILON + variance.clamp_min(EPSILON**2).sqrt())
