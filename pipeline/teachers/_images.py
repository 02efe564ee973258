"""What teachers of images share: an image is decoded, preprocessed to one size, and stacked with others."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from math import gcd
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, functional

from pipeline import images
from pipeline.teachers import Teacher


class ImageTeacher(Teacher):
    """A teacher of images, all of one size once they are preprocessed."""

    kind: Literal["image"] = "image"
    uniform = True

    @abstractmethod
    def preprocess(self, image: Image.Image) -> Any:
        """What the model takes of an upright image: an array [*shape], of one shape and type for all images.

        It is called by several threads, as `transform` is.
        """

    def transform(self, content: str | bytes | Image.Image) -> Any:
        """Decode, and preprocess.

        Raises:
            ValueError: the image does not decode.
        """
        assert not isinstance(content, str)
        return self.preprocess(images.decode(content) if isinstance(content, bytes) else content)

    def cost(self, example: Any) -> int:
        """All images are of one size."""
        return 1

    def collate(self, examples: Sequence[Any]) -> Mapping[str, Tensor]:
        """The arrays of images, stacked: `pixels` [n, *shape]."""
        return {"pixels": torch.from_numpy(np.stack(examples))}


def rgb(image: Image.Image) -> Image.Image:
    """The image itself if it is RGB, which `convert` would copy."""
    return image if image.mode == "RGB" else image.convert("RGB")


def resized_centre(
    image: Image.Image, shorter: int, crop: Sequence[int], interpolation: InterpolationMode
) -> Image.Image:
    """The centre of a resized image, as torchvision's `resize` and `center_crop` make it, for less work.

    Of an image that is at least as wide as high, Pillow resizes the rows first, so that the columns can be cropped
    before these are resized. Along a side that is resized by a fraction of a power of two, such as 427 to 256, no more
    than the crop is computed. The pixels are the same: the edges of a part, which Pillow keeps in single precision, are
    exact for such fractions.

    Args:
        image: of mode L or RGB.
        shorter: what the shorter side is resized to.
        crop: height and width.
        interpolation: one that Pillow has.
    """
    (width, height), (rows, columns) = image.size, crop
    across, how = int(shorter * width / height), getattr(Image.Resampling, interpolation.name, Image.Resampling.NEAREST)
    if width < height or how == Image.Resampling.NEAREST or rows > shorter or columns > across:
        return functional.center_crop(functional.resize(image, [shorter], interpolation), list(crop))
    left, top = round((across - columns) / 2), round((shorter - rows) / 2)
    first_column, number, edges = _part(left, columns, width, across)
    image = image.resize((number, height), how, (edges[0], 0, edges[1], height))
    if number > columns:
        image = image.crop((left - first_column, 0, left - first_column + columns, height))
    first_row, number, edges = _part(top, rows, height, shorter)
    image = image.resize((columns, number), how, (0, edges[0], columns, edges[1]))
    return image.crop((0, top - first_row, columns, top - first_row + rows)) if number > rows else image


def _part(start: int, wanted: int, size: int, resized: int) -> tuple[int, int, tuple[float, float]]:
    """What to compute along a side of `size` pixels, for some of the `resized` ones.

    Returns:
        The first of the pixels that are computed, their number, and their edges in the image.
    """
    denominator = resized // gcd(size, resized)
    if denominator & (denominator - 1) or size * denominator >= 1 << 24:
        return 0, resized, (0.0, float(size))
    return start, wanted, (start * size / resized, (start + wanted) * size / resized)
