"""Texts as the numbers that students read: encoded once, cached on disk."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Int64
from tokenizers import Tokenizer
from torch import Tensor

from pipeline.augmentations import Augmented
from pipeline.data import Dataset
from pipeline.errors import UserError
from pipeline.progress import progress
from pipeline.provenance import digest_of, versions
from pipeline.students._cache import Chunk, arrays
from pipeline.students._contract import CPU, place
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
        views: views of the rows. The first `count` are encoded and cached like the clean texts, others when needed.
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
        self.data, self.encode, self.views, self.fixed = data, encode, views, fixed
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
        kept = np.minimum(views, len(self.kept))  # all others together
        found = {
            number: self._rows(rows[kept == number], number)
            if number < len(self.kept)
            else self._encoded(rows[kept == number], views[kept == number])
            for number in np.unique(kept).tolist()
        }
        lengths = np.empty(len(rows), np.int64)
        for number, (_, each) in found.items():
            lengths[kept == number] = each
        numbers, view_of = np.empty(lengths.sum(), np.int64), np.repeat(kept, lengths)
        for number, (values, _) in found.items():
            numbers[view_of == number] = values
        return numbers, lengths

    def _rows(self, rows: np.ndarray, view: int) -> tuple[np.ndarray, np.ndarray]:
        numbers, offsets = self.kept[view]["numbers"], self.kept[view]["offsets"]
        stops = offsets.take(rows + 1)
        lengths = stops - offsets.take(rows)
        at = (stops - lengths.cumsum()).repeat(lengths)
        at += np.arange(len(at))
        return numbers.take(at).astype(np.int64), lengths

    def _encoded(self, rows: np.ndarray, views: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of views that are not kept."""
        assert self.views is not None
        pairs = zip(rows.tolist(), views.tolist(), strict=True)
        try:
            return flatten(self.encode([self.views.text(self.data, row, view) for row, view in pairs]))
        except ValueError as error:
            raise UserError(f"{self.data.path}: a view of a row: {error}; take milder views") from None


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


class Tokenization:
    """Texts as token numbers, special tokens included. A batch is (numbers, mask), padded to its longest row.

    Args:
        tokenizer: a tokenizer of the library tokenizers, as JSON, including the length and side of truncation.
        pad: the token that fills a batch; masked.
    """

    in_python = False

    def __init__(self, tokenizer: str, pad: int):
        self.pad = pad
        self.library = Tokenizer.from_str(tokenizer)
        self.key = {"tokenizer": digest_of(tokenizer), "libraries": versions("tokenizers")}

    @property
    def special(self) -> list[int]:
        """The numbers of special tokens, such as those at the ends of a text."""
        return [number for number, token in self.library.get_added_tokens_decoder().items() if token.special]

    def encode(self, texts: list[str]) -> list[list[int]]:
        """The token numbers of each text."""
        return [encoding.ids for encoding in self.library.encode_batch(texts)]

    def __call__(self, rows: Sequence[str]) -> tuple[Tensor, Tensor]:
        """A batch of texts; see `pad_to_longest`."""
        return self.pad_to_longest(*flatten(self.encode(list(rows))))

    def files(self) -> dict[str, str]:
        """tokenizer.json of the `tokenizers` library, which cuts and pads as this does."""
        library = Tokenizer.from_str(self.library.to_str())
        library.enable_padding(pad_id=self.pad, pad_token=library.id_to_token(self.pad) or "")
        return {"tokenizer.json": library.to_str()}

    def pad_to_longest(
        self, flat: Int[np.ndarray, " numbers"], lengths: Int[np.ndarray, " n"]
    ) -> tuple[Tensor, Tensor]:
        """Token numbers [n, l] and which of them are not padding [n, l]."""
        mask = np.arange(lengths.max()) < lengths[:, None]
        numbers = np.full(mask.shape, self.pad, np.int64)
        numbers[mask] = flat
        return torch.from_numpy(numbers), torch.from_numpy(mask)


class Tokens:
    """A dataset's texts as token numbers; see `Tokenization`."""

    def __init__(self, data: Dataset, tokenization: Tokenization, views: Views | None = None):
        self.tokenization = tokenization
        self.texts = Texts(data, tokenization.key, tokenization.encode, views, tokenization.special)

    def batch(
        self,
        rows: np.ndarray,
        views: np.ndarray | None = None,
        augmented: Augmented | None = None,
        device: torch.device = CPU,
    ) -> Any:
        """Token numbers [n, l] and which of them are not padding [n, l]."""
        return place(self.tokenization.pad_to_longest(*self.texts.rows(rows, views, augmented)), device)

    def keep_on(self, device: torch.device, budget: int) -> int:
        """Nothing; see `Inputs`."""
        return 0
