"""A dataset's images as the tensors that students read: decoded and resized once, kept as bytes, scaled per batch."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from pipeline.data.dataset import Dataset

BUDGET = 4 << 30
"""Bytes of decoded images to keep in memory; a larger set is decoded again for every batch."""


class Images:
    """Images as [n, channels, size, size].

    Args:
        data: a prepared dataset of images.
        size: height and width after resizing the shorter side and cropping the centre.
        channels: 3 for RGB, 1 for grey.
        mean, std: per channel, of pixels in 0..1; the batch is shifted and scaled by them.
    """

    def __init__(self, data: Dataset, size: int, channels: int, mean: list[float], std: list[float]):
        self.data, self.size, self.channels = data, size, channels
        self.mean = torch.tensor(mean).view(1, -1, 1, 1)
        self.std = torch.tensor(std).view(1, -1, 1, 1)
        self.pool = ThreadPoolExecutor(4)
        fits = len(data) * channels * size * size <= BUDGET
        self.decoded = self._decode(np.arange(len(data))) if fits else None

    def batch(self, rows: np.ndarray) -> Float[Tensor, "n channels size size"]:
        """The images of `rows`, normalised, float32."""
        pixels = self._decode(rows) if self.decoded is None else self.decoded[torch.from_numpy(rows)]
        return (pixels.float() / 255 - self.mean) / self.std

    def _decode(self, rows: np.ndarray) -> Tensor:
        decode = partial(_pixels, size=self.size, channels=self.channels)
        images = self.pool.map(lambda row: decode(self.data.image(int(row))), rows)
        out = np.empty((len(rows), self.channels, self.size, self.size), np.uint8)
        for number, image in enumerate(images):
            out[number] = image
        return torch.from_numpy(out)


def statistics(data: Dataset, rows: np.ndarray, size: int, channels: int) -> dict[str, list[float]]:
    """Per-channel mean and standard deviation of pixels in 0..1, over at most 2,048 of `rows`, evenly spaced."""
    some = rows[np.linspace(0, len(rows) - 1, min(len(rows), 2048)).astype(int)]
    total = np.zeros(channels)
    squares = np.zeros(channels)
    for row in some:
        pixels = _pixels(data.image(int(row)), size, channels) / 255.0
        total += pixels.mean((1, 2))
        squares += np.square(pixels).mean((1, 2))
    mean = total / len(some)
    std = np.sqrt(np.maximum(squares / len(some) - mean**2, 1e-6))
    return {"mean": mean.tolist(), "std": std.tolist()}


def _pixels(image: Image.Image, size: int, channels: int) -> np.ndarray:
    """Channels first, bytes: the shorter side resized to `size`, the centre cut out."""
    image = image.convert("RGB" if channels == 3 else "L")
    if image.size != (size, size):
        scale = size / min(image.size)
        width, height = (max(size, round(side * scale)) for side in image.size)
        left, top = (width - size) // 2, (height - size) // 2
        image = image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))
    return np.asarray(image).reshape(size, size, channels).transpose(2, 0, 1)
