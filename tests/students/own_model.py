"""A model as a user would write one, for students of the family `python`."""

from typing import Any

from torch import Tensor, nn


class Mean(nn.Module):
    """The mean of the vectors of a text's tokens, and a linear head."""

    def __init__(self, classes: int, inputs: int, width: int = 8):
        super().__init__()
        self.width = width
        self.words = nn.Embedding(inputs, width)
        self.head = nn.Linear(width, classes)

    def forward(self, batch: Any) -> tuple[Tensor, Tensor]:
        numbers, mask = batch
        vectors = self.words(numbers) * mask[..., None]
        features = vectors.sum(1) / mask.sum(1, keepdim=True)
        return features, self.head(features)
