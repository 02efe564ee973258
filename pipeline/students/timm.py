"""Any classifier of timm as a student, pretrained or from scratch, with the preprocessing of its own configuration."""

from typing import Any, Literal

import numpy as np
import timm
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from pipeline import students
from pipeline.data import Dataset
from pipeline.errors import UserError
from pipeline.params import Settings as Base
from pipeline.pretrained import locate
from pipeline.students._images import Images, ImageTransform
from pipeline.timm_models import check_name, size_options
from pipeline.views import Views

KIND: Literal["image"] = "image"


class Settings(Base):
    """Keys of a student of this family.

    Attributes:
        model: timm's name, such as `vit_small_patch16_224`.
        pretrained: start from timm's weights, which are downloaded unless `weights` names a file.
        weights: a local file of weights, .safetensors or .pth, for the body; the head is new in any case.
        size: height and width of its images; the model's own if None.
        dropout: before the head.
    """

    model: str
    pretrained: bool = True
    weights: str | None = None
    size: int | None = Field(default=None, ge=8)
    dropout: float = Field(default=0.0, ge=0, lt=1)


def fit(settings: Settings, data: Dataset, rows: np.ndarray) -> dict[str, Any]:
    """Size and normalisation from the model's configuration, and what timm must be told of the size."""
    check_name(settings.model)
    options = size_options(settings.model, settings.size)
    with torch.device("meta"):
        config = timm.data.resolve_model_data_config(timm.create_model(settings.model))
    size = settings.size or config["input_size"][1]
    return {"size": size, "mean": list(config["mean"]), "std": list(config["std"]), "options": options}


def inputs(settings: Settings, fitted: dict[str, Any], data: Dataset, views: Views | None = None) -> Images:
    """All images at this student's size."""
    return Images(data, preprocessing(settings, fitted), views)


def preprocessing(settings: Settings, fitted: dict[str, Any]) -> ImageTransform:
    """Images at this student's size."""
    return ImageTransform(fitted["size"], 3, fitted["mean"], fitted["std"])


def build(settings: Settings, fitted: dict[str, Any], classes: int, pretrained: bool = True) -> "TimmStudent":
    """A student with a new head for C classes.

    Raises:
        UserError: its weights cannot be loaded or do not fit, or the model has several heads.
    """
    options: dict[str, Any] = {"num_classes": classes, "drop_rate": settings.dropout, **fitted["options"]}
    if pretrained and settings.weights is not None:
        options["pretrained_cfg_overlay"] = {"file": str(locate(settings.weights))}
    try:
        model: Any = timm.create_model(settings.model, pretrained=pretrained and settings.pretrained, **options)
    except Exception as error:  # a download or a file fails in many ways, and so do weights of another model or size
        line = " ".join(str(error).split())[:200]
        raise UserError(
            f"{settings.model}: its weights cannot be loaded ({line}); set `weights: FILE` or `pretrained: false`"
        ) from None
    if not isinstance(model.get_classifier(), nn.Module):
        raise UserError(f"{settings.model}: it has several heads, and a student has one; choose a plain variant")
    return TimmStudent(model)


class TimmStudent(students.Student):
    """A timm model whose features are the input of its classifier."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model
        self.width: int = model.head_hidden_size

    def forward(self, inputs: Float[Tensor, "n 3 h w"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n c"]]:
        """Features and logits of n images."""
        features = self.model.forward_head(self.model.forward_features(inputs), pre_logits=True)
        return features, self.model.get_classifier()(features)
