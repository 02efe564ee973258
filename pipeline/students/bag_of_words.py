"""A text model for a CPU: the weighted sum of word vectors, a small residual network, a LayerNorm and a linear head.

The vocabulary comes from the training rows, labelled or not. A word's weight is its inverse document frequency,
log((1 + n) / (1 + texts with the word)) + 1, as usual for tf-idf. The LayerNorm keeps the features' spread away from
zero, where a kernel penalty has an enormous gradient and a small student collapses to one class.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn

from pipeline import students
from pipeline.augmentations import Augmented
from pipeline.data import Dataset
from pipeline.params import Settings as Base
from pipeline.provenance import digest_of
from pipeline.students._tokens import Texts, flatten
from pipeline.views import Views

KIND: Literal["text"] = "text"

VERSION = 1
"""Increased whenever this file finds other words in the same text."""

WORD = re.compile(r"\w+|[^\w\s]")


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
    counts = _counts(_Rows((data.digest, data.side, rows.tobytes()), data, rows), settings.pairs)
    frequent = sorted((-count, word) for word, count in counts.items() if count >= settings.min_count)
    kept = frequent[: settings.vocabulary]
    weights = [math.log((1 + len(rows)) / (1 - negative)) + 1 for negative, _ in kept]
    return {"vocabulary": [word for _, word in kept], "weights": weights}


@dataclass(frozen=True)
class _Rows:
    """Rows of a dataset, as a cache key: equal if they are the same rows of the same content."""

    key: tuple[str, str, bytes]
    data: Dataset = field(compare=False)
    rows: np.ndarray = field(compare=False)


# A sweep fits the same split for every candidate of every run.
@lru_cache(maxsize=8)
def _counts(rows: _Rows, pairs: bool) -> Counter[str]:
    """In how many of the rows each word occurs."""
    counts: Counter[str] = Counter()
    for text in rows.data.content(rows.rows):
        counts.update(set(_words(str(text), pairs)))
    return counts


def inputs(settings: Settings, fitted: dict[str, Any], data: Dataset, views: Views | None = None) -> "Words":
    """All texts as word numbers, once."""
    return Words(data, preprocessing(settings, fitted), views)


def preprocessing(settings: Settings, fitted: dict[str, Any]) -> "Vocabulary":
    """Texts as word numbers."""
    return Vocabulary(fitted["vocabulary"], settings.pairs)


def build(settings: Settings, fitted: dict[str, Any], classes: int, pretrained: bool = True) -> "BagOfWords":
    """A student for C classes; from scratch, so `pretrained` changes nothing."""
    return BagOfWords(fitted["weights"], settings.width, classes, settings.dropout)


class Vocabulary:
    """Texts as word numbers: words of the vocabulary have numbers from 1, and unknown words are left out.

    A text without a known word gets the number 0. A batch is (numbers, offsets).
    """

    def __init__(self, words: list[str], pairs: bool):
        self.number = {word: number for number, word in enumerate(words, start=1)}
        self.pairs = pairs
        self.key = {"version": VERSION, "vocabulary": digest_of(words), "pairs": pairs}

    def encode(self, texts: list[str]) -> list[list[int]]:
        """The word numbers of each text."""
        number = self.number
        return [[n for w in _words(text, self.pairs) if (n := number.get(w))] or [0] for text in texts]

    def __call__(self, rows: Sequence[str]) -> tuple[Tensor, Tensor]:
        """A batch of texts; see `offsets`."""
        return self.offsets(*flatten(self.encode(list(rows))))

    def files(self) -> dict[str, str]:
        """vocabulary.json: the words, in the order of their numbers from 1, and how they are found in a text."""
        found = {
            "lower_case": True,
            "pattern": WORD.pattern,
            "pairs": self.pairs,
            "unknown_words": "left out; 0 stands for a text without a known one",
            "words": list(self.number),
        }
        return {"vocabulary.json": json.dumps(found, indent=1, ensure_ascii=False) + "\n"}

    @staticmethod
    def offsets(numbers: Int[np.ndarray, " numbers"], lengths: Int[np.ndarray, " n"]) -> tuple[Tensor, Tensor]:
        """Word numbers of all rows, concatenated, and where each row starts."""
        return torch.from_numpy(numbers), torch.from_numpy(np.cumsum(lengths) - lengths)


class Words:
    """A dataset's texts as word numbers; see `Vocabulary`."""

    def __init__(self, data: Dataset, vocabulary: Vocabulary, views: Views | None = None):
        self.vocabulary = vocabulary
        self.texts = Texts(data, vocabulary.key, vocabulary.encode, views)

    def batch(
        self,
        rows: np.ndarray,
        views: np.ndarray | None = None,
        augmented: Augmented | None = None,
        device: torch.device = students.CPU,
    ) -> Any:
        """Word numbers of all rows, concatenated, and where each row starts."""
        return students.place(self.vocabulary.offsets(*self.texts.rows(rows, views, augmented)), device)

    def keep_on(self, device: torch.device, budget: int) -> int:
        """Nothing; see `Inputs`."""
        return 0


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
        hidden = 2 * width
        self.mix = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), Dropout(dropout), nn.Linear(hidden, width))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, inputs: tuple[Tensor, Tensor]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n c"]]:
        """Features and logits of n texts; see `Vocabulary`."""
        numbers, offsets = inputs
        lengths = torch.diff(offsets, append=offsets.new_tensor([len(numbers)]))
        weights = self.weights[numbers]
        if self.training and self.dropout:
            kept = _kept(numbers.shape, self.dropout, numbers.device)
            weights = weights * kept / (1 - self.dropout)
            if numbers.device.type == "cpu":
                # Leave dropped words out: the backward pass takes time for each word. On other devices they get weight
                # 0 instead, because counting the remaining words would wait for the device.
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
        return students.Graph(_Padded(self), ("input_ids", "attention_mask"), ((0, 1), (0, 1)), _pad)


