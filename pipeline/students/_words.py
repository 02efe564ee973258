"""What families that read words share: a vocabulary, inputs of word numbers, dropout, and a small network."""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pipeline.augmentations import Augmented
from pipeline.data import Dataset
from pipeline.provenance import digest_of
from pipeline.students._contract import CPU, place
from pipeline.students._tokens import ROWS, Encode, Texts, flatten
from pipeline.views import Views

VERSION = 1
"""Increased whenever this file finds other words in the same text."""

WORD = re.compile(r"\w+|[^\w\s]")


def fit_vocabulary(data: Dataset, rows: np.ndarray, size: int, min_count: int, pairs: bool) -> dict[str, Any]:
    """The `vocabulary` of rows and its `weights`: the most frequent words, ties in alphabetical order.

    A word's weight is its inverse document frequency, log((1 + n) / (1 + rows with the word)) + 1, as in scikit-learn.

    Args:
        data: the dataset.
        rows: n of its rows.
        size: at most so many words.
        min_count: a word must occur in so many of the rows.
        pairs: also count pairs of neighbouring words.
    """
    key = (data.digest, data.side, blake2b(np.ascontiguousarray(rows).data, digest_size=16).hexdigest())
    counts = _counts(_Rows(key, data, rows), pairs)
    frequent = sorted((-count, word) for word, count in counts.items() if count >= min_count)
    kept = frequent[:size]
    weights = [math.log((1 + len(rows)) / (1 - negative)) + 1 for negative, _ in kept]
    return {"vocabulary": [word for _, word in kept], "weights": weights}


@dataclass(frozen=True)
class _Rows:
    """Rows of a dataset, as a cache key: equal if they are the same rows of the same content."""

    key: tuple[str, str, str]
    data: Dataset = field(compare=False)
    rows: np.ndarray = field(compare=False)


# A sweep fits the same split for every candidate of every run.
@lru_cache(maxsize=8)
def _counts(rows: _Rows, pairs: bool) -> Counter[str]:
    """In how many of the rows each word occurs."""
    counts: Counter[str] = Counter()
    for start in range(0, len(rows.rows), ROWS):
        for text in rows.data.content(rows.rows[start : start + ROWS]):
            counts.update(set(_words(str(text), pairs)))
    return counts


class Vocabulary:
    """Texts as word numbers: words of the vocabulary have numbers from 1, and unknown words are left out.

    A text without a known word gets the number 0. A batch is (numbers, offsets).
    """

    in_python = True

    def __init__(self, words: list[str], pairs: bool):
        self.number = {word: number for number, word in enumerate(words, start=1)}
        self.pairs = pairs
        self.key = {"version": VERSION, "vocabulary": digest_of(words), "pairs": pairs}

    def encode(self, texts: list[str]) -> list[list[int]]:
        """The word numbers of each text."""
        number = self.number.get
        return [list(filter(None, map(number, _words(text, self.pairs)))) or [0] for text in texts]

    def __call__(self, rows: Sequence[str]) -> tuple[Tensor, Tensor]:
        """A batch of texts; see `offsets`."""
        return offsets(*flatten(self.encode(list(rows))))

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


def offsets(numbers: Int[np.ndarray, " numbers"], lengths: Int[np.ndarray, " n"]) -> tuple[Tensor, Tensor]:
    """Word numbers of all rows, concatenated, and where each row starts."""
    return torch.from_numpy(numbers), torch.from_numpy(lengths.cumsum() - lengths)


class Words:
    """A dataset's texts as word numbers: a batch is (numbers, offsets)."""

    def __init__(self, data: Dataset, key: Mapping[str, Any], encode: Encode, views: Views | None = None):
        self.texts = Texts(data, key, encode, views)

    def batch(
        self,
        rows: np.ndarray,
        views: np.ndarray | None = None,
        augmented: Augmented | None = None,
        device: torch.device = CPU,
    ) -> Any:
        """Word numbers of all rows, concatenated, and where each row starts."""
        return place(offsets(*self.texts.rows(rows, views, augmented)), device)

    def keep_on(self, device: torch.device, budget: int) -> int:
        """Nothing; see `Inputs`."""
        return 0


def lengths_of(numbers: Int[Tensor, " numbers"], offsets: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """How many numbers each row has. The end is filled in on the device: one that is copied there is waited for."""
    return torch.diff(offsets, append=offsets.new_full((1,), len(numbers)))


def pad(batch: tuple[Tensor, Tensor]) -> tuple[Int[Tensor, "n l"], Int[Tensor, "n l"]]:
    """A batch of `Vocabulary`, padded to its longest row."""
    numbers, offsets = batch
    lengths = lengths_of(numbers, offsets)
    mask = torch.arange(int(lengths.max()), device=numbers.device) < lengths[:, None]
    padded = numbers.new_zeros(mask.shape)
    padded[mask] = numbers
    return padded, mask.long()


def mixer(width: int, dropout: float) -> nn.Sequential:
    """The small network that is added to a pooled text [n, width]: one hidden layer of twice the width."""
    return nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), Dropout(dropout), nn.Linear(2 * width, width))


class Dropout(nn.Module):
    """`nn.Dropout` with the same random numbers, in half the time on a CPU."""

    def __init__(self, probability: float):
        super().__init__()
        self.probability = probability

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        if not self.training or not self.probability:
            return x
        return x * kept_at_random(x.shape, self.probability, x.device).to(x.dtype).div_(1 - self.probability)


def kept_at_random(shape: torch.Size, dropout: float, device: torch.device) -> Bool[Tensor, "..."]:
    """True with probability 1 - dropout. In double precision, as `nn.Dropout` draws on a CPU."""
    return torch.rand(shape, dtype=torch.float64, device=device) < 1 - dropout


def _words(text: str, pairs: bool) -> list[str]:
    words: list[str] = WORD.findall(text.lower())
    return [*words, *(f"{first} {second}" for first, second in pairwise(words))] if pairs else words
