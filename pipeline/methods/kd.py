"""Feature distillation by a linear map: from the student's features to the teachers' (KD in arXiv 2406.07337)."""

from jaxtyping import Float
from torch import Tensor, nn

from pipeline.methods import Context, Signals, Transfer, full_precision
from pipeline.methods._targets import Targets, TargetSettings


class Settings(TargetSettings):
    """Targets as in `TargetSettings`. The penalty has the features' scale; standardise them to compare weights."""

    def build(self, context: Context) -> Transfer:
        """A new map, initialised from torch's current random state."""
        return FeatureDistillation(Targets(self, context), context.student_width)


class FeatureDistillation(Transfer):
    """mean((W f + b - t)^2) over all elements, t the teachers' concatenated targets, W and b learned."""

    def __init__(self, targets: Targets, student_width: int):
        super().__init__()
        self.targets, self.reads = targets, targets.reads
        self.map = nn.Linear(student_width, targets.width)

    @full_precision
    def forward(self, signals: Signals) -> Float[Tensor, ""]:
        return (self.map(signals.features) - self.targets.side_by_side(signals)).square().mean()
