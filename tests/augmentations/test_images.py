"""Operations on batches of images against their definition for one image: torchvision, or a plain loop."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import RandAugment, TrivialAugmentWide, functional

from pipeline.augmentations import _policy, colour, crop, cutmix, erase, flip, mixup, rand_augment, trivial_augment
from pipeline.augmentations._pixels import box_mask

SIZE = 16


@pytest.fixture(scope="module", params=[1, 3])
def images(request: pytest.FixtureRequest) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(24, request.param, 5, 5, generator=generator)
    return torch.nn.functional.interpolate(small, size=SIZE, mode="bicubic").clamp(0, 1)


def numbers(count: int, rows: int = 24) -> np.ndarray:
    return np.random.default_rng(1).random((rows, count))


def test_a_crop_is_the_resized_box(images: Tensor):
    settings = crop.Settings(smallest=0.2)
    drawn = numbers(4)
    found = crop.change(settings, images, drawn)
    for row, (area, shape, across, down) in enumerate(drawn):
        area, ratio = 0.2 + 0.8 * area, math.exp((2 * shape - 1) * math.log(4 / 3))
        width, height = min(1, math.sqrt(area * ratio)), min(1, math.sqrt(area / ratio))
        left, top = across * (1 - width), down * (1 - height)
        for y in (0, 7, 15):
            for x in (0, 5, 15):
                # The centre of the pixel, in pixels of the image, then bilinear by hand.
                px = (left + (x + 0.5) / SIZE * width) * SIZE - 0.5
                py = (top + (y + 0.5) / SIZE * height) * SIZE - 0.5
                value = torch.zeros(images.shape[1])
                for iy, wy in ((math.floor(py), 1 - py % 1), (math.floor(py) + 1, py % 1)):
                    for ix, wx in ((math.floor(px), 1 - px % 1), (math.floor(px) + 1, px % 1)):
                        value += wx * wy * images[row, :, min(max(iy, 0), 15), min(max(ix, 0), 15)]
                torch.testing.assert_close(found[row, :, y, x], value, atol=1e-4, rtol=0)


def test_flip_is_that_of_torchvision_for_its_share(images: Tensor):
    drawn = numbers(1)
    found = flip.change(flip.Settings(share=0.4), images, drawn)
    for row, number in enumerate(drawn[:, 0]):
        expected = functional.horizontal_flip(images[row]) if number < 0.4 else images[row]
        assert torch.equal(found[row], expected)


def test_colours_are_those_of_torchvision(images: Tensor):
    drawn = numbers(3)
    found = colour.change(colour.Settings(strength=0.6), images, drawn)
    for row, factors in enumerate((0.4 + 1.2 * drawn).tolist()):
        image = functional.adjust_brightness(images[row], factors[0])
        image = functional.adjust_contrast(image, factors[1])
        torch.testing.assert_close(found[row], functional.adjust_saturation(image, factors[2]), atol=1e-3, rtol=0)


def test_a_mask_is_the_share_of_each_pixel_inside_the_box():
    drawn = np.array([[0.25, 0.5, 0.5, 0.25], [0.1, 0.0, 0.33, 0.9], [0.3, 0.3, 0.0, 0.0], [0, 0, 1, 1]])
    mask = box_mask(drawn, torch.zeros(4, 1, 8, 8))
    for row, (left, top, width, height) in enumerate(drawn):
        for y in range(8):
            for x in range(8):
                inside_x = max(0.0, min(8 * (left + width), x + 1) - max(8 * left, x))
                inside_y = max(0.0, min(8 * (top + height), y + 1) - max(8 * top, y))
                assert mask[row, 0, y, x].item() == pytest.approx(inside_x * inside_y, abs=1e-5)
    np.testing.assert_allclose(mask.mean((1, 2, 3)), drawn[:, 2] * drawn[:, 3], atol=1e-6)


def test_erasing_a_box_of_whole_pixels_is_that_of_torchvision(images: Tensor):
    # A quarter of the area, square, at a place on the grid: 8 of 16 pixels a side, from pixel 2 and 4.
    settings = erase.Settings(share=0.5, smallest=0.25, largest=0.25, ratio=1.0)
    drawn = np.tile([0.0, 0.3, 0.7, 2 / 8, 4 / 8], (24, 1))
    drawn[::2, 0] = 0.9
    found = erase.change(settings, images, drawn)
    for row in range(24):
        mean = images[row].mean((1, 2), keepdim=True)
        expected = functional.erase(images[row], 4, 2, 8, 8, mean) if row % 2 else images[row]
        torch.testing.assert_close(found[row], expected, atol=1e-6, rtol=0)


def test_erased_areas_are_as_asked():
    found = erase.change(erase.Settings(share=1.0), torch.eye(16).expand(500, 1, 16, 16), numbers(5, 500))
    areas = (found == 1 / 16).float().mean((1, 2, 3))
    assert areas.max() < 0.34 and 0.1 < areas.mean() < 0.2


def test_mixup_is_the_weighted_mean(images: Tensor):
    drawn = numbers(1)
    shares = mixup.share(mixup.Settings(), drawn)
    others = images.flip(0)
    found = mixup.mix(mixup.Settings(), images, others, drawn)
    for row, share in enumerate(shares):
        torch.testing.assert_close(found[row], float(share) * images[row] + float(1 - share) * others[row])
    many = mixup.share(mixup.Settings(alpha=0.5), numbers(1, 20_000))
    assert many.mean() == pytest.approx(0.5, abs=0.01)
    assert many.var() == pytest.approx(1 / 8, abs=0.005)  # 1 / (4 (2 alpha + 1))


def test_cutmix_pastes_a_box_and_the_share_is_its_area(images: Tensor):
    settings, drawn, others = cutmix.Settings(), numbers(3), images.flip(0)
    shares, found = cutmix.share(settings, drawn), cutmix.mix(settings, images, others, drawn)
    for row, (area, across, down) in enumerate(drawn):
        half = math.sqrt(area) / 2  # Beta(1, 1) is uniform
        left, right = max(0, across - half), min(1, across + half)
        top, bottom = max(0, down - half), min(1, down + half)
        assert shares[row] == pytest.approx(1 - (right - left) * (bottom - top))
        for y in range(SIZE):
            for x in range(SIZE):
                pasted = max(0, min(right, (x + 1) / SIZE) - max(left, x / SIZE)) * SIZE
                pasted *= max(0, min(bottom, (y + 1) / SIZE) - max(top, y / SIZE)) * SIZE
                expected = (1 - pasted) * images[row, :, y, x] + pasted * others[row, :, y, x]
                torch.testing.assert_close(found[row, :, y, x], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(trivial_augment.SPACE, TrivialAugmentWide), (rand_augment.SPACE, RandAugment)],
    ids=["trivial", "rand"],
)
@pytest.mark.parametrize("operation", _policy.OPERATIONS)
def test_operations_are_those_of_torchvision(images: Tensor, ours: _policy.Space, theirs: type, operation: str):
    definition = theirs(interpolation=InterpolationMode.BILINEAR)
    magnitudes, signed = definition._AUGMENTATION_SPACE[operation]
    values = magnitudes(_policy.BINS, SIZE, SIZE)
    # Not the middle one, which is half a whole number of pixels less a rounding error there.
    bins = np.delete(np.arange(4, 29), 11)
    signs = np.where(np.arange(24) % 3, 1.0, -1.0)
    found = _policy.apply(images, ours, np.full(24, _policy.OPERATIONS.index(operation)), bins / 30, signs)
    for row in range(24):
        magnitude = 0.0 if values is None else float(values[bins[row]]) * (signs[row] if signed else 1)
        expected = definition._apply_image_or_video_transform(
            images[row], operation, magnitude, InterpolationMode.BILINEAR, {Tensor: None}
        )
        # A pixel on a threshold may fall on either side, by rounding.
        assert ((found[row] - expected).abs() > 1e-3).float().mean() < 0.01


def test_each_image_has_an_operation_of_its_own(images: Tensor):
    operations = np.arange(24) % len(_policy.OPERATIONS)
    levels, signs = np.full(24, 0.5), np.ones(24)
    whole = _policy.apply(images, trivial_augment.SPACE, operations, levels, signs)
    for row in range(24):
        at = slice(row, row + 1)
        alone = _policy.apply(images[at], trivial_augment.SPACE, operations[at], levels[at], signs[at])
        torch.testing.assert_close(whole[at], alone)
    # All operations are drawn, and the weakest strength of most of them changes nothing.
    drawn = np.random.default_rng(0).random((500, 3))
    assert set((len(_policy.OPERATIONS) * drawn[:, 0]).astype(int)) == set(range(14))
    still = rand_augment.change(rand_augment.Settings(strength=0), images, np.full((24, 4), 0.1))
    torch.testing.assert_close(still, images)
