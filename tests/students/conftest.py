"""A dataset of small pictures."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data import Dataset, PrepareSettings, prepare


def write_pictures(root: Path, count: int = 40) -> Dataset:
    """Small colour pictures of uneven size in two classes."""
    random = np.random.default_rng(0)
    for number in range(count):
        folder = root / "raw" / ("dark", "light")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        level = (60, 190)[number % 2]
        pixels = random.integers(level - 50, level + 50, (20 + number % 7, 24, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    source = {"family": "image_folder", "path": str(root / "raw")}
    prepare(PrepareSettings(source=source, val=6, test=8), root / "data")
    return Dataset.open(root / "data")


@pytest.fixture
def pictures(tmp_path: Path) -> Dataset:
    """Forty pictures, for one test to change."""
    return write_pictures(tmp_path)
