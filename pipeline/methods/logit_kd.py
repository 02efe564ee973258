"""Logit distillation (Hinton et al., arXiv 1503.02531) from probes on the teachers' features, or their own heads."""

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from pipeline.methods import Context, Signals, Transfer, full_precision
from pipeline.methods._targets import OutputSettings, TeacherOutputs
from pipeline.tasks import Task


class Settings(OutputSettings):
    """Keys of the method, and which outputs the student follows.

    Attributes:
        temperature: softens both sides; the penalty is multiplied by its square, so the gradient keeps its size.
    """

    temperature: float = Field(4.0, gt=0)

    def build(self, context: Context) -> Transfer:
        return LogitDistillation(context.task, self.teacher_outputs(context), self.temperature)


class LogitDistillation(Transfer):
    """The task's divergence between the student's outputs and the teachers' combined outputs, at one temperature.

    For classification it is T^2 * mean over rows of KL(softmax(t / T) || softmax(s / T)): s are the student's logits, t
    the mean over the sources of the log-softmax of their probes' or heads' logits.
    """

    def __init__(self, task: Task, teacher: TeacherOutputs, temperature: float):
        super().__init__()
        self.task, self.teacher, self.reads = task, teacher, teacher.reads
        self.temperature = temperature

    @full_precision
    def forward(self, signals: Signals) -> Float[Tensor, ""]:
        return self.task.divergence(signals.outputs, self.teacher(signals), self.temperature)
