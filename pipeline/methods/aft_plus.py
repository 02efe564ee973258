"""AFT that knows the task (ours): the kernel has the directions of each teacher's best probe, the head its logits.

Adaptive Feature Transfer shapes the student's features and leaves its last layer to the labels. With few labels both
lack something: the kernel is dominated by what the teacher knows best, which need not be the task, so what a probe
reads out of the teacher joins it; and the last layer, which no kernel reaches, follows the same probe's logits.
"""

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from pipeline import params
from pipeline.methods import Context, Signals, Transfer, aft, logit_kd


class Settings(params.Settings):
    """Keys of the method. Those of `aft` and `logit_kd` are set to what did best; see docs/results.

    Attributes:
        logits: how much the divergence of the logits counts beside the kernels' gap.
        temperature: of the logits.
        learning_rate: of the gates.
    """

    logits: float = Field(0.01, ge=0)
    temperature: float = Field(2.0, gt=0)
    learning_rate: float = Field(1e-2, gt=0)

    def build(self, context: Context) -> Transfer:
        """Both parts; see `aft` and `logit_kd`."""
        kernel = aft.Settings(task_directions=True, probe="best", learning_rate=self.learning_rate)
        head = logit_kd.Settings(probe="best", temperature=self.temperature)
        return AdaptiveTransferPlus(kernel.build(context), head.build(context), self.logits)


class AdaptiveTransferPlus(Transfer):
    """R + logits * KL: the gap of the kernels as in `aft`, and the divergence of the logits as in `logit_kd`."""

    def __init__(self, kernel: Transfer, head: Transfer, logits: float):
        super().__init__()
        self.kernel, self.head, self.logits = kernel, head, logits
        self.learning_rate = kernel.learning_rate

    def forward(self, signals: Signals) -> Float[Tensor, ""]:
        return self.kernel(signals) + self.logits * self.head(signals)

    def gates(self) -> dict[str, Float[Tensor, " teacher"]]:
        return self.kernel.gates()

    def log(self) -> dict[str, float]:
        """As `aft` does."""
        return self.kernel.log()
