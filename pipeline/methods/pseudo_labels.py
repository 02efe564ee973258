"""Self-training on pseudo-labels (Lee, 2013, "Pseudo-Label"), given by the teachers' probes or their own heads.

    mean over rows of [max_c q_c >= confidence] * -log softmax(s)_y,  y = argmax_c q_c

q is the teachers' combined probability, s the student's logits. A row whose label training may use has that label, and
counts in any case. It is what users do without this library: label the rest by a good model, drop doubtful rows, train.
"""

from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from pipeline.methods import Context, Signals, Transfer, full_precision
from pipeline.methods._targets import OutputSettings, TeacherOutputs

TASKS = ("classification",)
"""See `pipeline.methods`. Only a class has a probability of its own."""

AUTO = {"confidence": [0.8, 0.5, 0.95]}
"""See `pipeline.methods`."""


class Settings(OutputSettings):
    """Keys of the method, and which outputs the labels come from.

    Attributes:
        confidence: rows whose largest probability is lower are left out; 0 uses all.
    """

    confidence: float = Field(0.8, ge=0, le=1)

    def build(self, context: Context) -> Transfer:
        return PseudoLabels(self.teacher_outputs(context), self.confidence, int(context.task.missing))


class PseudoLabels(Transfer):
    """Cross-entropy with the classes that the teachers' combined outputs are sure of.

    Args:
        teacher: the combined outputs.
        confidence: the least probability of a class.
        missing: the label of a row whose label is hidden or missing.
    """

    def __init__(self, teacher: TeacherOutputs, confidence: float, missing: int):
        super().__init__()
        self.teacher, self.reads = teacher, teacher.reads
        self.confidence, self.missing = confidence, missing

    @full_precision
    def forward(self, signals: Signals) -> Float[Tensor, ""]:
        sure, guessed = self.teacher(signals).softmax(1).max(1)
        known = signals.labels != self.missing
        labels = signals.labels.where(known, guessed)
        counts = known | (sure >= self.confidence)
        # Over all rows: a batch with few sure ones weighs little.
        return (functional.cross_entropy(signals.outputs, labels, reduction="none") * counts).mean()
