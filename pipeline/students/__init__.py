"""Small models that learn, one file a family: `family: bag_of_words` is `bag_of_words.py`.

A family offers

- `KIND`: "text" or "image";
- `Settings`: its keys in a section of `students`;
- `fit(settings, data, rows)`: what the student must know of its training rows before it exists, such as a vocabulary,
  as JSON-like data; it never sees other rows;
- `inputs(settings, fitted, data)`: the dataset as this student reads it, an `Inputs`;
- `build(settings, fitted, classes, pretrained=True)`: a `Student`, initialised from torch's current random state and,
  if its settings ask for it, pretrained weights; with `pretrained=False` it only has the shape of one, because weights
  are about to be loaded, and needs no file but the checkpoint's own.
"""

from abc import ABC, abstractmethod
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn


@runtime_checkable
class Inputs(Protocol):
    """A dataset as one student family reads it."""

    def batch(self, rows: np.ndarray) -> Any:
        """The input of `Student.forward` for rows of the dataset, in the order given."""
        ...


class Student(nn.Module, ABC):
    """A classifier that shows its features. `width` is d, the width of the input of its last layer."""

    width: int

    @abstractmethod
    def forward(self, inputs: Any) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n c"]]:
        """The features and the logits of a batch that `Inputs.batch` made."""
