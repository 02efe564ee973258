r"""Word vectors of a text encoder, without the encoder: a lookup, a weighted mean, and the network of `bag_of_words`.

Each token of the encoder's vocabulary is run through the encoder by itself, once. The mean of its states is its vector,
of which the first principal components are kept, as in Model2Vec (https://github.com/MinishLab/model2vec). Frequent
tokens say little about a text, so a token of frequency p has the weight a / (a + p) (SIF: Arora et al. 2017,
https://openreview.net/forum?id=SyK00v5xx), with p from the training rows; or from the token's rank in the vocabulary,
by Zipf's law, as in Model2Vec.

The vectors know words that no training row has, and nothing about the task. Training can add to them: each token of
the training rows has a learned vector that starts at 0, and is added to the token's own vector (`trained`), or to the
text's (`joined`).
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import log
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from pipeline import students
from pipeline.data import Dataset
from pipeline.errors import UserError
from pipeline.params import Settings as Base
from pipeline.pretrained.text_body import load_body
from pipeline.pretrained.text_tokenizer import TextTokenizer
from pipeline.pretrained.transformers import fetch, read_config
from pipeline.progress import progress
from pipeline.provenance import digest_files, digest_of, versions
from pipeline.students._cache import Chunk, arrays_at
from pipeline.students._tokens import flatten
from pipeline.students._words import Words, kept_at_random, lengths_of, mixer, offsets, pad
from pipeline.verified import default_cache
from pipeline.views import Views

KIND: Literal["text"] = "text"

VERSION = 1
"""Increased whenever this file makes other vectors of the same encoder."""

SIF, ZIPF = 1e-3, 1e-4
"""The a of both weights: as published, and as in Model2Vec."""

BLOCK = 512
"""Tokens that are run through the encoder, and texts that are counted, at a time."""


class Settings(Base):
    """Keys of a student of this family.

    Attributes:
        model: the encoder: a hub name, a local folder, or a folder inside an installed package as
            `package:NAME/FOLDER`.
        revision: branch, tag or commit on the hub.
        dimensions: principal components of the encoder's vectors that are kept, as many as there are at most.
        weights: of tokens: `zipf`, `sif` or `none`.
        words: `frozen`, only the encoder's vectors; `trained`, each token of the training rows has a learned vector
            that is added to its own; `joined`, or one that is added to the text's, as in `bag_of_words`.
        min_count: a token has a learned vector if it is in this many training rows.
        width: of the features.
        dropout: share of its tokens that a text loses in a training step, and of hidden units.
    """

    model: str
    revision: str | None = None
    dimensions: int = Field(default=384, ge=1)
    weights: Literal["zipf", "sif", "none"] = "zipf"
    words: Literal["frozen", "trained", "joined"] = "frozen"
    min_count: int = Field(default=2, ge=1)
    width: int = Field(default=64, ge=1)
    dropout: float = Field(default=0.5, ge=0, lt=1)


def fit(settings: Settings, data: Dataset, rows: np.ndarray) -> dict[str, Any]:
    """The encoder's tokenizer, a digest of its files, and how often tokens are in the training rows.

    Raises:
        UserError: the encoder cannot be loaded, or its tokenizer is Python code.
    """
    folder = fetch(settings.model, settings.revision)
    config = read_config(folder, settings.model)
    tokenizer = TextTokenizer(folder, settings.model)
    if tokenizer.fast is None:
        raise UserError(
            f"{settings.model}: its tokenizer is Python code ({type(tokenizer.library).__name__}), which a student "
            "does not keep; choose a model with a tokenizer.json"
        )
    tokenizer.fast.post_processor = None  # texts have no special tokens here
    text = tokenizer.fast.to_str()
    pieces = Pieces(text, tokenizer.pad)
    size = max(tokenizer.library.get_vocab().values()) + 1
    total: Counter[int] = Counter()
    texts: Counter[int] = Counter()
    for start in range(0, len(rows), BLOCK):
        for numbers in pieces.encode(list(map(str, data.content(rows[start : start + BLOCK])))):
            total.update(numbers)
            texts.update(set(numbers))
    special = {*tokenizer.library.all_special_ids, tokenizer.pad}
    learned = sorted(number for number, count in texts.items() if count >= settings.min_count and number not in special)
    return {
        "tokenizer": text,
        "pad": tokenizer.pad,
        "special": sorted(special),
        "encoder": digest_files(folder, sorted(path.name for path in folder.glob("*.safetensors"))),
        "dimensions": min(settings.dimensions, config.get_text_config().hidden_size),
        "counts": [total[number] for number in range(size)],
        "learned": learned,
        "learned_weights": [log((1 + len(rows)) / (1 + texts[number])) + 1 for number in learned],
    }


def inputs(settings: Settings, fitted: dict[str, Any], data: Dataset, views: Views | None = None) -> Words:
    """All texts as token numbers, once."""
    pieces = preprocessing(settings, fitted)
    return Words(data, pieces.key, pieces.encode, views)


def preprocessing(settings: Settings, fitted: dict[str, Any]) -> "Pieces":
    """Texts as token numbers."""
    return Pieces(fitted["tokenizer"], fitted["pad"])


def build(settings: Settings, fitted: dict[str, Any], classes: int, pretrained: bool = True) -> "Static":
    """A student for C classes, with the encoder's vectors; with `pretrained=False` they are 0."""
    size = len(fitted["counts"])
    vectors = torch.zeros(size, fitted["dimensions"])
    if pretrained:
        vectors = torch.from_numpy(_components(_Encoder(_folder(fitted), fitted["dimensions"], settings, fitted)))
        vectors = vectors * torch.from_numpy(token_weights(settings.weights, fitted["counts"]))[:, None]
    return Static(settings, fitted["learned"], fitted["learned_weights"], vectors, classes)


