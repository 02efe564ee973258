"""Any text encoder of transformers as a student: masked mean over its tokens, or the first token, and a linear head."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer

from pipeline import students
from pipeline.data import Dataset
from pipeline.errors import UserError
from pipeline.params import Settings as Base
from pipeline.pretrained import locate
from pipeline.provenance import digest_of, versions
from pipeline.students._tokens import Texts, flatten
from pipeline.views import Views

KIND: Literal["text"] = "text"


class Settings(Base):
    """Keys of a student of this family.

    Attributes:
        model: a hub name, a local folder, or a folder inside an installed package as `package:NAME/FOLDER`.
        pretrained: start from its weights; false takes its architecture and tokenizer only.
        pooling: `mean` over the tokens that are not padding, or `cls`, the first one.
        max_length: in tokens; longer texts are cut.
        dropout: before the head.
    """

    model: str
    pretrained: bool = True
    pooling: Literal["mean", "cls"] = "mean"
    max_length: int = Field(default=128, ge=2)
    dropout: float = Field(default=0.0, ge=0, lt=1)


def fit(settings: Settings, data: Dataset, rows: np.ndarray) -> dict[str, Any]:
    """The model's configuration and tokenizer, so that a checkpoint needs nothing else."""
    path = str(locate(settings.model))
    try:
        config = AutoConfig.from_pretrained(path)
        tokenizer = AutoTokenizer.from_pretrained(path, use_fast=True)
    except Exception as error:  # damaged files fail in many ways, tokenizers with a bare Exception
        raise UserError(f"{settings.model}: cannot be loaded: {' '.join(str(error).split())[:200]}") from None
    return {
        "config": config.to_dict(),
        "tokenizer": tokenizer.backend_tokenizer.to_str(),
        "pad": tokenizer.pad_token_id,
    }


def inputs(settings: Settings, fitted: dict[str, Any], data: Dataset, views: Views | None = None) -> "Tokens":
    """All texts as token numbers, once."""
    return Tokens(data, preprocessing(settings, fitted), views)


def preprocessing(settings: Settings, fitted: dict[str, Any]) -> "Tokenization":
    """Texts as token numbers."""
    return Tokenization(fitted["tokenizer"], settings.max_length, fitted["pad"] or 0)


def build(settings: Settings, fitted: dict[str, Any], classes: int, pretrained: bool = True) -> "EncoderStudent":
    """A student with a new head for C classes. Raises `UserError` if its weights cannot be loaded."""
    if pretrained and settings.pretrained:
        try:
            model, found = AutoModel.from_pretrained(
                str(locate(settings.model)), use_safetensors=True, output_loading_info=True
            )
        except Exception as error:  # damaged files fail in many ways, tokenizers with a bare Exception
            line = " ".join(str(error).split())[:200]
            raise UserError(f"{settings.model}: no weights ({line}); give a folder or `pretrained: false`") from None
        # The pooler is a layer on top of the states, which this student does not read; many checkpoints lack it.
        if missing := sorted(name for name in found["missing_keys"] if not name.startswith("pooler.")):
            raise UserError(
                f"{settings.model}: its weights lack {len(missing)} of the model's {len(model.state_dict())} tensors, "
                f"such as {missing[0]!r}; save them under the names of transformers, or set `pretrained: false`"
            )
    else:
        config = dict(fitted["config"])
        model = AutoModel.from_config(AutoConfig.for_model(config.pop("model_type"), **config))
    return EncoderStudent(model, settings.pooling, settings.dropout, classes)


class Tokenization:
    """Texts as token numbers, special tokens included. A batch is (numbers, mask), padded to its longest row."""

    def __init__(self, tokenizer: str, max_length: int, pad: int):
        self.pad = pad
        self.library = Tokenizer.from_str(tokenizer)
        self.library.no_padding()
        self.library.enable_truncation(max_length)
        self.key = {"tokenizer": digest_of(tokenizer), "max_length": max_length, "libraries": versions("tokenizers")}

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
    """A dataset's texts as `Tokenization` has them."""

    def __init__(self, data: Dataset, tokenization: Tokenization, views: Views | None = None):
        self.tokenization = tokenization
        self.texts = Texts(data, tokenization.key, tokenization.encode, views)

    def batch(self, rows: np.ndarray, views: np.ndarray | None = None) -> tuple[Tensor, Tensor]:
        """Token numbers [n, l] and which of them are not padding [n, l]."""
        return self.tokenization.pad_to_longest(*self.texts.rows(rows, views))


class EncoderStudent(students.Student):
    """See the module."""

    def __init__(self, model: Any, pooling: str, dropout: float, classes: int):
        super().__init__()
        self.model = model
        self.pooling = pooling
        self.width: int = model.config.hidden_size
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.width, classes)

    def forward(self, inputs: tuple[Int[Tensor, "n l"], Tensor]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n c"]]:
        """Features and logits of n texts; see `Tokenization`."""
        numbers, mask = inputs
        states = self.model(input_ids=numbers, attention_mask=mask.long()).last_hidden_state
        if self.pooling == "mean":
            features = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        else:
            features = states[:, 0]
        features = self.dropout(features)
        return features, self.head(features)

    def graph(self) -> students.Graph:
        """Of `input_ids` and `attention_mask` [n, l]."""
        return replace(
            super().graph(),
            names=("input_ids", "attention_mask"),
            axes=((0, 1), (0, 1)),
            arrange=lambda batch: (batch[0], batch[1].long()),
        )
