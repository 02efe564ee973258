"""What every student is: a classifier that also returns its features, and a dataset as its family reads it."""

from abc import ABC, abstractmethod
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

Kind = Literal["text", "image", "features"]


@runtime_checkable
class Inputs(Protocol):
    """A dataset as one student family reads it."""

    def batch(self, rows: np.ndarray) -> Any:
        """The input of `Student.forward` for rows of the dataset, in the order given."""
        ...


class Student(nn.Module, ABC):
    """A classifier that also returns its features. `width` is d, the width of the input of its last layer."""

    width: int

    @abstractmethod
    def forward(self, inputs: Any) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n c"]]:
        """The features and the logits of a batch that `Inputs.batch` made."""
