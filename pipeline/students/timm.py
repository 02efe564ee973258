"""Any classifier of timm as a student, pretrained or from scratch, with its own preprocessing."""

from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from timm.models import group_parameters
from torch import Tensor, nn

from pipeline import students
from pipeline.data import Dataset
from pipeline.errors import UserError
from pipeline.params import Settings as Base
from pipeline.pretrained import digest
from pipeline.pretrained.timm import TimmModel, classifiers, data_configuration
from pipeline.students._images import Images, ImageTransform
from pipeline.views import Views

KIND: Literal["image"] = "image"

CHANNELS = 3
"""Channels of images, unless the weights take one."""


class Settings(Base):
    """Keys of a student of this family.

    Attributes:
        model: timm's name, such as `vit_small_patch16_224`; or a folder in timm's format, `local-dir:PATH`; or a
            repository, `hf-hub:OWNER/NAME@REVISION`.
        pretrained: start from timm's weights, which are downloaded unless `weights` names a file.
        weights: a local file of weights, .safetensors or .pth, for all layers except the head, which is always new.
        size: height and width of the images; the model's own if None.
        layers: keep the first so many blocks of a vision transformer; all if None.
        dropout: dropout before the head.
    """

    model: str
    pretrained: bool = True
    weights: str | None = None
    size: int | None = Field(default=None, ge=8)
    layers: int | None = Field(default=None, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)


def fit(settings: Settings, data: Dataset, rows: np.ndarray) -> dict[str, Any]:
    """The architecture, the arguments for timm, and the preprocessing from the model's configuration.

    A file of weights is read here already, so that weights that do not fit are refused before any image is decoded, and
    other weights under the same name are another student.
    """
    source = TimmModel.find(settings.model, settings.weights)
    options, depth = source.options(settings.size), source.depth(settings.layers)
    if settings.pretrained and source.weights is not None:
        model, _ = source.load(**options)
        weights = digest(model.state_dict())
    else:
        with torch.device("meta"):
            model = source.create(**options)
        weights = ""
    config = data_configuration(model, settings.model)
    channels, height, _ = config["input_size"]
    if channels != CHANNELS:
        options = options | {"in_chans": channels}
    return {
        "architecture": source.architecture,
        "config": dict(source.config),
        "arguments": {**source.arguments, **options},
        "depth": depth,
        "channels": channels,
        "size": settings.size or height,
        "mean": list(config["mean"]),
        "std": list(config["std"]),
        "weights": weights,
    }


def inputs(settings: Settings, fitted: dict[str, Any], data: Dataset, views: Views | None = None) -> Images:
    """All images at this student's size."""
    return Images(data, preprocessing(settings, fitted), views)


def preprocessing(settings: Settings, fitted: dict[str, Any]) -> ImageTransform:
    """Images at this student's size."""
    return ImageTransform(fitted["size"], fitted["channels"], fitted["mean"], fitted["std"])


def build(settings: Settings, fitted: dict[str, Any], classes: int, pretrained: bool = True) -> "TimmStudent":
    """A student with a new head for C classes.

    Raises:
        UserError: its weights cannot be loaded or do not fit.
    """
    arguments = {**fitted["arguments"], **fitted["depth"]}
    built = TimmModel(settings.model, fitted["architecture"], None, fitted["config"], arguments)
    student = TimmStudent(built, classes, settings.dropout)
    if pretrained and settings.pretrained:
        source = TimmModel.find(settings.model, settings.weights)
        model, _ = source.load(**fitted["arguments"])
        # Only the last layer is new: any other missing weight would stay random.
        last = tuple(f"{name}." for name in classifiers(model))
        there = student.model.state_dict()
        body = {
            name: value
            for name, value in model.state_dict().items()
            if not name.startswith(last) and (name in there or not (fitted["depth"] and name.startswith("blocks.")))
        }
        missing, unexpected = student.model.load_state_dict(body, strict=False)
        if unexpected or (lacking := [name for name in missing if not name.startswith(last)]):
            raise UserError(
                f"{settings.model}: its weights lack {min(unexpected or lacking)!r}; set `pretrained: false`"
            )
    return student


class TimmStudent(students.Student):
    """A timm model whose features are the input of its classifier.

    A model with several classifiers, or one that is more than a linear layer, gets one linear layer instead.
    """

    def __init__(self, source: TimmModel, classes: int, dropout: float):
        super().__init__()
        self.model = source.create(num_classes=classes, drop_rate=dropout)
        self.head: nn.Module | None = None
        if not isinstance(self.model.get_classifier(), nn.Linear):
            self.model.reset_classifier(0)
            self.head = nn.Linear(self.model.head_hidden_size, classes)
        self.width: int = self.model.head_hidden_size

    def depths(self) -> dict[str, int]:
        """As timm numbers its layers, a block of a residual network or of a transformer each."""
        found = group_parameters(self.model, self.model.group_matcher(coarse=False), reverse=True)
        last = tuple(f"{name}." for name in classifiers(self.model))
        top = 1 + max(depth for name, depth in found.items() if not name.startswith(last))
        depths = {f"model.{name}": top if name.startswith(last) else depth for name, depth in found.items()}
        return depths | {name: top for name, _ in self.named_parameters() if name.startswith("head.")}

    def forward(self, inputs: Float[Tensor, "n c h w"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n k"]]:
        """Features and logits of n images."""
        features = self.model.forward_head(self.model.forward_features(inputs), pre_logits=True)
        return features, (self.head or self.model.get_classifier())(features)
