"""An image model for a CPU: four convolutions, three of them strided, a linear map of a 4 x 4 grid, LayerNorm, a head.

The 4 x 4 grid keeps positions, which an average over the image would lose.

GroupNorm rather than BatchNorm: a row's features must not depend on which rows, labelled or not, share its batch.
Otherwise plain training and transfer would differ in more than the penalty.
"""

from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from pipeline import students
from pipeline.data import Dataset
from pipeline.params import Settings as Base
from pipeline.students._images import Images, ImageTransform, statistics
from pipeline.views import Views

KIND: Literal["image"] = "image"


class Settings(Base):
    """Keys of a student of this family.

    Attributes:
        size: images are resized to size x size pixels.
        channels: 3 for RGB, 1 for grey.
        width: width of the features; the convolutions have 1/8, 1/4, 1/2 and all of it as channels.
    """

    size: int = Field(default=32, ge=8)
    channels: Literal[1, 3] = 3
    width: int = Field(default=128, ge=8, multiple_of=8)


def fit(settings: Settings, data: Dataset, rows: np.ndarray) -> dict[str, Any]:
    """Mean and standard deviation of the training rows' pixels."""
    return statistics(data, rows, settings.size, settings.channels)


def inputs(settings: Settings, fitted: dict[str, Any], data: Dataset, views: Views | None = None) -> Images:
    """All images at this student's size."""
    return Images(data, preprocessing(settings, fitted), views)


def preprocessing(settings: Settings, fitted: dict[str, Any]) -> ImageTransform:
    """Images at this student's size."""
    return ImageTransform(settings.size, settings.channels, fitted["mean"], fitted["std"])


def build(settings: Settings, fitted: dict[str, Any], classes: int, pretrained: bool = True) -> "CompactCNN":
    """A student for C classes; from scratch, so `pretrained` changes nothing."""
    return CompactCNN(settings.channels, settings.width, classes)


class CompactCNN(students.Student):
    """See the module."""

    def __init__(self, channels: int, width: int, classes: int):
        super().__init__()
        self.width = width
        sizes = [channels, width // 8, width // 4, width // 2, width]
        self.convolutions = nn.Sequential(
            *(_block(a, b, stride) for a, b, stride in zip(sizes, sizes[1:], (1, 2, 2, 2), strict=False))
        )
        self.grid = nn.AdaptiveAvgPool2d(4)
        self.mix = nn.Linear(16 * width, width)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, inputs: Float[Tensor, "n channels h w"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n c"]]:
        """Features and logits of n images."""
        features = self.norm(self.mix(self.grid(self.convolutions(inputs)).flatten(1)))
        return features, self.head(features)


def _block(inside: int, outside: int, stride: int) -> nn.Module:
    groups = max(1, outside // 16)
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, stride=stride, padding=1, bias=False), nn.GroupNorm(groups, outside), nn.ReLU()
    )
