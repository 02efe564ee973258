"""The recommendation: the smallest subset inside the noise of the best, and sentences that say no more than that."""

from dataclasses import replace

import pytest

from pipeline.functional.statistics import paired
from pipeline.probing.assessment import Pair, Score, Subset
from pipeline.probing.recommendation import recommend

COSTS = {"a": (768.0, 0.001), "b": (1536.0, 0.004), "c": (768.0, 0.002)}


def subset(name, *val, test=0.5):
    teachers = tuple(name)
    scores = tuple(Score(k, 0.1, accuracy, 1.0, test, 5, accuracy - 0.1, test, -0.5) for k, accuracy in enumerate(val))
    size = sum(COSTS[t][0] for t in teachers)
    return Subset(teachers, int(size / 2), size, sum(COSTS[t][1] for t in teachers), scores, None, None, None, 1.0)


def told(*subsets):
    """The subsets with their comparisons, by plain means over draws."""

    def difference(one, other):
        return paired([x.val_accuracy - y.val_accuracy for x, y in zip(one.scores, other.scores, strict=True)])

    best = max(subsets, key=lambda s: s.val_accuracy)
    done = []
    for one in subsets:
        parts = [part for part in subsets if set(part.teachers) < set(one.teachers)]
        part = max(parts, key=lambda s: s.val_accuracy) if parts else None
        done.append(
            replace(
                one,
                against_best=None if one is best else difference(one, best),
                best_part=part and part.teachers,
                gain=part and difference(one, part),
            )
        )
    pairs = [
        Pair((x.teachers[0], y.teachers[0]), (0.5,), (0.2, 0.2), (0.3, 0.3))
        for k, x in enumerate(subsets) for y in subsets[k + 1 :] if len(x.teachers) == len(y.teachers) == 1
    ]  # fmt: skip
    return recommend(done, pairs)


def test_a_second_teacher_that_adds_nothing_beyond_the_noise_is_left_out():
    chosen, reasons = told(subset("a", 0.80, 0.82, 0.81), subset("b", 0.60, 0.61, 0.59), subset("ab", 0.82, 0.81, 0.82))
    assert chosen.teachers == ("a",)
    assert (
        "Use a alone: its probe gets 81.0% of the validation rows right, which is within the noise of the best, a + b"
        in reasons[0]
    )
    assert reasons[1].startswith("A second teacher shows no gain beyond the noise")
    assert "right on 20.0% of the rows, 30.0% were" in reasons[1]
    assert reasons[2] == "a takes 33% of the bytes a row and 20% of the extraction time of a + b."


def test_a_second_teacher_that_helps_is_taken():
    chosen, reasons = told(
        subset("a", 0.80, 0.82, 0.81), subset("b", 0.70, 0.71, 0.69), subset("ab", 0.90, 0.92, 0.905)
    )
    assert chosen.teachers == ("a", "b")
    assert "the most of 3 subsets, and no smaller one is within the noise of it." in reasons[0]
    assert reasons[1].startswith("A second teacher helps: the best pair, a + b, against a alone is +9.8 points")
    assert len(reasons) == 2


def test_a_second_teacher_that_harms_is_said_to():
    chosen, reasons = told(
        subset("a", 0.80, 0.82, 0.81), subset("b", 0.30, 0.31, 0.29), subset("ab", 0.70, 0.722, 0.71)
    )
    assert chosen.teachers == ("a",)
    assert "the most of 3 subsets." in reasons[0]
    assert reasons[1].startswith("A second teacher does harm")


def test_among_equals_a_much_cheaper_one_is_mentioned():
    chosen, reasons = told(subset("a", 0.80, 0.82, 0.81), subset("b", 0.81, 0.82, 0.81), subset("ab", 0.80, 0.81, 0.80))
    assert chosen.teachers == ("b",)
    assert reasons[-1] == (
        "a is within the noise as well, and takes 50% of the bytes a row and 25% of the extraction time."
    )


def test_of_equal_scores_the_smaller_then_the_cheaper_one_is_taken():
    same = (0.8, 0.7, 0.9)
    for names in (("a", "b", "ab"), ("ab", "b", "a"), ("b", "ab", "a")):
        assert told(*(subset(name, *same) for name in names))[0].teachers == ("a",)


def test_one_teacher_is_nothing_to_choose_from():
    chosen, reasons = told(subset("a", 0.8, 0.7))
    assert chosen.teachers == ("a",)
    assert reasons == (
        "a is the only teacher, so there is nothing to choose: its probe gets 75.0% of the validation rows right, "
        "its nearest neighbours 65.0%.",
    )


@pytest.mark.parametrize("test", [0.0, 1.0, None])
def test_test_scores_are_not_looked_at(test):
    plain = [subset("a", 0.80, 0.82, 0.81), subset("b", 0.70, 0.71, 0.69), subset("ab", 0.90, 0.92, 0.905)]
    other = [subset("a", 0.80, 0.82, 0.81, test=test), *plain[1:]]
    assert told(*other)[1] == told(*plain)[1]
    assert told(*other)[0].teachers == told(*plain)[0].teachers
