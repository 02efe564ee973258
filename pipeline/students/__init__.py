"""Small models that learn, one file a family: `family: bag_of_words` is `bag_of_words.py`.

A family offers

- `KIND`: what it reads: "text" or "image", which are the dataset's rows, or "features", which are what the run's
  teachers said of them;
- `Settings`: its keys in a section of `students`;
- `fit(settings, data, rows)`: what the student must know of its training rows before it exists, such as a vocabulary,
  as JSON-like data; it never sees other rows;
- `inputs(settings, fitted, data)`: the dataset as this student reads it, an `Inputs`;
- `build(settings, fitted, classes, pretrained=True)`: a `Student`, initialised from torch's current random state and,
  if its settings ask for it, pretrained weights; with `pretrained=False` it only has the shape of one, because weights
  are about to be loaded, and needs no file but the checkpoint's own.

`data` is the `Prepared` dataset. For a family that reads features it is a reader of each teacher's store instead, by
the teacher's name and in the run's order; that the stores are of the dataset, and in `inputs` those of `fit`, was
checked. Features do not train, so such a student takes no methods.
"""

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
    """A classifier that shows its features. `width` is d, the width of the input of its last layer."""

    width: int

    @abstractmethod
    def forward(self, inputs: Any) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n c"]]:
        """The features and the logits of a batch that `Inputs.batch` made."""
