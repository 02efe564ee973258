"""Complementarity against its definition in loops, and at the ends of its scale."""

import numpy as np
import pytest

from pipeline.functional.agreement import gain, one_right
from pipeline.functional.statistics import paired


def test_one_right_is_its_definition():
    random = np.random.default_rng(0)
    one, other = random.random(200) < 0.7, random.random(200) < 0.4
    share = chance = 0.0
    for mine, theirs in zip(one, other, strict=True):
        share += (mine and not theirs) + (theirs and not mine)
        for again in other:  # every row of one with every row of the other: independent by construction
            chance += bool(mine) != bool(again)
    assert one_right(one, other) == pytest.approx((share / 200, chance / 200**2))
    assert one_right(other, one) == pytest.approx(one_right(one, other))


def test_a_classifier_has_nothing_to_add_to_itself():
    hits = np.array([True, True, False, True])
    assert one_right(hits, hits) == (0.0, pytest.approx(0.375))
    scores = [hits.astype(float), (~hits).astype(float)]
    assert gain(scores, scores).mean == 0
    assert gain(scores, scores).inside_noise


def test_classifiers_that_are_right_where_the_other_errs_are_above_chance():
    hits = np.array([True, True, False, False])
    share, chance = one_right(hits, ~hits)
    assert share == 1 > chance == 0.5


def test_the_gain_is_paired_by_split():
    random = np.random.default_rng(1)
    ours, theirs = ([random.normal(mean, size=50) for _ in range(4)] for mean in (0.8, 0.6))
    differences = [sum(a) / 50 - sum(b) / 50 for a, b in zip(ours, theirs, strict=True)]
    assert gain(ours, theirs).mean == pytest.approx(paired(differences).mean)
    assert gain(ours, theirs).low == pytest.approx(paired(differences).low)
    assert gain(ours, theirs).n == 4


def test_a_single_split_is_compared_row_by_row():
    ours, theirs = np.array([1.0, 1.0, 0.0, 1.0, 1.0]), np.array([1.0, 0.0, 1.0, 0.0, 1.0])
    found = gain([ours], [theirs])
    assert found == paired([0.0, 1.0, -1.0, 1.0, 0.0])
    assert found.low is not None
