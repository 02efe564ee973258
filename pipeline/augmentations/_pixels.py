"""Shared by augmentations of images: numbers for each row on the images' device, and boxes as masks."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def on_device(values: np.ndarray, images: Tensor) -> Any:
    """An array as a tensor where the images are. The copy to a GPU is not waited for."""
    found = torch.from_numpy(np.ascontiguousarray(values))
    return found.pin_memory().to(images.device, non_blocking=True) if images.device.type == "cuda" else found


def per_row(values: Float[np.ndarray, " n"], images: Tensor) -> Float[Tensor, "n 1 1 1"]:
    """A number for each image, to compute with its pixels."""
    found: Tensor = on_device(values.astype(np.float32), images).to(images.dtype).reshape(-1, 1, 1, 1)
    return found


def box_mask(boxes: Float[np.ndarray, "n 4"], images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 1 h w"]:
    """The share of each pixel that is inside a box: left, top, width and height in shares of the image's sides.

    So the mean of a mask is the area of its box, at any number of pixels.
    """
    left, top, width, height = (per_row(side, images) for side in boxes.T)
    rows, columns = images.shape[2:]

    def inside(start: Tensor, length: Tensor, pixels: int) -> Tensor:
        edge = torch.arange(pixels, device=images.device, dtype=images.dtype)
        return ((start + length) * pixels).minimum(edge + 1).sub((start * pixels).maximum(edge)).clamp(0, 1)

    return inside(top, height, rows).transpose(2, 3) * inside(left, width, columns)
