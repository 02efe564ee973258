"""1,797 handwritten digits, 8 x 8 grey, that come with scikit-learn: a real dataset for quick tests.

Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998 (the
test part).
"""

import gzip
from collections.abc import Iterator

import numpy as np

from pipeline.datasets import Row
from pipeline.packages import packaged
from pipeline.params import Settings as Section

KIND = "image"
TASK = "classification"


class Settings(Section):
    """The digits have no settings."""


def rows(settings: Settings) -> Iterator[Row]:
    """The images as binary PGM with pixel values 0 to 16, in the order of the file; ids are numbers from 1."""
    path = packaged("sklearn", "datasets/data/digits.csv.gz", "pip install scikit-learn")
    with gzip.open(path, "rt", encoding="ascii") as file:
        for number, line in enumerate(file, start=1):
            *pixels, label = np.fromstring(line, dtype=np.float64, sep=",").astype(np.uint8)
            yield Row(str(number), b"P5 8 8 16\n" + bytes(pixels), str(label))
