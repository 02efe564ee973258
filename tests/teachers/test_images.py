import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import InterpolationMode, functional

from pipeline.teachers._images import resized_centre

SIZES = [(640, 427), (512, 512), (427, 640), (100, 201), (90, 64), (300, 7), (37, 37), (1024, 768), (24, 23)]
"""Of images, width and height: photographs, upright ones, squares, and what is enlarged."""

CROPS = [(256, (224, 224)), (64, (56, 60)), (235, (224, 224)), (96, (96, 96)), (32, (40, 28)), (128, (90, 20))]
"""What the shorter side is resized to, and height and width of the centre; one is larger than some images then."""


@pytest.mark.parametrize("way", ["BICUBIC", "BILINEAR", "LANCZOS", "NEAREST", "NEAREST_EXACT"])
def test_the_centre_of_a_resized_image_has_the_pixels_of_torchvision(way: str):
    """Also a guard on Pillow, which promises no order of rows and columns."""
    how, rng = InterpolationMode[way], np.random.default_rng(0)
    for width, height in SIZES:
        # Black and white: what is rounded otherwise shows most.
        image = Image.fromarray(rng.integers(0, 2, (height, width, 3), dtype=np.uint8) * 255)
        for shorter, crop in CROPS:
            for each in (image, image.convert("L")):
                expected = functional.center_crop(functional.resize(each, [shorter], how), list(crop))
                found = resized_centre(each, shorter, crop, how)
                assert np.array_equal(np.asarray(found), np.asarray(expected)), (each, shorter, crop)
