"""Logit distillation (Hinton et al., arXiv 1503.02531) from probes on the teachers' features, or their own heads."""

from collections.abc import Callable

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

    Args:
        task: gives the divergence.
        teacher: the combined outputs.
        temperature: T.
        change: applied to the outputs of both sides first, row by row; nothing if None.
    """

    def __init__(
        self,
        task: Task,
        teacher: TeacherOutputs,
        temperature: float,
        change: Callable[[Tensor], Tensor] | None = None,
    ):
        super().__init__()
        self.task, self.teacher, self.reads = task, teacher, teacher.reads
        self.temperature, self.change = temperature, change

    @full_precision
    def forward(self, signals: Signals) -> Float[Tensor, ""]:
        student, teacher = signals.outputs, self.teacher(signals)
        if self.change is not None:
            student, teacher = self.change(student), self.change(teacher)
        return self.task.divergence(student, teacher, self.temperature)
