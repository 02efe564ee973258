"""A text model's own tokenizer, checked and cut to a length."""

from pathlib import Path
from typing import Literal

import numpy as np
import transformers
from tokenizers import normalizers

from pipeline.errors import UserError, count
from pipeline.pretrained.transformers import one_line, quiet
from pipeline.provenance import digest_files

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)
"""Files that a tokenizer may consist of, in addition to those that its class names."""

ENGLISH = (
    "A cat",
    "The quick brown fox jumps over the lazy dog.",
    "It was not until the rain had stopped, long after midnight, that 27 of them came home.",
)
"""Texts to test a tokenizer with, in addition to words of its vocabulary."""

Side = Literal["left", "right"]
"""Where a text that is too long loses tokens: `left` keeps its end."""


class TextTokenizer:
    """A model's own tokenizer: turns a text into token numbers, as `tokenizer(text, truncation=True)` does.

    Args:
        folder: the model's folder.
        name: the model's name, for messages.
        code: run the model's own Python code.

    Attributes:
        library: the tokenizer of transformers.
        length: the maximum number of tokens of a text, special tokens included; None until `cut` sets it.
        special: the number of special tokens in every text.
        pad: the token that fills a batch; it is masked, so any token of the model will do.

    Raises:
        UserError: it cannot be loaded, or knows no words: transformers makes an empty tokenizer for a model that was
            saved without its own.
    """

    length: int | None = None
    pad: int

    def __init__(self, folder: Path, name: str, code: bool = False):
        self.name = name
        try:
            with quiet():
                self.library = transformers.AutoTokenizer.from_pretrained(
                    folder, trust_remote_code=code, local_files_only=True
                )
                self._plain(ENGLISH[0])
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # damaged files fail in many ways, and a panic of tokenizers is no `Exception`
            raise UserError(f"{name}: its tokenizer cannot be loaded: {one_line(error)}") from None
        self.fast = self.library.backend_tokenizer if getattr(self.library, "is_fast", False) else None
        if self.fast is not None:
            self.fast.no_padding()
            self.fast.no_truncation()
        self.special = int(self.library.num_special_tokens_to_add())
        self.pad = self.library.pad_token_id or 0
        self.pad_type = int(getattr(self.library, "pad_token_type_id", 0) or 0)
        self.samples = self._samples()

    def check_numbers(self, rows: int) -> None:
        """Refuse a tokenizer with words that the model has no embedding for; the padding token is exempt.

        Args:
            rows: the number of rows of the model's embedding.
        """
        beyond = {word for word, number in self.library.get_vocab().items() if number >= rows}
        if beyond := beyond - {self.library.pad_token}:
            raise UserError(
                f"{self.name}: its tokenizer has {min(beyond)!r} and {count(len(beyond) - 1, 'other word')} beyond the "
                f"{rows} rows of the model's embedding; save the tokenizer that belongs to the model"
            )

    def prompt_length(self, prompt: str) -> int:
        """The number of tokens of a prompt in front of a text, including special tokens before it."""
        numbers = self(prompt)[0].tolist()
        return len(numbers) - (numbers[-1] in self.library.all_special_ids)

    @property
    def limit(self) -> int | None:
        """The maximum length in the tokenizer's files."""
        # 1e30 stands for no limit.
        return int(self.library.model_max_length) if self.library.model_max_length < 1e9 else None

    @property
    def types(self) -> bool:
        """Whether it gives token types."""
        return "token_type_ids" in self.library.model_input_names

    def lower(self) -> None:
        """Lower-case texts first, if the tokenizer does not do so already."""
        if self.fast is None:
            raise UserError(f"{self.name}: `do_lower_case` needs a fast tokenizer (tokenizer.json)")
        own = self.fast.normalizer
        if own is None or "Lowercase" not in str(own):
            self.fast.normalizer = normalizers.Sequence([normalizers.Lowercase(), *([own] if own else [])])

    def fits(self, text: str) -> bool:
        """Whether nothing of a text is cut off at `length`."""
        assert self.length is not None
        return len(self.library(text, truncation=False, verbose=False)["input_ids"]) <= self.length

    def cut(self, length: int, side: Side | None = None) -> None:
        """From now on cut texts to `length` tokens, on this side or the one given by the tokenizer's files.

        Raises:
            UserError: that leaves no token of the text.
        """
        if length <= self.special:
            raise UserError(
                f"{self.name}: max_length: {length} leaves nothing of a text beside its "
                f"{count(self.special, 'special token')}; set more than {self.special}"
            )
        self.length = length
        self.library.truncation_side = side or self.library.truncation_side
        if self.fast is not None:
            self.fast.enable_truncation(length, direction=self.library.truncation_side)

    def __call__(self, text: str) -> np.ndarray:
        """Token numbers and types [2, l], int64, special tokens included.

        Raises:
            ValueError: the text has no token.
        """
        if self.fast is not None:
            encoded = self.fast.encode(text)
            ids, types = encoded.ids, encoded.type_ids
        else:
            found = self.library(text, truncation=self.length is not None, max_length=self.length, verbose=False)
            ids, types = found["input_ids"], found.get("token_type_ids") or [0] * len(found["input_ids"])
        if not ids:
            raise ValueError("the text has no token")
        return np.array([ids, types], np.int64)

    def digest(self, folder: Path) -> str:
        """A digest of the files in the model's folder that the tokenizer consists of."""
        names = {*TOKENIZER_FILES, *self.library.vocab_files_names.values()}
        return digest_files(folder, sorted(name for name in names if (folder / name).is_file()))

    def _samples(self) -> list[str]:
        """Texts that it should tell apart: words of its vocabulary, and plain English.

        Raises:
            UserError: it does not tell them apart.
        """
        special = set(self.library.all_special_ids)
        words = sorted(number for number in self.library.get_vocab().values() if number not in special)
        chosen = [words[at] for at in np.unique(np.linspace(0, len(words) - 1, 24).astype(int))] if words else []
        own = [str(self.library.decode([number])).strip() for number in chosen]
        own = [text for text in own if text and "\ufffd" not in text]
        mixed = [" ".join(own[first::3]) for first in range(3)] if len(own) >= 6 else []
        samples = [*dict.fromkeys([*own[:2], *mixed, *ENGLISH])]
        # Only texts with more than special tokens, such as the one for unknown words.
        told = {tuple(ids) for ids in map(self._plain, samples) if any(number not in special for number in ids)}
        if len(words) < 2 or len(told) < 2:
            raise UserError(
                f"{self.name}: its tokenizer knows {count(len(words), 'word')} besides special tokens and does not "
                "tell texts apart; save the model's own tokenizer next to its weights"
            )
        return samples

    def _plain(self, text: str) -> list[int]:
        return list(self.library(text, truncation=False, verbose=False)["input_ids"])
