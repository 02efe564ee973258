"""Images that look alike are duplicates, if they are asked for: photos at another size, quality or brightness."""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from sklearn.datasets import load_sample_images

from pipeline.data import Dataset, PrepareSettings, prepare
from pipeline.data.duplicates import image_hash, near_keys
from pipeline.errors import UserError
from pipeline.params import parse


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    """Six photos: two that come with scikit-learn, and parts of them."""
    whole = [Image.fromarray(image) for image in load_sample_images().images]
    return [part for one in whole for part in (one, one.crop((0, 0, 300, 200)), one.crop((320, 200, 620, 420)))]


def changed(photo: Image.Image) -> list[bytes]:
    width, height = photo.size
    smaller = photo.resize((width // 2, height // 2), Image.Resampling.BILINEAR)
    return [encoded(photo, "JPEG", quality=40), encoded(smaller), encoded(ImageEnhance.Brightness(photo).enhance(1.1))]


def distance(one: int, other: int) -> int:
    return (one ^ other).bit_count()


def test_a_hash_survives_what_does_not_change_a_photo(photos: list[Image.Image]):
    own = [image_hash(encoded(photo)) for photo in photos]
    for photo, hashed in zip(photos, own, strict=True):
        assert hashed is not None
        assert max(distance(hashed, image_hash(other) or 0) for other in changed(photo)) <= 4
    assert min(distance(one, other) for n, one in enumerate(own) for other in own[:n]) > 12  # type: ignore[arg-type]


def test_a_hash_is_that_of_its_definition():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32)).astype(np.uint8)
    lowest = [
        sum(
            float(pixels[y, x]) * math.cos(math.pi * (2 * y + 1) * v / 64) * math.cos(math.pi * (2 * x + 1) * u / 64)
            for y in range(32)
            for x in range(32)
        )
        for v in range(8)
        for u in range(8)
    ]
    middle = sorted(lowest)
    median = (middle[31] + middle[32]) / 2
    expected = int("".join("1" if value > median else "0" for value in lowest), 2)
    assert image_hash(encoded(Image.fromarray(pixels))) == expected


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=6), st.integers(0, 8), st.integers(0, 2**32))
def test_near_hashes_share_a_number_and_no_others_do(values: list[int], bits: int, seed: int):
    random = np.random.default_rng(seed)
    for _ in range(12):  # neighbours, some nearer than `bits` and some not
        flips = random.choice(64, int(random.integers(0, 10)), replace=False)
        values.append(values[int(random.integers(len(values)))] ^ sum(1 << int(bit) for bit in flips))
    found = near_keys(np.array(values, np.uint64), bits).tolist()
    groups = list(range(len(values)))
    for n, one in enumerate(values):
        for m, other in enumerate(values[:n]):
            if distance(one, other) <= bits:
                groups = [groups[m] if group == groups[n] else group for group in groups]
    same = [[a == b for b in found] for a in found]
    assert same == [[a == b for b in groups] for a in groups]


def folder(path: Path, contents: dict[str, bytes]) -> dict[str, Any]:
    for name, content in contents.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return {"family": "image_folder", "path": str(path)}


def test_one_of_them_is_kept_and_none_is_in_train_and_test(tmp_path: Path, photos: list[Image.Image]):
    contents = {f"test/{'ab'[n % 2]}/{n}.png": encoded(photo) for n, photo in enumerate(photos[:4])}
    for n, photo in enumerate(photos):
        contents |= {f"train/{'ab'[n % 2]}/{n}-{k}": content for k, content in enumerate(changed(photo))}
    for name, grey in (("train/a/black", 0), ("train/b/white", 255)):  # of one colour, and not alike
        contents[name] = encoded(Image.new("L", (8, 8), grey))
    source = folder(tmp_path / "photos", contents)
    settings = parse(PrepareSettings, {"source": source, "deduplicate": "near", "val": 2}, "dataset")
    done = prepare(settings, tmp_path / "data")
    data = Dataset.open(tmp_path / "data")
    kept = list(data.ids)
    assert [id for id in kept if id.startswith("test/")] == [name for name in sorted(contents) if "test" in name]
    assert [id for id in kept if id.startswith("train/")] == [
        "train/a/4-0",
        "train/a/black",
        "train/b/5-0",
        "train/b/white",
    ]
    assert done.dropped["duplicate"] == 4 * 3 + 2 * 2
    assert prepare(settings.model_copy(update={"deduplicate": "exact"}), tmp_path / "data").dropped["duplicate"] == 0


def test_texts_have_no_near_duplicates(tmp_path: Path):
    (tmp_path / "t.csv").write_text("text\nsome\n")
    source = {"family": "text_table", "path": str(tmp_path / "t.csv")}
    with pytest.raises(UserError, match="near compares images, and the source holds texts; write exact or token_set"):
        prepare(parse(PrepareSettings, {"source": source, "deduplicate": "near"}, "dataset"), tmp_path / "data")
