"""A model of your own: a function `package.module:name` that makes a module of torch.

It is called as `factory(classes=C, inputs=N, **options)`, where C is the number of outputs and N that of channels or of
tokens. The module has an attribute `width`, and turns a batch into features [n, width] and outputs [n, C]. A batch is
images, float32 [n, 3, size, size], or for texts a pair of token numbers [n, l] and a mask [n, l], true but for padding.

The name of a trial holds a digest of the file that has the function, so an edit of it trains again. Other files that it
imports are not followed, and DVC sees neither: run `dvc repro -f` after a change.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from pipeline import students
from pipeline.data import Dataset
from pipeline.errors import UserError, count
from pipeline.params import Settings as Base
from pipeline.plugins import function, in_user_code
from pipeline.pretrained.text_tokenizer import TextTokenizer
from pipeline.pretrained.transformers import fetch
from pipeline.provenance import digest_files
from pipeline.students._images import Images, ImageTransform, statistics
from pipeline.students._tokens import Tokenization, Tokens
from pipeline.views import Views

KIND = None

RUNS_CODE = True

CHANNELS = 3


class Settings(Base):
    """Keys of a student of this family.

    Attributes:
        factory: `package.module:name`; the module may lie in the project's folder.
        kind: what its rows are.
        options: passed to the function, by name.
        size: images are resized to size x size pixels.
        tokenizer: needed for texts, the model whose tokenizer splits them: a hub name, a local folder, or a folder
            inside an installed package as `package:NAME/FOLDER`.
        max_length: in tokens; longer texts are cut.
    """

    factory: str
    kind: Literal["text", "image"]
    options: dict[str, Any] = Field(default_factory=dict)
    size: int = Field(default=64, ge=8)
    tokenizer: str | None = None
    max_length: int = Field(default=128, ge=1)


def fit(settings: Settings, data: Dataset, rows: np.ndarray) -> dict[str, Any]:
    """What prepares its inputs, and a digest of the function's file. The model is tried on one row.

    Raises:
        UserError: there is no such function, what it makes is no student, or a text has no tokenizer.
    """
    fitted: dict[str, Any]
    if settings.kind == "image":
        fitted = {"inputs": CHANNELS} | statistics(data, rows, settings.size, CHANNELS)
    elif settings.tokenizer is None:
        raise UserError(f"{settings.factory}: `kind: text` needs a `tokenizer`; name a model that has one")
    else:
        tokenizer = TextTokenizer(fetch(settings.tokenizer), settings.tokenizer)
        if tokenizer.fast is None:
            raise UserError(f"{settings.tokenizer}: its tokenizer is Python code; choose one with a tokenizer.json")
        tokenizer.cut(settings.max_length)
        size = max(tokenizer.library.get_vocab().values()) + 1
        fitted = {"inputs": size, "tokenizer": tokenizer.fast.to_str(), "pad": tokenizer.pad}
    row = data.content(rows[:1]) if settings.kind == "text" else [data.image(int(rows[0]))]
    with torch.random.fork_rng(devices=[]):  # random weights here change none of those of a training
        student = build(settings, fitted, len(data.task.outputs)).eval()
        batch = preprocessing(settings, fitted)(row)
        try:
            student(batch)
        except UserError:
            raise
        except Exception as error:  # it may be any code
            raise _fault(settings, error) from error
    path = sys.modules[settings.factory.partition(":")[0]].__file__
    return fitted | {"code": digest_files(Path(path)) if path else ""}


def inputs(settings: Settings, fitted: dict[str, Any], data: Dataset, views: Views | None = None) -> students.Inputs:
    """The dataset as tensors."""
    preprocess = preprocessing(settings, fitted)
    return Images(data, preprocess, views) if settings.kind == "image" else Tokens(data, preprocess, views)


def preprocessing(settings: Settings, fitted: dict[str, Any]) -> Any:
    """Rows as tensors: an `ImageTransform` or a `Tokenization`."""
    if settings.kind == "image":
        return ImageTransform(settings.size, CHANNELS, fitted["mean"], fitted["std"])
    return Tokenization(fitted["tokenizer"], fitted["pad"])


def build(settings: Settings, fitted: dict[str, Any], classes: int, pretrained: bool = True) -> "OwnStudent":
    """What the function makes, for C classes; whether it loads weights is its own affair.

    Raises:
        UserError: there is no such function, it fails, or what it makes is no student.
    """
    make = function(settings.factory, "factory")
    try:
        model = make(classes=classes, inputs=fitted["inputs"], **settings.options)
    except Exception as error:  # it may be any code
        raise _fault(settings, error) from error
    if not isinstance(model, nn.Module) or not isinstance(getattr(model, "width", None), int):
        raise UserError(
            f"{settings.factory}: made {type(model).__name__}; it must be a torch.nn.Module with an attribute `width`, "
            "a whole number"
        )
    return OwnStudent(model, settings.factory, settings.kind, classes)


def _fault(settings: Settings, error: Exception) -> UserError:
    return UserError(f"{settings.factory}: {in_user_code(error, settings.factory.partition(':')[0])}")


class OwnStudent(students.Student):
    """A user's module; what it gives is checked."""

    def __init__(self, model: Any, factory: str, kind: str, classes: int):
        super().__init__()
        self.model, self.width = model, model.width
        self.factory, self.kind, self.classes = factory, kind, classes

    def forward(self, inputs: Any) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n c"]]:
        """Features and outputs of a batch; see the module."""
        given = self.model(inputs)
        if torch.compiler.is_compiling():
            return given
        n = len(inputs if self.kind == "image" else inputs[0])
        expected = [(n, self.width), (n, self.classes)]
        shapes = [tuple(part.shape) for part in given] if isinstance(given, tuple) else type(given).__name__
        if shapes != expected:
            raise UserError(
                f"{self.factory}: gives {shapes} for {count(n, 'row')}; it must give features and outputs, {expected}"
            )
        return given

    def graph(self) -> students.Graph:
        """Of `pixel_values`, or of `input_ids` and `attention_mask` [n, l]."""
        if self.kind == "image":
            return super().graph()
        return replace(
            super().graph(),
            names=("input_ids", "attention_mask"),
            axes=((0, 1), (0, 1)),
            arrange=lambda batch: (batch[0], batch[1].long()),
        )
