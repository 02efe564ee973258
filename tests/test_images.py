"""The decoder: pixels as people see them, and what is refused."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from pipeline import images
from pipeline.images import REMARKS, decode, is_image, remarks
from tests.memory import at_most

RANDOM = np.random.default_rng(0)
COLOUR = RANDOM.integers(0, 256, (30, 41, 3), np.uint8)
GREY = RANDOM.integers(0, 256, (30, 41), np.uint8)


def encode(image: Image.Image | np.ndarray, format: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, format, **options)
    return file.getvalue()


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(decode(content))


# Ordinary images


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "GIF"])
@pytest.mark.parametrize("stored", [COLOUR, GREY], ids=["colour", "grey"])
def test_ordinary_images_are_what_pillow_alone_gives_bit_for_bit(format: str, stored: np.ndarray):
    if format not in images.FORMATS:
        pytest.skip("this Pillow does not read it")
    content = encode(stored, format)
    alone = Image.open(io.BytesIO(content))
    assert decode(content).mode == ("L" if alone.mode == "L" else "RGB")
    np.testing.assert_array_equal(np.asarray(decode(content).convert("RGB")), np.asarray(alone.convert("RGB")))
    assert remarks(content) == set()


# Turned


TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    # EXIF 2.3, tag 274: on which side of the picture the first stored row and the first stored column belong.
    1: lambda stored: stored,  # top, left
    2: lambda stored: stored[:, ::-1],  # top, right
    3: lambda stored: stored[::-1, ::-1],  # bottom, right
    4: lambda stored: stored[::-1],  # bottom, left
    5: lambda stored: stored.swapaxes(0, 1),  # left, top
    6: lambda stored: stored.swapaxes(0, 1)[:, ::-1],  # right, top
    7: lambda stored: stored.swapaxes(0, 1)[::-1, ::-1],  # right, bottom
    8: lambda stored: stored.swapaxes(0, 1)[::-1],  # left, bottom
}


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_images_are_rotated_by_their_exif_orientation(format: str, orientation: int):
    quality = {"WEBP": {"lossless": True}}.get(format, {})
    content = encode(COLOUR, format, exif=oriented(orientation), **quality)
    np.testing.assert_array_equal(pixels(content), TURNS[orientation](pixels(encode(COLOUR, format, **quality))))


def test_grey_transparent_and_deep_images_are_turned_too():
    deep = GREY.astype(np.uint16) * 200
    translucent = np.dstack([COLOUR, GREY])
    for stored in (GREY, deep, translucent):
        turned = pixels(encode(stored, exif=oriented(6)))
        np.testing.assert_array_equal(turned, TURNS[6](pixels(encode(stored))))


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0not a header", b"\0"])
def test_an_image_whose_exif_is_damaged_is_as_stored(exif: bytes):
    np.testing.assert_array_equal(pixels(encode(COLOUR, exif=exif)), COLOUR)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_turns_nothing(orientation: int):
    np.testing.assert_array_equal(pixels(encode(COLOUR, exif=oriented(orientation))), COLOUR)


# Transparent


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_what_is_transparent_lies_over_white(format: str):
    stored = np.dstack([COLOUR, GREY])
    found = pixels(encode(stored, format, **({"lossless": True, "exact": True} if format == "WEBP" else {})))
    alpha = GREY[..., None] / 255
    np.testing.assert_allclose(found, COLOUR * alpha + 255 * (1 - alpha), atol=1)
    np.testing.assert_array_equal(found[GREY == 255], COLOUR[GREY == 255])
    assert (found[GREY == 0] == 255).all()


def test_icons_whose_shape_is_in_the_alpha_channel_differ():
    shapes = np.zeros((2, 16, 16, 4), np.uint8)
    shapes[0, 2:6, 2:6, 3] = shapes[1, 8:12, 8:12, 3] = 255
    for shape in shapes:
        found = pixels(encode(shape))
        assert (found[shape[..., 3] == 255] == 0).all()
        assert (found[shape[..., 3] == 0] == 255).all()


def test_grey_with_alpha_lies_over_white():
    found = pixels(encode(Image.fromarray(np.dstack([GREY, GREY]), "LA")))
    np.testing.assert_allclose(found, np.stack([GREY / 255 * GREY + 255 - GREY] * 3, axis=-1), atol=1)


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "1", "I;16"])
def test_a_colour_that_stands_for_transparent_becomes_white(mode: str):
    stored = np.array([[0, 128, 255]] * 3, np.uint8)
    match mode:
        case "P":
            palette = Image.fromarray(np.array([[0, 1, 2]] * 3, np.uint8), "P")
            palette.putpalette([0, 0, 0, 128, 128, 128, 255, 255, 255])
            content = encode(palette, transparency=0)
        case "L":
            content = encode(stored, transparency=0)
        case "RGB":
            content = encode(np.dstack([stored] * 3), transparency=(0, 0, 0))
        case "1":
            content = encode(Image.fromarray(stored).convert("1", dither=Image.Dither.NONE), transparency=0)
        case "I;16":
            content = encode(stored.astype(np.uint16) * 100, transparency=0)
    found = np.asarray(decode(content).convert("RGB"))
    assert found[0, 0].tolist() == [255] * 3
    assert found[0, 1].tolist() == [255 if mode == "1" else 128] * 3


def test_a_palette_with_an_alpha_for_each_colour_lies_over_white():
    palette = Image.fromarray(np.array([[0, 1, 2, 3]], np.uint8), "P")
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    found = pixels(encode(palette, transparency=bytes([255, 0, 127, 255])))
    assert found[0].tolist() == [[0, 0, 0], [255, 255, 255], [128, 255, 128], [0, 0, 255]]


def claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it has so many pixels."""
    content = bytearray(encode(GREY))
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # as in a command
@pytest.mark.parametrize("shape", [(13_000, 13_000), (20_000, 20_000), (2_000_000, 20_000)])
def test_pixels_that_a_few_bytes_claim_are_not_made(shape: tuple[int, int]):
    for read in (decode, remarks):
        with at_most(128 << 20), pytest.raises(ValueError, match=r"not an image: .*pixels"):
            read(claiming(*shape))


