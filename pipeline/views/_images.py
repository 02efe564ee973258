"""Changes of images, drawn by the families of image views and applied to one image or to a batch of pixels.

Both give the same picture: bilinear interpolation at the same points, and the same formulas for colours.
"""

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the brightness, from ITU-R 601."""


class Change(NamedTuple):
    """A change of an image: a box of its centre square is enlarged to the whole square, then mirrored and coloured.

    Attributes:
        left, top, width, height: of the box, in shares of the square's side.
        mirror: 1 to exchange left and right, else 0.
        brightness, contrast, saturation: factors; at 1 nothing changes.
    """

    left: float = 0.0
    top: float = 0.0
    width: float = 1.0
    height: float = 1.0
    mirror: float = 0.0
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0


def boxes(numbers: Float[np.ndarray, "n 4"], smallest: float, ratio: float) -> Float[np.ndarray, "n 4"]:
    """Random boxes inside a square: left, top, width and height in shares of its side.

    Args:
        numbers: from 0 to 1.
        smallest: the smallest share of the square's area; the area is uniform from there to 1.
        ratio: the largest ratio of a box's sides; its logarithm is uniform. A box that would not fit is cut.
    """
    area = smallest + (1 - smallest) * numbers[:, 0]
    shape = np.array([math.exp(number * math.log(ratio)) for number in (-1 + 2 * numbers[:, 1]).tolist()])
    width, height = np.minimum(np.sqrt(area * shape), 1.0), np.minimum(np.sqrt(area / shape), 1.0)
    return np.stack([(1 - width) * numbers[:, 2], (1 - height) * numbers[:, 3], width, height], 1)


def changed(image: Image.Image, change: Change) -> Image.Image:
    """An RGB image, changed: a square with the side of the image's centre square."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    box = (change.left, change.top, change.left + change.width, change.top + change.height)
    if box != (0.0, 0.0, 1.0, 1.0):
        # Rounding must not move the box outside the image.
        x0, y0, x1, y1 = (min(share * side, side) for share in box)
        image = image.resize((side, side), Image.Resampling.BILINEAR, (x0, y0, x1, y1))
    if change.mirror:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    factors = np.array(change[5:], np.float32).reshape(3, 1, 1, 1, 1)
    if (factors == 1).all():
        return image
    pixels = np.asarray(image, np.float32).transpose(2, 0, 1)[None] / 255
    colours: np.ndarray = _coloured(pixels, factors)
    return Image.fromarray(np.round(colours[0].transpose(1, 2, 0) * 255).astype(np.uint8))


def changed_batch(images: "Tensor", changes: Float[np.ndarray, "n 8"]) -> "Tensor":
    """Square images, each changed in its own way, float32 [n, channels, size, size] in 0..1.

    Args:
        images: clean images of that type and shape, on any device.
        changes: a `Change` per image, as numbers.
    """
    import torch  # here, because this package is also imported where torch is not needed

    numbers = torch.from_numpy(changes.T.astype(np.float32)).to(images.device, non_blocking=True)
    left, top, width, height, mirror = numbers[:5]
    sign = 1 - 2 * mirror
    zero = torch.zeros_like(left)
    # From coordinates in the view to coordinates in the image, both from -1 to 1.
    across = torch.stack([width * sign, zero, 2 * left + width - 1], 1)
    down = torch.stack([zero, height, 2 * top + height - 1], 1)
    grid = torch.nn.functional.affine_grid(torch.stack([across, down], 1), list(images.shape), align_corners=False)
    images = torch.nn.functional.grid_sample(images, grid, "bilinear", "border", align_corners=False)
    return _coloured(images, numbers[5:].reshape(3, -1, 1, 1, 1)) if (changes[:, 5:] != 1).any() else images


def changed_colours(images: "Tensor", factors: Float[np.ndarray, "n 3"]) -> "Tensor":
    """Images [n, c, h, w] in 0..1 with other colours; factors of brightness, contrast and saturation for each."""
    import torch

    on_device = torch.from_numpy(factors.T.astype(np.float32)).to(images.device, non_blocking=True)
    coloured: Tensor = _coloured(images, on_device.reshape(3, -1, 1, 1, 1))
    return coloured


def _coloured(images: Any, factors: Any) -> Any:
    """Brightness, contrast about the mean of the grey image, and saturation, in this order.

    Args:
        images: [n, c, h, w] in 0..1, of numpy or of torch.
        factors: [3, n, 1, 1, 1], of the same library.
    """
    brightness, contrast, saturation = factors
    images = (images * brightness).clip(0, 1)
    mean = _grey(images).mean(axis=(1, 2, 3), keepdims=True)
    images = (mean + contrast * (images - mean)).clip(0, 1)
    grey = _grey(images)
    return (grey + saturation * (images - grey)).clip(0, 1)


def _grey(images: Any) -> Any:
    """The brightness of each pixel [n, 1, h, w]; an image of one channel is its own."""
    if images.shape[1] == 1:
        return images
    red, green, blue = (share * images[:, k : k + 1] for k, share in enumerate(LUMA))
    return red + green + blue
