"""Images as the tensors that students read: decoded and resized once, cached on disk, normalised per batch."""

import json
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from pipeline import images
from pipeline.augmentations import Augmented
from pipeline.data import Dataset
from pipeline.progress import progress
from pipeline.provenance import versions
from pipeline.students._cache import Chunk, arrays, kept
from pipeline.students._contract import CPU, is_on, place
from pipeline.views import Views, changed_batch

VERSION = 1
"""Increased whenever this file gives other pixels for the same image."""

ROWS, THREADS = 256, 4
"""The number of images decoded at a time, and of threads that do it."""


class ImageTransform:
    """Images as [n, channels, size, size], float32: resized, cropped and normalised.

    Args:
        size: height and width after resizing the shorter side and cropping the centre.
        channels: 3 for RGB, 1 for grey.
        mean, std: per channel, of pixels in 0..1; a batch is normalised with them.
    """

    in_python = False

    def __init__(self, size: int, channels: int, mean: list[float], std: list[float]):
        self.size, self.channels = size, channels
        self.mean = torch.tensor(mean).view(1, -1, 1, 1)
        self.std = torch.tensor(std).view(1, -1, 1, 1)
        self._on: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def __call__(self, rows: Sequence[Image.Image]) -> Float[Tensor, "n channels size size"]:
        """A batch of images."""
        with ThreadPoolExecutor(THREADS) as pool:
            resized = pool.map(lambda image: _resized(image, self.size, self.channels), rows)
            # The memory layout of `Images`: convolutions round differently if channels come last in memory.
            pixels = np.ascontiguousarray(np.stack(list(resized)))
        return self.normalise(torch.from_numpy(pixels).float() / 255)

    def files(self) -> dict[str, str]:
        """preprocessing.json: how an image becomes the student's input."""
        steps = {
            "channels": "RGB" if self.channels == 3 else "grey",
            "resize": {"shorter_side": self.size, "interpolation": "bicubic"},
            "crop": {"centre": self.size},
            "scale": "pixels in 0..1",
            "mean": self.mean.flatten().tolist(),
            "std": self.std.flatten().tolist(),
            "layout": "rows, channels, height, width; float32",
        }
        return {"preprocessing.json": json.dumps(steps, indent=1) + "\n"}

    def normalise(self, pixels: Float[Tensor, "n channels h w"]) -> Float[Tensor, "n channels h w"]:
        """(pixels - mean) / std of pixels in 0..1."""
        if pixels.device not in self._on:  # copied there once, so that no step waits for it
            self._on[pixels.device] = place((self.mean, self.std), pixels.device)
        mean, std = self._on[pixels.device]
        return (pixels - mean) / std


class Images:
    """The images of a dataset, [n, channels, size, size].

    Args:
        data: a prepared dataset of images.
        transform: resizes, crops and normalises.
        views: views of the rows, made from the clean pixels of each batch.
    """

    def __init__(self, data: Dataset, transform: ImageTransform, views: Views | None = None):
        self.data, self.transform, self.views = data, transform, views
        self.pixels = Pixels(data, transform.size, transform.channels)

    def batch(
        self,
        rows: np.ndarray,
        views: np.ndarray | None = None,
        augmented: Augmented | None = None,
        device: torch.device = CPU,
    ) -> Float[Tensor, "n channels size size"]:
        """The images of `rows`, or of the given views of them, augmented and normalised, float32."""
        read = rows if augmented is None else np.concatenate([rows, augmented.others])
        images = self.pixels.on(device, read).float() / 255
        if views is not None and self.views and (seen := np.flatnonzero(views)).size:
            changes, at = self.views.changes(self.data, rows[seen], views[seen]), place(torch.from_numpy(seen), device)
            images[at] = changed_batch(images[at], changes)
        if augmented is not None:
            images = augmented.images(images)
        return self.transform.normalise(images)

    def keep_on(self, device: torch.device, budget: int) -> int:
        """Keep the pixels on a device; see `Inputs`."""
        return self.pixels.keep_on(device, budget)


