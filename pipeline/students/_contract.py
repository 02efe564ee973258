"""What every student is: a model that also returns its features, and a dataset as its family reads it."""

from abc import ABC, abstractmethod
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

Kind = Literal["text", "image", "features"]


@runtime_checkable
class Inputs(Protocol):
    """A dataset as one student family reads it."""

    def batch(self, rows: np.ndarray, views: np.ndarray | None = None) -> Any:
        """The input of `Student.forward` for rows of the dataset, in the order given.

        Args:
            rows: their numbers.
            views: the number of the view of each row, where the inputs were made with views; clean rows if None.
        """
        ...


class Student(nn.Module, ABC):
    """A model that also returns its features. `width` is d, the width of the input of its last layer."""

    width: int

    @abstractmethod
    def forward(self, inputs: Any) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n c"]]:
        """The features and the outputs of a batch that `Inputs.batch` made."""


class Scaled(Student):
    """A student whose outputs are in the unit of the labels: those of its last layer times `scale` plus `shift`.

    Args:
        student: whose last layer learns labels of mean 0 and standard deviation 1.
        shift, scale: the mean and standard deviation of the labels it learns from.
    """

    def __init__(self, student: Student, shift: float, scale: float):
        super().__init__()
        self.student, self.width = student, student.width
        self.shift, self.scale = shift, scale

    def forward(self, inputs: Any) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n c"]]:
        """The student's features, and its outputs, scaled in float32."""
        features, outputs = self.student(inputs)
        return features, outputs.float() * self.scale + self.shift