# Stored otherwise


def test_one_bit_is_black_and_white():
    stored = Image.fromarray(GREY > 127)
    np.testing.assert_array_equal(pixels(encode(stored)), np.where(GREY > 127, 255, 0))


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk_is_ink_on_white(format: str):
    ink = np.zeros((16, 64, 4), np.uint8)
    ink[:, 16:32, 0] = ink[:, 32:48, 1] = ink[:, 48:, 3] = 255
    found = pixels(encode(Image.fromarray(ink, "CMYK"), format))
    expected = [(255, 255, 255), (0, 255, 255), (255, 0, 255), (0, 0, 0)]
    for column, colour in zip((8, 24, 40, 56), expected, strict=True):
        np.testing.assert_allclose(found[8, column], colour, atol=6)


# More than eight bits


@pytest.mark.parametrize("factor", [1, 16, 256])
@pytest.mark.parametrize("kind", ["I;16", "I;16B", "I", "F"])
def test_deep_grey_is_scaled_from_its_darkest_to_its_brightest_pixel(kind: str, factor: int):
    dtype = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4", "F": "<f4"}[kind]
    values = (GREY.astype(np.int64) * factor + 100).astype(dtype)
    content = encode(Image.fromarray(values), "TIFF")
    assert Image.open(io.BytesIO(content)).mode == kind
    lowest, highest = int(GREY.min()) * factor + 100, int(GREY.max()) * factor + 100
    for row, line in enumerate(np.asarray(decode(content))):
        for column, found in enumerate(line):
            exact = (int(values[row, column]) - lowest) / (highest - lowest) * 255
            assert abs(int(found) - exact) <= 0.5
    assert remarks(content) == {"deep"}


def test_sixteen_bit_pictures_of_every_exposure_differ():
    pictures = [encode(RANDOM.integers(0, 4096, (8, 8)).astype(np.uint16)) for _ in range(16)]
    assert len({pixels(content).tobytes() for content in pictures}) == 16
    assert all(decode(content).getextrema() == (0, 255) for content in pictures)


def test_a_sixteen_bit_pgm_is_scaled(tmp_path: Path):
    content = b"P5 2 1 4095\n" + np.array([0, 4095], ">u2").tobytes()
    assert pixels(content).tolist() == [[0, 255]]


def test_deep_grey_of_one_value_is_black_and_constant():
    content = encode(np.full((4, 4), 40_000, np.uint16))
    assert (pixels(content) == 0).all()
    assert remarks(content) == {"deep", "constant"}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pixels_that_are_not_numbers_are_refused(value: float):
    stored = np.ones((4, 4), np.float32)
    stored[1, 2] = value
    for read in (decode, remarks):
        with pytest.raises(ValueError, match="some of its pixels are NaN or infinite"):
            read(encode(stored, "TIFF"))


def test_of_sixteen_bit_colour_the_upper_bits_are_read():
    # Pillow writes no such files: a PNG by hand.
    import struct
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    lines = zlib.compress(b"\0" + struct.pack(">6H", 0x1234, 0xFFFF, 0, 0xABCD, 0x80, 0x100))
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")
    assert pixels(content).tolist() == [[[0x12, 0xFF, 0], [0xAB, 0, 1]]]
    assert remarks(content) == {"deep colour"}

    # A transparent colour has 16 bits, too, and Pillow would compare it with the upper 8 of each pixel.
    transparent = chunk(b"tRNS", struct.pack(">3H", 0x1234, 0xFFFF, 0))
    for read in (decode, remarks):
        with pytest.raises(ValueError, match="not an image: a transparent colour of 16 bits a channel; save it with"):
            read(content.replace(content[33:][: content[33:].index(b"IEND") - 4], transparent + content[33:-12]))


