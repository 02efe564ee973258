"""The vote of neighbours against its definition in loops, and what it must not depend on."""

import math

import numpy as np
import pytest

from pipeline.functional.knn import unit, vote


def classes_of(bank, labels, queries, numbers, classes):
    return vote(bank, np.eye(classes)[labels], queries, numbers).argmax(2)


def by_definition(bank, labels, queries, number, classes):
    """Plain loops: the cosine to every row of the bank, the nearest ones, one vote each, sums of cosines for ties."""
    chosen = []
    for query in queries:
        cosines = []
        for row in bank:
            dot = sum(a * b for a, b in zip(query, row, strict=True))
            cosines.append(dot / math.sqrt(sum(a * a for a in query)) / math.sqrt(sum(b * b for b in row)))
        near = sorted(range(len(bank)), key=lambda i: -cosines[i])[:number]
        ballots = [
            (sum(labels[i] == c for i in near), sum(cosines[i] for i in near if labels[i] == c)) for c in classes
        ]
        chosen.append(max(classes, key=lambda c: ballots[c]))
    return chosen


@pytest.mark.parametrize("seed", range(3))
def test_the_vote_is_its_definition(seed):
    random = np.random.default_rng(seed)
    bank, queries = random.normal(size=(23, 4)), random.normal(size=(40, 4))
    labels = random.integers(0, 3, 23)
    numbers = [1, 2, 4, 9, 23]
    found = classes_of(unit(bank), labels, unit(queries), numbers, 3)
    for number, chosen in zip(numbers, found, strict=True):
        assert chosen.tolist() == by_definition(bank.tolist(), labels, queries.tolist(), number, range(3))


def test_a_tie_goes_to_the_class_whose_neighbours_are_nearer_and_never_beats_a_vote_more():
    bank = unit(np.array([[1.0, 0.0], [1.0, 0.9], [1.0, 1.0], [-1.0, 0.1]]))
    labels = np.array([0, 1, 1, 0])
    query = unit(np.array([[1.0, 0.05]]))
    assert classes_of(bank, labels, query, [1, 2, 3, 4], 2)[:, 0].tolist() == [0, 0, 1, 1]


def test_lengths_do_not_matter_and_a_row_of_zeros_stays_finite():
    random = np.random.default_rng(0)
    bank, queries, labels = random.normal(size=(30, 5)), random.normal(size=(10, 5)), random.integers(0, 4, 30)
    queries[0] = 0
    scaled = bank * random.uniform(0.1, 9, (30, 1))
    plain = classes_of(unit(bank), labels, unit(queries), [3], 4)
    assert np.array_equal(classes_of(unit(scaled), labels, unit(queries), [3], 4), plain)
    assert np.isfinite(unit(queries)).all()


def test_the_same_features_twice_are_the_same_neighbours():
    random = np.random.default_rng(1)
    bank, queries, labels = random.normal(size=(50, 6)), random.normal(size=(20, 6)), random.integers(0, 3, 50)
    once = classes_of(unit(bank), labels, unit(queries), [1, 5], 3)
    twice = classes_of(unit(np.hstack([bank, bank])), labels, unit(np.hstack([queries, queries])), [1, 5], 3)
    assert np.array_equal(once, twice)
