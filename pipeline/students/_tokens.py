"""Texts as the numbers that students read: encoded once, cached on disk."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from jaxtyping import Int64

from pipeline.augmentations import Augmented
from pipeline.data import Dataset
from pipeline.errors import UserError
from pipeline.progress import progress
from pipeline.students._cache import Chunk, arrays
from pipeline.views import Views

ROWS = 4096
"""The number of texts encoded at a time."""

Encode = Callable[[list[str]], Sequence[Sequence[int]]]
"""Gives the numbers of each text, at least one."""


def flatten(encoded: Sequence[Sequence[int]]) -> tuple[Int64[np.ndarray, " numbers"], Int64[np.ndarray, " n"]]:
    """The numbers of all texts, concatenated, and how many each text has.

    Raises:
        ValueError: a text has no number.
    """
    lengths = np.array([len(numbers) for numbers in encoded], np.int64)
    if not lengths.all():
        raise ValueError("this student's tokenizer finds no token in it")
    return np.fromiter(chain.from_iterable(encoded), np.int64, int(lengths.sum())), lengths


class Texts:
    """The texts of a dataset as numbers of words or tokens.

    Args:
        data: a prepared dataset of texts.
        key: everything that the numbers depend on besides the texts, JSON-like.
        encode: turns texts into numbers.
        views: views of the rows, encoded and cached like the clean texts.
        fixed: numbers that augmentations never leave out.

    Raises:
        UserError: a text has no number.
    """

    def __init__(
        self,
        data: Dataset,
        key: Mapping[str, Any],
        encode: Encode,
        views: Views | None = None,
        fixed: Sequence[int] = (),
    ):
        self.fixed = fixed
        self.kept = [arrays(data, key, _encoded(data, encode))]
        for number in range(1, views.count + 1) if views else ():
            of_view = {**key, "view": views.record(number, data)} if views else key
            self.kept.append(arrays(data, of_view, _encoded(data, encode, views, number)))

    def rows(
        self, rows: np.ndarray, views: np.ndarray | None = None, augmented: Augmented | None = None
    ) -> tuple[Int64[np.ndarray, " numbers"], Int64[np.ndarray, " n"]]:
        """The numbers of texts, or of the given views of them, augmented, concatenated, and how many each has."""
        found = self._seen(rows, views)
        return found if augmented is None else augmented.texts(*found, self.fixed)

    def _seen(self, rows: np.ndarray, views: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        if views is None:
            return self._rows(rows, 0)
        found = {number: self._rows(rows[views == number], number) for number in np.unique(views).tolist()}
        lengths = np.empty(len(rows), np.int64)
        for number, (_, each) in found.items():
            lengths[views == number] = each
        numbers, view_of = np.empty(lengths.sum(), np.int64), np.repeat(views, lengths)
        for number, (values, _) in found.items():
            numbers[view_of == number] = values
        return numbers, lengths

    def _rows(self, rows: np.ndarray, view: int) -> tuple[np.ndarray, np.ndarray]:
        numbers, offsets = self.kept[view]["numbers"], self.kept[view]["offsets"]
        starts = offsets[rows]
        lengths = offsets[rows + 1] - starts
        first = np.cumsum(lengths) - lengths
        at = np.arange(lengths.sum()) + np.repeat(starts - first, lengths)
        return numbers[at].astype(np.int64), lengths


def _encoded(data: Dataset, encode: Encode, views: Views | None = None, view: int = 0) -> Iterator[Chunk]:
    total = 0
    yield {"numbers": np.empty(0, np.int32), "offsets": np.zeros(1, np.int64)}
    with progress("encode texts", len(data), "texts") as advance:
        for start in range(0, len(data), ROWS):
            rows = np.arange(start, min(start + ROWS, len(data)))
            texts = [views.text(data, int(row), view) for row in rows] if views else map(str, data.content(rows))
            encoded = encode(list(texts))
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
