"""The spread of mean predictions, against its formula in plain loops, and what it must not depend on."""

import math

import numpy as np
import pytest

from pipeline.functional.spread import spread_of_means


def predictions(views: int, rows: int = 12, classes: int = 3) -> np.ndarray:
    found = np.random.default_rng(0).random((views, rows, classes))
    return found / found.sum(2, keepdims=True)


def in_loops(of: list[list[list[float]]], rows: int, seed: int, groups: int) -> float:
    """The docstring's formula. Which rows and views a group has is drawn as documented: rows apart from views."""
    random, of_views = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
    classes = len(of[0][0])
    means = []
    for _ in range(groups):
        views = of_views.integers(len(of), size=rows).tolist()
        members = random.permutation(len(of[0])).tolist()[:rows]
        chosen = [of[view][row] for view, row in zip(views, members, strict=True)]
        means.append([sum(row[k] for row in chosen) / rows for k in range(classes)])
    total = 0.0
    for k in range(classes):
        centre = sum(mean[k] for mean in means) / groups
        total += math.sqrt(sum((mean[k] - centre) ** 2 for mean in means) / (groups - 1))
    return total / classes


@pytest.mark.parametrize("views", [1, 3])
def test_it_is_its_formula(views: int):
    of = predictions(views)
    assert spread_of_means(of, 4, 7, 9) == pytest.approx(in_loops(of.tolist(), 4, 7, 9))


def test_views_that_are_the_clean_rows_change_nothing():
    of = predictions(1)
    assert spread_of_means(np.repeat(of, 4, axis=0), 5, 1) == pytest.approx(spread_of_means(of, 5, 1))


def test_equal_predictions_do_not_move_and_softer_ones_move_less():
    of = predictions(2)
    assert spread_of_means(np.full((2, 12, 3), 1 / 3), 4, 0) == pytest.approx(0, abs=1e-12)
    assert spread_of_means(1 / 3 + (of - 1 / 3) / 2, 4, 0) == pytest.approx(spread_of_means(of, 4, 0) / 2)
    assert spread_of_means(of, 12, 0) < spread_of_means(of, 3, 0)
    assert spread_of_means(of[:1], 12, 0) == pytest.approx(0, abs=1e-12)  # a group of all rows has one mean
