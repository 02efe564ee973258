"""A dataset's texts as the numbers that students read: encoded once, kept on disk."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64

from pipeline.data import Dataset
from pipeline.errors import UserError
from pipeline.progress import progress
from pipeline.students._cache import Chunk, arrays

ROWS = 4096
"""Texts that are encoded at a time."""

Encode = Callable[[list[str]], Sequence[Sequence[int]]]
"""The numbers of each text, at least one."""


class Texts:
    """Texts as numbers of words or tokens.

    Args:
        data: a prepared dataset of texts.
        key: everything that the numbers depend on besides the texts, JSON-like.
        encode: turns texts into numbers.

    Raises:
        UserError: a text has no number.
    """

    def __init__(self, data: Dataset, key: Mapping[str, Any], encode: Encode):
        found = arrays(data, key, _encoded(data, encode))
        self.numbers, self.offsets = found["numbers"], found["offsets"]

    def rows(self, rows: np.ndarray) -> tuple[Int64[np.ndarray, " numbers"], Int64[np.ndarray, " n"]]:
        """The numbers of texts one after another, and how many each has."""
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        first = np.cumsum(lengths) - lengths
        at = np.arange(lengths.sum()) + np.repeat(starts - first, lengths)
        return self.numbers[at].astype(np.int64), lengths


def _encoded(data: Dataset, encode: Encode) -> Iterator[Chunk]:
    total = 0
    yield {"numbers": np.empty(0, np.int32), "offsets": np.zeros(1, np.int64)}
    with progress("encode texts", len(data), "texts") as advance:
        for start in range(0, len(data), ROWS):
            rows = np.arange(start, min(start + ROWS, len(data)))
            encoded = encode([str(text) for text in data.content(rows)])
            lengths = np.array([len(numbers) for numbers in encoded])
            if not lengths.all():
                row = data.ids[start + int(lengths.argmin())]
                raise UserError(
                    f"{data.path}: row {row}: this student's tokenizer finds no token in it; remove the row"
                )
            ends = total + np.cumsum(lengths)
            total = int(ends[-1])
            yield {"numbers": np.concatenate([np.array(numbers, np.int32) for numbers in encoded]), "offsets": ends}
            advance(len(rows))
