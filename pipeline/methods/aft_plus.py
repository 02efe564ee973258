"""Task-aware AFT (ours): the last layer follows each source's best probe, the features follow the teachers' kernel.

Adaptive Feature Transfer shapes the student's features and leaves its last layer to the labels. With few labels,
neither is enough. The kernel is dominated by what varies most in the teacher's features, which may not matter to the
task, so the outputs of a probe are added to it. The last layer, which the kernel does not reach, follows the same
outputs.

If the labels are enough for the last layer, it does better without the probe's mistakes. With `mix`, as `weight: auto`
has it, another last layer is fitted to the labels after training, and validation rows decide how much counts of each.
"""

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from pipeline import params
from pipeline.methods import Context, Reads, Signals, Transfer, aft, logit_kd

AUTO = {"mix": [True]}
"""See `pipeline.methods`."""


class Settings(params.Settings):
    """Keys of the method. Those of `aft` and `logit_kd` are fixed at the best values found; see docs/results.

    Attributes:
        head: weight of the divergence of outputs; with 0, the last layer learns from labels only.
        kernel: weight of the gap between kernels; with 0, the teachers' features are not read.
        temperature: of the outputs; at 1 the student follows the probe's probabilities as they are.
        learning_rate: of the gates.
        mix: set `train.mix` for the candidates whose weight is not 0.
    """

    head: float = Field(1.0, ge=0)
    kernel: float = Field(3.0, ge=0)
    temperature: float = Field(1.0, gt=0)
    learning_rate: float = Field(1e-2, gt=0)
    mix: bool = False

    @model_validator(mode="after")
    def _something_counts(self) -> "Settings":
        if not self.head and not self.kernel:
            raise ValueError("head and kernel are both 0, so nothing is left; for plain training, set weight: 0.0")
        return self

    def build(self, context: Context) -> Transfer:
        """Both parts, or the one that counts; see `aft` and `logit_kd`."""
        kernel = aft.Settings(task_directions=True, probe="best", learning_rate=self.learning_rate)
        head = logit_kd.Settings(probe="best", cross_fit=True, temperature=self.temperature)
        return AdaptiveTransferPlus(
            head.build(context) if self.head else None, kernel.build(context) if self.kernel else None, self
        )


class AdaptiveTransferPlus(Transfer):
    """head * KL + kernel * R: the divergence of the outputs as in `logit_kd`, the gap of the kernels as in `aft`.

    A part that does not count is None.
    """

    def __init__(self, head: Transfer | None, kernel: Transfer | None, settings: Settings):
        super().__init__()
        self.head, self.kernel, self.mix = head, kernel, settings.mix
        self.head_share, self.kernel_share, self.learning_rate = settings.head, settings.kernel, settings.learning_rate
        self.reads = frozenset[Reads]().union(*(part.reads for part in (head, kernel) if part))

    def forward(self, signals: Signals) -> Float[Tensor, ""]:
        parts = ((self.kernel_share, self.kernel), (self.head_share, self.head))
        return torch.stack([share * part(signals) for share, part in parts if part]).sum()

    def gates(self) -> dict[str, Float[Tensor, " teacher"]]:
        return self.kernel.gates() if self.kernel else {}

    def log(self) -> dict[str, float]:
        """As `aft` does."""
        return self.kernel.log() if self.kernel else {}
