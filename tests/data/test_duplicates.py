"""Which of several duplicates stays."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.dataset import Role
from pipeline.data.duplicates import CONFLICT, DUPLICATE, KEPT, resolve, words_digest
from pipeline.data.splits import FREE

TRAIN, VAL, TEST = int(Role.LABELLED), int(Role.VAL), int(Role.TEST)


def fates(rows: list[tuple[str, int, int]]) -> tuple[list[int], list[int]]:
    """Of rows (name, label, split)."""
    names = np.array([list(name.encode().ljust(16)) for name, _, _ in rows], dtype=np.uint8).reshape(-1, 16)
    fate, partner = resolve(names, np.array([r[1] for r in rows], int), np.array([r[2] for r in rows], int))
    return fate.tolist(), partner.tolist()


def by_definition(rows: list[tuple[str, int, int]]) -> list[bool]:
    """Which rows stay, by the docstring, one row at a time."""
    stay = []
    for number, (name, _, split) in enumerate(rows):
        copies = [(other, row[1], row[2]) for other, row in enumerate(rows) if row[0] == name]
        votes = Counter(vote for _, vote, _ in copies if vote >= 0)
        best = [label for label, count in votes.items() if count == max(votes.values())]
        if len(copies) == 1 or split == TEST:
            stay.append(True)
        elif any(where == TEST for _, _, where in copies) or len(best) > 1:
            stay.append(False)
        else:
            right = [(where != VAL, other) for other, label, where in copies if not best or label == best[0]]
            stay.append(number == min(right)[1])
    return stay


rows = st.tuples(st.sampled_from("abcdef"), st.integers(-1, 2), st.sampled_from([FREE, TRAIN, VAL, TEST]))


@given(st.lists(rows, max_size=40))
def test_rows_are_kept_by_definition(rows):
    fate, partner = fates(rows)
    assert [one == KEPT for one in fate] == by_definition(rows)
    for number, other in enumerate(partner):
        if fate[number] == KEPT:
            assert other == -1
        else:
            assert rows[other][0] == rows[number][0]
            assert other != number


@given(st.lists(rows, max_size=40))
def test_no_duplicates_are_left_outside_test(rows):
    fate, _ = fates(rows)
    left = [name for (name, _, split), one in zip(rows, fate, strict=True) if one == KEPT and split != TEST]
    tests = {name for name, _, split in rows if split == TEST}
    assert len(left) == len(set(left))
    assert tests.isdisjoint(left)


def test_the_first_of_several_duplicates_is_kept_and_the_others_name_it():
    assert fates([("a", 0, FREE), ("b", 1, FREE), ("a", 0, FREE), ("a", -1, FREE)]) == (
        [KEPT, KEPT, DUPLICATE, DUPLICATE],
        [-1, -1, 0, 0],
    )


def test_the_label_of_the_majority_is_right():
    assert fates([("a", 0, FREE), ("a", 1, FREE), ("a", 1, FREE)]) == ([CONFLICT, KEPT, DUPLICATE], [1, -1, 1])


def test_duplicates_that_contradict_each_other_evenly_are_all_dropped():
    assert fates([("a", 0, FREE), ("a", 1, FREE), ("a", -1, FREE)]) == ([CONFLICT] * 3, [1, 2, 0])


def test_a_row_with_a_label_is_kept_rather_than_one_without():
    assert fates([("a", -1, FREE), ("a", 2, FREE)]) == ([DUPLICATE, KEPT], [1, -1])


def test_rows_of_test_are_kept_whatever_labels_their_duplicates_have():
    rows = [("a", 0, TRAIN), ("a", 1, TEST), ("a", 1, TEST), ("a", 1, VAL)]
    assert fates(rows) == ([CONFLICT, KEPT, KEPT, DUPLICATE], [1, -1, -1, 1])


@pytest.mark.parametrize(
    ("one", "other", "copies"),
    [
        ("Thank you, United!", "united thank THANK you", True),
        ("a b", "ab", False),
        ("Straße 5", "straße, 5", True),
        (":)", ":(", False),
        (":)", ":)", True),
        ("not good", "good", False),
    ],
)
def test_texts_with_the_same_set_of_words_are_duplicates(one: str, other: str, copies: bool):
    assert (words_digest(one) == words_digest(other)) == copies
