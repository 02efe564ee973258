"""Frozen foundation models, one file a family: `family: transformers` is `transformers.py`.

A family offers `Settings`, its keys in a section of `teachers`, and `load(settings, precision, device)`, which returns
a `Teacher`, and raises `UserError` if the weights cannot be loaded. A teacher has its own preprocessing, taken from its
model's configuration.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from pipeline.datasets import Kind
from pipeline.tasks import Task

Precision = Literal["float32", "bfloat16", "float16"]
"""What a model's parameters are cast to. Never chosen by the machine, because it is part of the recipe."""


class Teacher(ABC):
    """A frozen model that turns rows into features.

    Attributes:
        kind: what its rows must hold, "text" or "image"; or "id", if it only needs the ids of rows.
        heads: its outputs: the name of each head and the shape of one row of it, such as `{"pooled": (384,)}`. All
            heads come from one forward pass.
        recipe: everything that determines a feature's value except the row's content: weights digest, architecture,
            pooling, preprocessing, precision, and the version of the family's code. JSON-like; its digest is a store's
            identity. Which heads are asked for is not part of it: a head's values do not depend on the others.
        head_recipes: by head, what determines its values besides that, such as the names of classes; JSON-like.
        largest: by head with a value for each class, how many of the largest to keep; all without an entry.
        device: where the model is; `forward` takes batches that are there.
        notes: what a user should know about the model before it runs, one line each.
        uniform: whether all rows cost the same, as images of one size do, so that they need not be sorted into batches.
        longest: the greatest `cost` of a row, to which longer ones are cut; None if none is cut.
        replicable: whether deep copies that share its parameters and buffers may run beside each other in threads: what
            a pass changes is in modules, or in the teacher itself.
    """

    kind: Kind | Literal["id"]
    heads: Mapping[str, tuple[int, ...]]
    recipe: Mapping[str, Any]
    head_recipes: Mapping[str, Mapping[str, Any]] = {}
    largest: Mapping[str, int] = {}
    device: torch.device
    notes: tuple[str, ...] = ()
    uniform: bool
    longest: int | None = None
    replicable: bool = False

    def name_classes(self, task: Task) -> None:  # noqa: B027  (most teachers have no use for it)
        """Take the names of the dataset's classes; a head with a column for each of them is there from then on.

        Raises:
            UserError: such a head is asked for, and the names do not allow it.
        """

    @abstractmethod
    def transform(self, content: str | bytes | Image.Image) -> Any:
        """Preprocess one row, in one of many threads: no GPU, no torch arithmetic (it would start threads of its own).

        Args:
            content: by `kind`, a text, the encoded bytes of an image (a view of an image comes decoded), or an id.

        Raises:
            ValueError: the row cannot be read (an image that does not decode).
        """

    @abstractmethod
    def cost(self, example: Any) -> int:
        """The length of a transformed row, so that rows of similar length share a batch; constant if it is fixed."""

    @abstractmethod
    def collate(self, examples: Sequence[Any]) -> Mapping[str, Tensor]:
        """Put transformed rows into one batch on the CPU, padded if necessary; called like `transform`.

        The first dimension of every tensor is the rows, so that a batch can be divided.
        """

    @abstractmethod
    @torch.inference_mode()
    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The model's outputs: per head, float tensors [n, *shape] on the model's device."""
