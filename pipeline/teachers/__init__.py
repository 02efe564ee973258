"""Frozen foundation models, one file a family: `family: transformers` is `transformers.py`.

A family offers `Settings`, its keys in a section of `teachers`, and `load(settings, precision, device)`, which returns
a `Teacher`. A teacher brings its own preprocessing, taken from its model's configuration.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pipeline.datasets import Kind


class Teacher(ABC):
    """A frozen model that turns rows into features.

    Attributes:
        kind: what its rows must hold, "text" or "image".
        heads: what it says about a row: the name of each head and the shape of one row of it, such as
            `{"pooled": (384,)}`. All heads come from one forward pass.
        recipe: all that determines a feature's value besides the row's content: weights digest, architecture, heads,
            preprocessing, precision, and the version of the family's code. JSON-like; its digest is a store's identity.
    """

    kind: Kind
    heads: Mapping[str, tuple[int, ...]]
    recipe: Mapping[str, Any]

    @abstractmethod
    def transform(self, content: str | bytes) -> Any:
        """Preprocess one row, in a loader process or thread: no GPU, no shared state.

        Raises:
            ValueError: the row cannot be read (an image that does not decode).
        """

    @abstractmethod
    def cost(self, example: Any) -> int:
        """How long a transformed row is, so that rows of like length share a batch; equal for all if it is fixed."""

    @abstractmethod
    def collate(self, examples: Sequence[Any]) -> Mapping[str, Tensor]:
        """Put transformed rows into one batch, padded if need be."""

    @abstractmethod
    @torch.inference_mode()
    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the model says: per head, float tensors [n, *shape] on the model's device."""
