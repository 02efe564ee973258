"""Any text model of transformers as a student: the mean over its tokens, or one token, and a linear head."""

import re
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from transformers import AutoConfig

from pipeline import students
from pipeline.data import Dataset
from pipeline.errors import UserError, count
from pipeline.params import Settings as Base
from pipeline.pretrained.text_body import TextBody, load_body, untrained_body
from pipeline.pretrained.text_tokenizer import Side, TextTokenizer
from pipeline.pretrained.transformers import fetch, one_line, read_config
from pipeline.provenance import digest_files
from pipeline.students._tokens import Tokenization, Tokens
from pipeline.views import Views

KIND: Literal["text"] = "text"

LENGTH = 128
"""The default of `max_length`, in tokens."""

LAYER = re.compile(r"\.(\d+)\.")
"""The number of a layer in a parameter's name, such as `encoder.layer.11.output.dense.weight`."""


class Settings(Base):
    """Keys of a student of this family.

    Attributes:
        model: a hub name, a local folder, or a folder inside an installed package as `package:NAME/FOLDER`.
        revision: branch, tag or commit on the hub.
        pretrained: start from its weights; false takes its architecture and tokenizer only.
        layers: keep only this many layers, the first ones; all if None.
        pooling: `mean` over the tokens that are not padding, `cls`, the first token, or `last`, the last one.
        max_length: in tokens; longer texts are cut. If None, 128, or the model's number of positions if it is smaller.
        truncation: where they are cut; `left` keeps the end. What the tokenizer's files say if None.
        dropout: dropout before the head.
    """

    model: str
    revision: str | None = None
    pretrained: bool = True
    layers: int | None = Field(default=None, ge=1)
    pooling: Literal["mean", "cls", "last"] = "mean"
    max_length: int | None = Field(default=None, ge=1)
    truncation: Side | None = None
    dropout: float = Field(default=0.0, ge=0, lt=1)


def fit(settings: Settings, data: Dataset, rows: np.ndarray) -> dict[str, Any]:
    """The model's configuration and tokenizer, so that a checkpoint needs nothing else, and a digest of its weights.

    Raises:
        UserError: the model or its tokenizer cannot be loaded, it has too few layers or positions, its features depend
            on padding, or its first token does not see the text.
    """
    folder = fetch(settings.model, settings.revision)
    config = _config(settings, read_config(folder, settings.model))
    tokenizer = TextTokenizer(folder, settings.model)
    if tokenizer.fast is None:
        raise UserError(
            f"{settings.model}: its tokenizer is Python code ({type(tokenizer.library).__name__}), which a student "
            "cannot keep; choose a model with a tokenizer.json"
        )
    with torch.random.fork_rng(devices=[]):  # its random weights must not change later random numbers
        body = untrained_body(config)
    width = body.width(settings.model)
    tokenizer.check_numbers(body.rows)
    wanted = settings.max_length or LENGTH
    length = body.greatest(tokenizer(tokenizer.samples[-1]), wanted)
    if settings.max_length and length < wanted:
        raise UserError(
            f"{settings.model}: max_length: {wanted} is more than the model's {count(length, 'position')}; set that "
            "or less"
        )
    tokenizer.cut(length, settings.truncation)
    short, long = (tokenizer(text) for text in tokenizer.samples[-2:])
    if settings.pooling == "cls" and body.first_sees_nothing(short, long):
        raise UserError(
            f"{settings.model}: `pooling: cls` takes the first token, which in this model (a decoder) does not see the "
            "text; set `pooling: last` or `pooling: mean`"
        )
    if body.depends_on_padding(short, long):
        raise UserError(
            f"{settings.model}: a text's features depend on the length of its batch, so this architecture "
            f"({type(body.model).__name__}) cannot be a student; choose another model"
        )
    pad = tokenizer.pad if tokenizer.pad < body.rows else 0
    weights = [path.name for path in folder.iterdir() if path.suffix in (".safetensors", ".bin")]
    return {
        "config": config.to_dict(),
        "tokenizer": tokenizer.fast.to_str(),
        "max_length": length,
        "pad": pad,
        "width": width,
        "weights": digest_files(folder, weights) if settings.pretrained else "",
    }


def inputs(settings: Settings, fitted: dict[str, Any], data: Dataset, views: Views | None = None) -> Tokens:
    """All texts as token numbers, once."""
    return Tokens(data, preprocessing(settings, fitted), views)


def preprocessing(settings: Settings, fitted: dict[str, Any]) -> Tokenization:
    """Texts as token numbers."""
    return Tokenization(fitted["tokenizer"], fitted["pad"])


def build(settings: Settings, fitted: dict[str, Any], classes: int, pretrained: bool = True) -> "TextStudent":
    """A student with a new head for C classes. Raises `UserError` if its weights cannot be loaded."""
    values = dict(fitted["config"])
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    if pretrained and settings.pretrained:
        try:
            body, _ = load_body(fetch(settings.model, settings.revision), settings.model, config)
        except UserError as error:
            raise UserError(f"{error}; or set `pretrained: false`") from None
        body.float()
    else:
        body = untrained_body(config)
    return TextStudent(body, fitted["width"], settings.pooling, settings.dropout, classes)


class TextStudent(students.Student):
    """See the module."""

    def __init__(self, body: TextBody, width: int, pooling: str, dropout: float, classes: int):
        super().__init__()
        self.body = body
        self.body.takes_types = False
        self.pooling = pooling
        self.width = width
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, classes)

    def depths(self) -> dict[str, int]:
        """Embeddings, then a layer of the encoder each; what follows belongs to its last one."""
        body = [name for name, _ in self.body.named_parameters()]
        numbers = {name: int(found[1]) for name in body if (found := LAYER.search(name))}
        first = next((at for at, name in enumerate(body) if name in numbers), len(body))
        last = max(numbers.values(), default=-1)
        depths = {name: 1 + numbers.get(name, -1 if at < first else last) for at, name in enumerate(body)}
        return {f"body.{name}": depth for name, depth in depths.items()} | {
            f"head.{name}": 2 + last for name, _ in self.head.named_parameters()
        }

    def forward(self, inputs: tuple[Int[Tensor, "n l"], Tensor]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n c"]]:
        """Features and logits of n texts; see `Tokenization`."""
        numbers, mask = inputs
        states = self.body(numbers, torch.zeros_like(numbers), mask.long())
        if self.pooling == "mean":
            features = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        elif self.pooling == "cls":
            features = states[:, 0]
        else:
            features = states[torch.arange(len(states), device=states.device), mask.sum(1) - 1]
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


def _config(settings: Settings, config: Any) -> Any:
    """The configuration with the number of layers that are kept.

    Raises:
        UserError: the model has fewer layers, or the number cannot be changed.
    """
    if settings.layers is None:
        return config
    there = getattr(config, "num_hidden_layers", None)
    if there is None or settings.layers > there:
        raise UserError(f"{settings.model}: layers: {settings.layers}, but it has only {there}; set fewer")
    values = config.to_dict()
    values[config.attribute_map.get("num_hidden_layers", "num_hidden_layers")] = settings.layers
    if values.get("layer_types"):
        values["layer_types"] = values["layer_types"][: settings.layers]
    try:
        return AutoConfig.for_model(values.pop("model_type"), **values)
    except Exception as error:  # architectures whose layers differ from one another check it in their own ways
        layers = count(settings.layers, "layer")
        raise UserError(f"{settings.model}: cannot be cut to {layers}: {one_line(error)}") from None
