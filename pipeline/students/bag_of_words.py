"""A text model for a CPU: the weighted sum of word vectors, a small residual network, a LayerNorm and a linear head.

The vocabulary comes from the training rows, labelled or not. A word's weight is its inverse document frequency,
log((1 + n) / (1 + texts with the word)) + 1, as usual for tf-idf. The LayerNorm keeps the features' spread away from
zero, where a kernel penalty has an enormous gradient and a small student collapses to one class.
"""

from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from pipeline import students
from pipeline.data import Dataset
from pipeline.params import Settings as Base
from pipeline.students._words import Vocabulary, Words, fit_vocabulary, kept_at_random, lengths_of, mixer, pad
from pipeline.views import Views

KIND: Literal["text"] = "text"


class Settings(Base):
    """Keys of a student of this family.

    Attributes:
        width: width of the word vectors and of the features.
        vocabulary: at most this many words, the most frequent first.
        min_count: a word must occur in this many training rows.
        pairs: also count pairs of neighbouring words.
        dropout: share of words and of hidden units that are dropped in a training step.
    """

    width: int = Field(default=64, ge=1)
    vocabulary: int = Field(default=8192, ge=1)
    min_count: int = Field(default=2, ge=1)
    pairs: bool = False
    dropout: float = Field(default=0.5, ge=0, lt=1)


def fit(settings: Settings, data: Dataset, rows: np.ndarray) -> dict[str, Any]:
    """The words of the training rows and their weights: the most frequent, ties in alphabetical order."""
    return fit_vocabulary(data, rows, settings.vocabulary, settings.min_count, settings.pairs)


def inputs(settings: Settings, fitted: dict[str, Any], data: Dataset, views: Views | None = None) -> "Words":
    """All texts as word numbers, once."""
    vocabulary = preprocessing(settings, fitted)
    return Words(data, vocabulary.key, vocabulary.encode, views)


def preprocessing(settings: Settings, fitted: dict[str, Any]) -> "Vocabulary":
    """Texts as word numbers."""
    return Vocabulary(fitted["vocabulary"], settings.pairs)


def build(settings: Settings, fitted: dict[str, Any], classes: int, pretrained: bool = True) -> "BagOfWords":
    """A student for C classes; from scratch, so `pretrained` changes nothing."""
    return BagOfWords(fitted["weights"], settings.width, classes, settings.dropout)


class BagOfWords(students.Student):
    """See the module. `weights` has one weight per word of the vocabulary; number 0, no known word, has weight 1."""

    def __init__(self, weights: list[float], width: int, classes: int, dropout: float):
        super().__init__()
        self.width = width
        self.dropout = dropout
        self.weights: Tensor
        self.register_buffer("weights", torch.tensor([1.0, *weights]))
        self.words = nn.EmbeddingBag(len(weights) + 1, width, mode="sum")
        # Small, so that words without a gradient so far add little noise.
        nn.init.normal_(self.words.weight, std=0.01)
        self.mix = mixer(width, dropout)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, inputs: tuple[Tensor, Tensor]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n c"]]:
        """Features and logits of n texts; see `Vocabulary`."""
        numbers, offsets = inputs
        lengths = lengths_of(numbers, offsets)
        weights = self.weights[numbers]
        if self.training and self.dropout:
            kept = kept_at_random(numbers.shape, self.dropout, numbers.device)
            weights = weights * kept / (1 - self.dropout)
            if numbers.device.type == "cpu" and not torch.compiler.is_compiling():
                # Leave dropped words out: the backward pass takes time for each word. On other devices they get weight
                # 0 instead, because counting the remaining words would wait for the device; and in compiled code,
                # because a number that depends on values would break it in two.
                offsets = nn.functional.pad(kept.cumsum(0), (1, 0))[offsets]
                numbers, weights = numbers[kept], weights[kept]
        return self._of_sums(self.words(numbers, offsets, per_sample_weights=weights), lengths)

    def _of_sums(
        self, total: Float[Tensor, "n d"], lengths: Int[Tensor, " n"]
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n c"]]:
        """Features and logits from the weighted sums of word vectors."""
        # The sum over a text's words grows with the root of their number, as random vectors do.
        pooled = total / lengths.sqrt()[:, None]
        features = self.norm(pooled + self.mix(pooled))
        return features, self.head(features)

    def graph(self) -> students.Graph:
        """Of `input_ids` and `attention_mask` [n, l], padded: graph formats have no bags of uneven length."""
        return students.Graph(_PaddedBag(self), ("input_ids", "attention_mask"), ((0, 1), (0, 1)), pad)


class _PaddedBag(nn.Module):
    """The logits of a bag of words from padded numbers."""

    def __init__(self, student: BagOfWords):
        super().__init__()
        self.student = student

    def forward(self, *inputs: Int[Tensor, "n l"]) -> Float[Tensor, "n c"]:
        numbers, mask = inputs
        vectors = self.student.words.weight[numbers] * (self.student.weights[numbers] * mask)[..., None]
        return self.student._of_sums(vectors.sum(1), mask.sum(1))[1]