def token_weights(kind: str, counts: Sequence[int]) -> Float[np.ndarray, " v"]:
    """The weight of each token, float32, from how often it is in the training rows."""
    found = np.asarray(counts, np.float64)
    if kind == "none":
        return np.ones(len(found), np.float32)
    if kind == "zipf":
        share, a = 1 / np.arange(2, len(found) + 2), ZIPF
        share /= share.sum()
    else:
        share, a = found / max(1.0, found.sum()), SIF
    return (a / (a + share)).astype(np.float32)


def _folder(fitted: dict[str, Any]) -> Path:
    """Where the vectors of an encoder's tokens are kept: they are the same for all projects."""
    key = {"version": VERSION, "encoder": fitted["encoder"], "tokenizer": digest_of(fitted["tokenizer"])}
    return default_cache() / "vectors" / digest_of(key | {"libraries": versions("torch", "transformers")})


def _vectors(settings: Settings, fitted: dict[str, Any]) -> Iterator[Chunk]:
    """The mean state of each token, run through the encoder between the special tokens of a text."""
    folder = fetch(settings.model, settings.revision)
    body, _ = load_body(folder, settings.model, read_config(folder, settings.model))
    body.float().eval()
    tokenizer = TextTokenizer(folder, settings.model)
    before, after = _around(tokenizer)
    size = len(fitted["counts"])
    with progress("word vectors", size, "tokens") as advance, torch.inference_mode():
        for start in range(0, size, BLOCK):
            tokens = torch.arange(start, min(start + BLOCK, size)).clamp_max(body.rows - 1)
            ids = torch.tensor([*before, 0, *after]).repeat(len(tokens), 1)
            ids[:, len(before)] = tokens
            states = body(ids, torch.zeros_like(ids), torch.ones_like(ids))
            yield {"vectors": states.mean(1).numpy()}
            advance(len(tokens))


def _around(tokenizer: TextTokenizer) -> tuple[list[int], list[int]]:
    """The special tokens before and after a text."""
    special = set(tokenizer.library.all_special_ids)
    examples = (tokenizer(text)[0].tolist() for text in tokenizer.samples)
    example = next(numbers for numbers in examples if set(numbers) - special)
    ordinary = [place for place, number in enumerate(example) if number not in special]
    return example[: ordinary[0]], example[ordinary[-1] + 1 :]


@dataclass(frozen=True)
class _Encoder:
    """An encoder's tokens, and how many components of their vectors are kept; equal ones have equal vectors."""

    folder: Path
    dimensions: int
    settings: Settings = field(compare=False)
    fitted: dict[str, Any] = field(compare=False)


# A sweep builds a student for every trial.
@lru_cache(maxsize=2)
def _components(encoder: _Encoder) -> Float[np.ndarray, "v d"]:
    """The first principal components of all tokens' vectors, at a root mean square of 1; special tokens have 0."""
    raw = arrays_at(encoder.folder, _vectors(encoder.settings, encoder.fitted))["vectors"]
    ordinary, dimensions = np.setdiff1d(np.arange(len(raw)), encoder.fitted["special"]), encoder.dimensions
    mean = raw[ordinary].mean(0, dtype=np.float64)
    centred = raw[ordinary] - mean.astype(np.float32)
    _, axes = np.linalg.eigh(centred.T.astype(np.float64) @ centred)
    axes = axes[:, ::-1][:, :dimensions]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(dimensions)])
    found = np.zeros((len(raw), dimensions), np.float32)
    found[ordinary] = centred @ axes.astype(np.float32)
    return found / np.sqrt(np.square(found[ordinary], dtype=np.float64).mean()).astype(np.float32)