class _Padded(nn.Module):
    """The logits of a bag of words from padded numbers."""

    def __init__(self, student: BagOfWords):
        super().__init__()
        self.student = student

    def forward(self, *inputs: Int[Tensor, "n l"]) -> Float[Tensor, "n c"]:
        numbers, mask = inputs
        vectors = self.student.words.weight[numbers] * (self.student.weights[numbers] * mask)[..., None]
        return self.student._of_sums(vectors.sum(1), mask.sum(1))[1]


def _pad(batch: tuple[Tensor, Tensor]) -> tuple[Int[Tensor, "n l"], Int[Tensor, "n l"]]:
    """A batch of `Vocabulary`, padded to its longest row."""
    numbers, offsets = batch
    lengths = torch.diff(offsets, append=offsets.new_tensor([len(numbers)]))
    mask = torch.arange(int(lengths.max()), device=numbers.device) < lengths[:, None]
    padded = numbers.new_zeros(mask.shape)
    padded[mask] = numbers
    return padded, mask.long()


class Dropout(nn.Module):
    """`nn.Dropout` with the same random numbers, in half the time on a CPU."""

    def __init__(self, probability: float):
        super().__init__()
        self.probability = probability

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        if not self.training or not self.probability:
            return x
        return x * _kept(x.shape, self.probability, x.device).to(x.dtype).div_(1 - self.probability)


def _kept(shape: torch.Size, dropout: float, device: torch.device) -> Bool[Tensor, "..."]:
    """True with probability 1 - dropout. In double precision, as `nn.Dropout` draws on a CPU."""
    return torch.rand(shape, dtype=torch.float64, device=device) < 1 - dropout


def _words(text: str, pairs: bool) -> Iterator[str]:
    words = WORD.findall(text.lower())
    yield from words
    if pairs:
        yield from (f"{first} {second}" for first, second in pairwise(words))
