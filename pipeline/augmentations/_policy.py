"""The operations of RandAugment and TrivialAugment for a batch: each image has an operation and a strength of its own.

Operations and ranges are torchvision's (`transforms.v2`), with bilinear interpolation and black outside of the image.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import affine_grid, conv2d, grid_sample
from torchvision.transforms.v2 import functional

from pipeline.augmentations._pixels import on_device, per_row
from pipeline.views import changed_colours

OPERATIONS = (
    "Identity",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Brightness",
    "Contrast",
    "Color",
    "Sharpness",
    "Posterize",
    "Solarize",
    "AutoContrast",
    "Equalize",
)
GEOMETRY = (1, 6)
"""Numbers of the operations that move pixels, from the first to before the last; then those that change colours."""
COLOURS = (6, 9)
SHARPNESS, POSTERIZE, SOLARIZE, AUTOCONTRAST, EQUALIZE = range(9, 14)

BINS = 31
"""Strengths from 0 to the largest of an operation, evenly spaced."""


@dataclass(frozen=True)
class Space:
    """The largest strength of each operation.

    Attributes:
        shear: of its tangent.
        translate: in pixels; `share` of the side in addition.
        share: see `translate`.
        rotate: in degrees.
        blend: of factors of colours and sharpness, from 1.
        bits: that are dropped, of 8.
    """

    shear: float
    translate: float
    share: float
    rotate: float
    blend: float
    bits: int


def apply(
    images: Float[Tensor, "n c s s"],
    space: Space,
    operations: Int[np.ndarray, " n"],
    levels: Float[np.ndarray, " n"],
    signs: Float[np.ndarray, " n"],
) -> Float[Tensor, "n c s s"]:
    """Each image, changed by its operation.

    Args:
        images: in 0..1.
        space: of the strengths.
        operations: by number in `OPERATIONS`.
        levels: of strength, from 0 to 1.
        signs: 1 or -1, the direction of operations that have one.
    """
    found = images

    def some(chosen: np.ndarray) -> tuple[np.ndarray, Tensor, Tensor]:
        """Which rows, the same on the device, and their images."""
        at = np.flatnonzero(chosen)
        on = on_device(at, images)
        return at, on, images[on]

    strengths = levels * signs
    for number in np.unique(operations[operations >= COLOURS[1]]).tolist():
        at, on, part = some(operations == number)
        found = found.index_copy(0, on, _one(part, space, number, levels[at], strengths[at]))
    moved = (operations >= GEOMETRY[0]) & (operations < GEOMETRY[1])
    if moved.any():
        at, on, part = some(moved)
        theta = on_device(_matrices(space, images.shape[3], operations[at], strengths[at]), images).to(images.dtype)
        grid = affine_grid(theta, list(part.shape), align_corners=False)
        found = found.index_copy(0, on, grid_sample(part, grid, "bilinear", "zeros", align_corners=False))
    coloured = (operations >= COLOURS[0]) & (operations < COLOURS[1])
    if coloured.any():
        at, on, part = some(coloured)
        factors = np.ones((len(at), 3))
        factors[np.arange(len(at)), operations[at] - COLOURS[0]] += space.blend * strengths[at]
        found = found.index_copy(0, on, changed_colours(part, factors))
    return found


def _matrices(
    space: Space, side: int, operations: Int[np.ndarray, " n"], strengths: Float[np.ndarray, " n"]
) -> Float[np.ndarray, "n 2 3"]:
    """From coordinates in the new image to those in the old one, both from -1 to 1. Shears fix an edge."""
    found = np.tile(np.eye(2, 3), (len(operations), 1, 1))
    shear = space.shear * strengths
    pixels = np.trunc((space.translate + space.share * side) * strengths)
    angle = np.radians(space.rotate * strengths)
    for number, name in enumerate(OPERATIONS):
        at = operations == number
        match name:
            case "ShearX":
                found[at, 0, 1] = found[at, 0, 2] = shear[at]
            case "ShearY":
                found[at, 1, 0] = found[at, 1, 2] = shear[at]
            case "TranslateX":
                found[at, 0, 2] = -2 * pixels[at] / side
            case "TranslateY":
                found[at, 1, 2] = -2 * pixels[at] / side
            case "Rotate":
                found[at, 0, 0] = found[at, 1, 1] = np.cos(angle[at])
                found[at, 0, 1], found[at, 1, 0] = -np.sin(angle[at]), np.sin(angle[at])
    return found


def _one(
    images: Float[Tensor, "n c s s"],
    space: Space,
    operation: int,
    levels: Float[np.ndarray, " n"],
    strengths: Float[np.ndarray, " n"],
) -> Float[Tensor, "n c s s"]:
    """Images that share one of the operations after the colours."""
    match operation:
        case number if number == SHARPNESS:
            channels = images.shape[1]
            kernel = images.new_full((channels, 1, 3, 3), 1 / 13)
            kernel[:, :, 1, 1] = 5 / 13
            blurred = images.clone()
            blurred[:, :, 1:-1, 1:-1] = conv2d(images, kernel, groups=channels)
            return blurred.lerp(images, per_row(1 + space.blend * strengths, images)).clamp(0, 1)
        case number if number == POSTERIZE:
            steps = per_row(2.0 ** np.round(8 - space.bits * levels), images)
            return (images * steps).floor().minimum(steps - 1) / steps
        case number if number == SOLARIZE:
            return (1 - images).where(images >= per_row(1 - levels, images), images)
        case number if number == AUTOCONTRAST:
            return functional.autocontrast(images)
    return functional.equalize(images)
