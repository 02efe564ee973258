"""Counter-based random numbers: the published ones, in any order and number."""

import numpy as np
import pytest

from pipeline.functional.philox import philox, uniforms


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_the_words_are_those_that_its_authors_publish(counter: str, key: str, words: str):
    counters, keys, expected = (
        np.array([int(word, 16) for word in t.split()], np.uint32) for t in (counter, key, words)
    )
    assert philox(counters[:, None], keys)[:, 0].tolist() == expected.tolist()


def test_numbers_follow_from_key_row_and_epoch_alone():
    rows = np.array([5, 0, 2**32 - 1, 7])
    found = uniforms("1:crop", rows, 3, 6)
    assert np.array_equal(uniforms("1:crop", rows[::-1], 3, 6)[::-1], found)
    assert np.array_equal(uniforms("1:crop", rows[2:3], 3, 6), found[2:3])
    assert np.array_equal(uniforms("1:crop", rows, 3, 2), found[:, :2])
    for other in (uniforms("1:crop", rows, 4, 6), uniforms("11:crop", rows, 3, 6), uniforms("1:flip", rows, 3, 6)):
        assert not (other == found).any()


def test_numbers_are_uniform_and_never_0_or_1():
    found = uniforms("0:x", np.arange(20_000), 0, 5)
    assert found.min() > 0 and found.max() < 1
    assert np.histogram(found, 10, (0, 1))[0].min() > 9_500
    assert np.abs(np.corrcoef(found.T) - np.eye(5)).max() < 0.03
    assert uniforms("0:x", np.arange(0), 0, 5).shape == (0, 5)
