"""The single decoder of images: teachers, students and the scan of a dataset get the same pixels.

- The first frame or page is read, rotated by its EXIF orientation, and transparent pixels are blended with white.
- Colours become RGB, however they are stored (palette, CMYK, YCbCr), and grey of at most 8 bits stays grey.
- Grey of more than 8 bits (modes I;16, I and F) has no defined white, and most cameras and scanners use a part of the
  range. So it is scaled per image: the darkest pixel becomes 0 and the brightest 255. Pillow reads the upper 8 bits of
  16-bit colour.
- What Pillow would show otherwise than other programs is refused: such grey whose 0 is white, as in some scans, and a
  transparent colour of 16 bits a channel.

Ordinary 8-bit images are decoded exactly as by Pillow alone.
"""

import io
import re
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from pipeline.files import expands_too_much

VERSION = 1
"""Increased whenever this file gives other pixels for the same bytes. Part of every recipe that reads images."""

Image.init()
FORMATS: list[str] = [
    name
    for name in ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
    if name in Image.OPEN
]  # fmt: skip
"""Formats that are read, recognised by content; this Pillow may lack AVIF. Not all formats of Pillow: for an EPS it
would start Ghostscript."""

SUFFIXES = (*sorted(suffix for suffix, name in Image.EXTENSION.items() if name in FORMATS), ".mpo")
"""Suffixes of such files, in lower case."""

# Pillow warns of images of 90 million pixels, as some cameras make, and refuses those of twice as many.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

THINNEST = 200
"""The largest ratio of an image's sides. A longer one, resized to a model's input, would take all memory."""

REMARKS = {
    "constant": "one colour throughout",
    "several": "animated or of several pages; the first is read",
    "deep": "grey of more than 8 bits; each is scaled from its own darkest and brightest pixel",
    "deep colour": "colour of 16 bits a channel; the upper 8 are read",
}
"""Remarks for the user on images that can be read."""

_ORIENTATION = 0x0112
_PHOTOMETRIC, _WHITE_IS_ZERO = 0x0106, 0
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF orientation, the operation that turns the stored pixels upright."""


def decode(content: bytes) -> Image.Image:
    """An upright image, of mode L or RGB.

    Raises:
        ValueError: the bytes are not an image of `FORMATS`, are damaged, or would take too much memory.
    """
    try:
        return _plain(_open(content))
    except MemoryError:
        raise
    except Exception as error:  # decoders fail in many ways: OSError, SyntaxError, struct.error ...
        raise ValueError(f"not an image: {_reason(content, error)}") from None


def upright(image: Image.Image) -> Image.Image:
    """An opened image in the form that `decode` returns: upright, of mode L or RGB.

    Raises:
        ValueError: it is damaged, or some of its pixels are NaN or infinite.
    """
    try:
        return _plain(image)
    except MemoryError:
        raise
    except Exception as error:  # as above
        raise ValueError(f"not an image: {' '.join(str(error).split())}") from None


def remarks(content: bytes) -> set[str]:
    """The remarks on an image, as keys of `REMARKS`. For a JPEG, this costs an eighth of `decode`.

    Raises:
        ValueError: as `decode`.
    """
    try:
        image = _open(content)
        several = image.format != "MPO" and getattr(image, "is_animated", False)
        # A JPEG at an eighth of its size: every byte is still decoded, but hardly a pixel computed.
        shrunk = image.draft(None, (1, 1)) is not None
        found = {
            "several": several,
            "deep": _deep(image),
            "deep colour": _bits(image, content) > 8 and not _deep(image),
            "constant": _constant(_plain(image)),
        }
        if found["constant"] and shrunk:
            found["constant"] = _constant(_plain(_open(content)))
    except MemoryError:
        raise
    except Exception as error:  # as above
        raise ValueError(f"not an image: {_reason(content, error)}") from None
    return {name for name, holds in found.items() if holds}


def pixels(content: bytes) -> tuple[int, int] | None:
    """Width and height of an image as it is stored, from its header; None if it cannot be read."""
    try:
        return _open(content).size
    except Exception:  # as above
        return None


def is_image(path: Path | BinaryIO | io.BytesIO) -> bool:
    """Whether a file begins like an image of `FORMATS`; its name does not matter."""
    try:
        with Image.open(path, formats=FORMATS):
            return True
    except Exception:  # as above
        return False


def _open(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content), formats=FORMATS)
    shorter, longer = sorted(image.size)
    if longer > THINNEST * shorter:
        raise ValueError(f"{image.width:,} x {image.height:,} pixels, more than {THINNEST} times as long as wide")
    if expands_too_much(len(content), 3 * image.width * image.height):
        raise ValueError(
            f"{image.width:,} x {image.height:,} pixels from {len(content):,} bytes; it is damaged, or a trap"
        )
    return image


def _plain(image: Image.Image) -> Image.Image:
    _refuse_misread(image)
    image.load()
    orientation = _orientation(image)
    if _deep(image):
        image = _scaled(image)
    elif image.has_transparency_data:
        image = _over_white(image.convert("RGBA"))
    elif image.mode not in ("L", "RGB"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _refuse_misread(image: Image.Image) -> None:
    if image.format == "TIFF" and _deep(image) and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        raise ValueError("grey of more than 8 bits, with 0 as white; convert it to PNG")
    transparent = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(transparent, tuple) and max(transparent) > 255:
        raise ValueError("a transparent colour of 16 bits a channel; save it with an alpha channel")


def _orientation(image: Image.Image) -> Any:
    try:
        return image.getexif().get(_ORIENTATION)
    except Exception:  # viewers also show an image with damaged EXIF as it is stored
        return None


def _deep(image: Image.Image) -> bool:
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _bits(image: Image.Image, content: bytes) -> int:
    """Bits per channel in the file, which Pillow's mode does not always show."""
    match image.format:
        case "PNG":
            return content[24]
        case "TIFF":
            return max(getattr(image, "tag_v2", {}).get(258, (8,)))
    return 8


def _scaled(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits as mode L: linear, from the darkest pixel at 0 to the brightest at 255."""
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("some of its pixels are NaN or infinite")
    lowest, highest = values.min(), values.max()
    grey = np.rint((values - lowest) * (255 / (highest - lowest) if highest > lowest else 0)).astype(np.uint8)
    if isinstance(transparent := image.info.get("transparency"), int):
        grey[values == transparent] = 255
    return Image.fromarray(grey)


def _over_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _constant(image: Image.Image) -> bool:
    return all(low == high for low, high in np.reshape(image.getextrema(), (-1, 2)))


def _reason(content: bytes, error: Exception) -> str:
    if not content:
        return "it is empty"
    if isinstance(error, UnidentifiedImageError):
        return f"none of {', '.join(FORMATS)}"
    # An object's address differs from run to run, and the same data must give the same list of unreadable rows.
    return re.sub(r" at 0x[0-9a-f]+", "", " ".join(str(error).split())) or type(error).__name__