class Pieces:
    """Texts as tokens of the encoder's vocabulary, without special tokens. A batch is (numbers, offsets).

    Args:
        tokenizer: of the library tokenizers, as JSON.
        pad: stands for a text without a token.
    """

    in_python = False

    def __init__(self, tokenizer: str, pad: int):
        self.pad = pad
        self.library = Tokenizer.from_str(tokenizer)
        self.key = {"tokenizer": digest_of(tokenizer), "pad": pad, "libraries": versions("tokenizers")}

    def encode(self, texts: list[str]) -> list[list[int]]:
        """The token numbers of each text."""
        return [encoding.ids or [self.pad] for encoding in self.library.encode_batch(texts)]

    def __call__(self, rows: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token numbers of all texts, concatenated, and where each text starts."""
        return offsets(*flatten(self.encode(list(rows))))

    def files(self) -> dict[str, str]:
        """tokenizer.json of the `tokenizers` library, which pads as this does."""
        library = Tokenizer.from_str(self.library.to_str())
        library.enable_padding(pad_id=self.pad, pad_token=library.id_to_token(self.pad) or "")
        return {"tokenizer.json": library.to_str()}


class Static(students.Student):
    """See the module.

    Args:
        settings: of the student.
        learned: tokens that have a learned vector, and `weights`, one for each.
        vectors: of all tokens, weighted [v, d].
        classes: outputs.
    """

    def __init__(
        self,
        settings: Settings,
        learned: list[int],
        weights: list[float],
        vectors: Float[Tensor, "v d"],
        classes: int,
    ):
        super().__init__()
        self.width, self.dropout, self.words = settings.width, settings.dropout, settings.words
        # A parameter, because it is part of the model's size, that no optimiser moves.
        self.vectors = nn.Parameter(vectors, requires_grad=False)
        self.project = nn.Linear(vectors.shape[1], self.width, bias=False)
        self.mix = mixer(self.width, self.dropout)
        self.norm = nn.LayerNorm(self.width)
        self.head = nn.Linear(self.width, classes)
        if self.words != "frozen":
            place = torch.zeros(len(vectors), dtype=torch.long)
            place[learned] = torch.arange(1, len(learned) + 1)
            self.place: Tensor
            self.weights: Tensor
            self.register_buffer("place", place)
            self.register_buffer("weights", torch.tensor([0.0, *weights]))
            width = vectors.shape[1] if self.words == "trained" else self.width
            self.learned = nn.EmbeddingBag(len(learned) + 1, width, mode="sum", padding_idx=0)
            nn.init.zeros_(self.learned.weight)

    def forward(self, inputs: tuple[Tensor, Tensor]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n c"]]:
        """Features and logits of n texts; see `Pieces`."""
        numbers, offsets = inputs
        lengths = lengths_of(numbers, offsets)[:, None]
        kept = self.vectors.new_ones(len(numbers))
        if self.training and self.dropout:
            kept = kept * kept_at_random(numbers.shape, self.dropout, numbers.device) / (1 - self.dropout)
        total = functional.embedding_bag(numbers, self.vectors, offsets, mode="sum", per_sample_weights=kept)
        learned = total.new_zeros(())
        if self.words != "frozen":
            place = self.place[numbers]
            learned = self.learned(place, offsets, per_sample_weights=kept * self.weights[place])
        return self._of_sums(total, learned, lengths)

    def _of_sums(
        self, total: Float[Tensor, "n d"], learned: Float[Tensor, "*n_w"], lengths: Int[Tensor, "n 1"]
    ) -> tuple[Float[Tensor, "n w"], Float[Tensor, "n c"]]:
        """Features and logits from the sums of the tokens' vectors, and of their learned ones [n, d], [n, w] or []."""
        if self.words == "trained":
            total = total + learned
        pooled = self.project(total / lengths)
        if self.words == "joined":
            # As in `bag_of_words`: the sum of vectors in random directions grows with the root of their number.
            pooled = pooled + learned / lengths.sqrt()
        features = self.norm(pooled + self.mix(pooled))
        return features, self.head(features)

    def graph(self) -> students.Graph:
        """Of `input_ids` and `attention_mask` [n, l], padded: graph formats have no bags of uneven length."""
        return students.Graph(_PaddedStatic(self), ("input_ids", "attention_mask"), ((0, 1), (0, 1)), pad)


class _PaddedStatic(nn.Module):
    """The outputs from padded numbers."""

    def __init__(self, student: Static):
        super().__init__()
        self.student = student

    def forward(self, *inputs: Int[Tensor, "n l"]) -> Float[Tensor, "n c"]:
        (numbers, mask), student = inputs, self.student
        total = (student.vectors[numbers] * mask[..., None]).sum(1)
        learned = total.new_zeros(())
        if student.words != "frozen":
            place = student.place[numbers] * mask
            learned = (student.learned.weight[place] * student.weights[place][..., None]).sum(1)
        return student._of_sums(total, learned, mask.sum(1, keepdim=True))[1]
