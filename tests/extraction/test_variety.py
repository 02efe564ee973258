import re

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.extraction.variety import Variety


def digests(rows: int, first: int = 0) -> np.ndarray:
    """Of rows that differ."""
    numbers = np.arange(first, first + rows, dtype="<u8")
    return np.stack([numbers, numbers], 1).view(np.uint8).reshape(rows, 16)


def features(rows: int, width: int = 4) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(rows, width)).astype(np.float32)


def test_features_that_differ_pass_in_every_dtype() -> None:
    values = features(40)
    for kept in (values, values.astype(np.float16), (values.view(np.uint32) >> 16).astype(np.uint16)):
        Variety("t.zarr").check(digests(40), {"pooled": kept})


def test_the_same_features_for_most_rows_are_refused_by_name() -> None:
    values = features(40)
    values[:21] = values[0]
    with pytest.raises(UserError, match=re.escape("t.zarr: head `cls`: 21 of 40 rows that differ have the same")):
        Variety("t.zarr").check(digests(40), {"pooled": features(40), "cls": values})
    values[20] += 1
    Variety("t.zarr").check(digests(40), {"cls": values})


def test_rows_that_are_really_equal_count_once() -> None:
    same = np.repeat(digests(8), 30, axis=0)
    Variety("t.zarr").check(same, {"pooled": np.repeat(features(8), 30, axis=0)})
    Variety("t.zarr").check(np.repeat(digests(1), 50, axis=0), {"pooled": np.ones((50, 4), np.float32)})


def test_small_shards_are_looked_at_together() -> None:
    variety = Variety("t.zarr")
    with pytest.raises(UserError, match="9 of 9 rows"):
        for first in range(0, 300, 3):
            variety.check(digests(3, first), {"pooled": np.ones((3, 4), np.float16)})


def test_few_different_features_are_refused() -> None:
    values = features(200)
    values[:] = values[np.arange(200) % 12]
    with pytest.raises(UserError, match="200 rows that differ have only 12 different features"):
        Variety("t.zarr").check(digests(200), {"pooled": values})


def test_features_that_differ_by_rounding_alone_are_refused() -> None:
    values = features(40)
    with pytest.raises(UserError, match=r"40 rows that differ are equal up to [12]\.\de-04 of their size"):
        Variety("t.zarr").check(digests(40), {"pooled": 5 + 1e-3 * values})
    Variety("t.zarr").check(digests(40), {"pooled": 5 + 1e-1 * values})


def test_a_few_large_features_that_hardly_change_hide_nothing() -> None:
    values = features(40, 64)
    values[:, 3] = 3000
    values[:, 5] = 0
    Variety("t.zarr").check(digests(40), {"pooled": values})


def test_what_is_not_finite_is_left_to_the_writer() -> None:
    Variety("t.zarr").check(digests(40), {"pooled": np.full((40, 4), np.nan, np.float32)})