@pytest.mark.parametrize("stored", [np.uint16, np.float32])
def test_deep_grey_whose_0_is_white_is_refused_and_flat_grey_is_turned(stored: type):
    # Pillow gives 8 bits as people see them, and more bits as they are stored. 262 says what 0 is.
    assert (
        pixels(encode(GREY, "TIFF", tiffinfo={262: 1}).replace(*_white_is_zero(1, 0))).tolist() == (255 - GREY).tolist()
    )
    content = encode(GREY.astype(stored), "TIFF")
    decode(content)
    for read in (decode, remarks):
        with pytest.raises(ValueError, match="not an image: grey of more than 8 bits, with 0 as white; convert it"):
            read(content.replace(*_white_is_zero(1, 0)))


def _white_is_zero(before: int, after: int) -> tuple[bytes, bytes]:
    """The entry of a TIFF that says whether 0 is black, 1, or white, and another one to take its place."""
    return struct.pack("<HHIHH", 262, 3, 1, before, 0), struct.pack("<HHIHH", 262, 3, 1, after, 0)


# What the scan says


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_pictures_the_first_is_read_and_this_is_remarked(format: str):
    flat = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    flat[0].putpixel((0, 0), (0, 255, 0))
    content = encode(flat[0], format, save_all=True, append_images=flat[1:])
    found = pixels(content)[10, 10]
    np.testing.assert_allclose(found, [255, 0, 0], atol=3)
    assert remarks(content) == {"several"}


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_images_of_one_colour_are_distinguished_from_those_that_only_seem_so(format: str):
    assert remarks(encode(Image.new("RGB", (64, 64), (10, 200, 30)), format)) == {"constant"}
    # Every block of 8 x 8 has the same mean, which is all that a JPEG at an eighth of its size shows.
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    assert remarks(encode(stripes, format)) == set()
    assert remarks(encode(np.zeros((8, 8, 4), np.uint8))) == {"constant"}


def test_there_are_words_for_every_remark():
    assert {"constant", "several", "deep", "deep colour"} == set(REMARKS)


# What is refused


def test_an_eps_starts_no_ghostscript(monkeypatch: pytest.MonkeyPatch):
    def start(*_: object, **__: object) -> None:
        raise AssertionError("Ghostscript was started")

    content = encode(COLOUR, "EPS")
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", start)
    with pytest.raises(ValueError, match=r"not an image: none of AVIF, BMP, GIF, JPEG"):
        decode(content)


@pytest.mark.parametrize("format", ["ICO", "PCX", "SGI", "TGA", "ICNS"])
def test_only_formats_of_the_list_are_read(format: str):
    with pytest.raises(ValueError, match="none of"):
        decode(encode(Image.fromarray(COLOUR).resize((32, 32)), format))


def test_images_that_would_take_all_memory_are_refused(monkeypatch: pytest.MonkeyPatch):
    content = encode(COLOUR)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", COLOUR.size // 3 // 2 - 1)
    for read in (decode, remarks):
        with pytest.raises(ValueError, match="exceeds limit"):
            read(content)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="2,001 x 10 pixels, more than 200 times as long as wide"):
        decode(encode(np.zeros((10, 2001), np.uint8)))
    assert decode(encode(np.zeros((10, 2000), np.uint8))).size == (2000, 10)


@pytest.mark.parametrize("read", [decode, remarks])
def test_a_small_file_that_unpacks_to_gigabytes_is_refused_before_it_does(read):
    bomb = bytearray(encode(np.zeros((1, 1), np.uint8)))
    bomb[16:24] = struct.pack(">II", 60_000, 60_000)
    bomb[29:33] = struct.pack(">I", zlib.crc32(bomb[12:29]))
    with pytest.raises(ValueError, match=r"3600000000 pixels\) exceeds limit"):
        read(bytes(bomb))


DAMAGED = {
    "empty": b"",
    "text": b"<html>not found</html>",
    "header": b"\x89PNG\r\n\x1a\n",
    "png": encode(COLOUR)[:-30],
    "jpeg": encode(COLOUR, "JPEG")[:900],
    "tiff": encode(COLOUR, "TIFF")[:900],
    "webp": encode(COLOUR, "WEBP")[:300],
    "gif": encode(COLOUR, "GIF")[:1000],
    "jpeg 2000": encode(COLOUR, "JPEG2000")[:300],
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_damaged_is_refused_in_the_same_words_each_time(name: str):
    said = set()
    for read in (decode, decode, remarks, remarks):
        with pytest.raises(ValueError, match="not an image: ") as caught:
            read(DAMAGED[name])
        said.add(str(caught.value))
    assert len(said) == 1
    assert " at 0x" not in said.pop()


def test_a_file_is_an_image_by_its_beginning_and_not_by_its_name(tmp_path: Path):
    for name, content, expected in [
        ("photo", encode(COLOUR, "JPEG"), True),
        ("photo.txt", encode(COLOUR), True),
        ("BMW.txt", b"BMW is a make of cars, and P1 a car", False),
        ("P1.txt", b"P1 is a car", False),
        ("empty", b"", False),
        ("drawing", encode(COLOUR, "EPS"), False),
    ]:
        (tmp_path / name).write_bytes(content)
        assert is_image(tmp_path / name) is expected, name
    assert not is_image(tmp_path / "nowhere")