class Pixels:
    """Images as bytes [n, channels, size, size], mapped from the disk.

    If they would take more than half of the disk's free space, they are decoded for every batch instead.
    """

    def __init__(self, data: Dataset, size: int, channels: int):
        self.data, self.shape = data, (channels, size, size)
        key = {"version": VERSION, "decoder": images.VERSION, "shape": self.shape, "libraries": versions("pillow")}
        self.kept: np.ndarray | None = None
        self.resident: Tensor | None = None
        free = shutil.disk_usage(data.path).free
        if kept(data, key) or 2 * len(data) * channels * size**2 <= free:
            self.kept = arrays(data, key, self._chunks())["pixels"]

    def __getitem__(self, rows: np.ndarray) -> UInt8[np.ndarray, "n channels size size"]:
        if self.kept is not None:
            return self.kept[rows]
        with ThreadPoolExecutor(THREADS) as pool:
            return self._decode(rows, pool)

    def on(self, device: torch.device, rows: np.ndarray) -> UInt8[Tensor, "n channels size size"]:
        """The pixels of rows, on a device: from there if they are kept there, else copied, which is not waited for."""
        if self.resident is not None and is_on(self.resident, device):
            found: Tensor = self.resident[place(torch.from_numpy(rows), device)]
            return found
        if self.kept is None or device.type != "cuda":
            return cast(Tensor, place(torch.from_numpy(self[rows]), device))
        pinned = torch.empty((len(rows), *self.shape), dtype=torch.uint8, pin_memory=True)
        np.take(self.kept, rows, axis=0, out=pinned.numpy(), mode="clip")  # the mode that writes without a copy between
        return pinned.to(device, non_blocking=True)

    def keep_on(self, device: torch.device, budget: int) -> int:
        """Keep all pixels on a device, if they fit into `budget` bytes; the bytes that they take. A CPU maps them."""
        size = 0 if self.kept is None else self.kept.nbytes
        if self.kept is None or device.type == "cpu" or size > budget:
            return 0
        self.resident = torch.empty(self.kept.shape, dtype=torch.uint8, device=device)
        for start in range(0, len(self.kept), ROWS):
            self.resident[start : start + ROWS] = torch.from_numpy(np.array(self.kept[start : start + ROWS]))
        return size

    def _chunks(self) -> Iterator[Chunk]:
        with (
            ThreadPoolExecutor(THREADS) as pool,
            progress("decode images", len(self.data), "images") as advance,
        ):
            for start in range(0, len(self.data), ROWS):
                rows = np.arange(start, min(start + ROWS, len(self.data)))
                yield {"pixels": self._decode(rows, pool)}
                advance(len(rows))

    def _decode(self, rows: np.ndarray, pool: ThreadPoolExecutor) -> UInt8[np.ndarray, "n channels size size"]:
        channels, size, _ = self.shape
        out = np.empty((len(rows), *self.shape), np.uint8)
        resized = pool.map(lambda row: _resized(self.data.image(int(row)), size, channels), rows)
        for number, image in enumerate(resized):
            out[number] = image
        return out


def statistics(data: Dataset, rows: np.ndarray, size: int, channels: int) -> dict[str, list[float]]:
    """Per-channel mean and standard deviation of pixels in 0..1, over at most 2,048 of `rows`, evenly spaced."""
    pixels = Pixels(data, size, channels)
    some = rows[np.linspace(0, len(rows) - 1, min(len(rows), 2048)).astype(int)]
    total = np.zeros(channels)
    squares = np.zeros(channels)
    for start in range(0, len(some), ROWS):
        for image in pixels[some[start : start + ROWS]]:
            scaled = image / 255.0
            total += scaled.mean((1, 2))
            squares += np.square(scaled).mean((1, 2))
    mean = total / len(some)
    std = np.sqrt(np.maximum(squares / len(some) - mean**2, 1e-6))
    return {"mean": mean.tolist(), "std": std.tolist()}


def _resized(image: Image.Image, size: int, channels: int) -> np.ndarray:
    """Bytes [channels, size, size]: the shorter side is resized to `size`, then the centre is cropped."""
    image = image.convert("RGB" if channels == 3 else "L")
    if image.size != (size, size):
        scale = size / min(image.size)
        width, height = (max(size, round(side * scale)) for side in image.size)
        left, top = (width - size) // 2, (height - size) // 2
        image = image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))
    return np.asarray(image).reshape(size, size, channels).transpose(2, 0, 1)
