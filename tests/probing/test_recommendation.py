"""The recommendation: the smallest subset inside the noise of the best, and sentences that say no more than that."""

import pytest

from pipeline.functional.statistics import paired
from pipeline.probing.recommendation import recommend
from pipeline.records import Metric, PairRecord, SubsetRecord, SubsetScores

BYTES = {"a": 768.0, "b": 1536.0, "c": 768.0}
ACCURACY = Metric(name="accuracy", label="accuracy", unit="%")


def subset(name, *val, test=0.5):
    scores = tuple(
        SubsetScores(
            split=k,
            strength=0.1,
            val={"accuracy": accuracy},
            test={} if test is None else {"accuracy": test},
            neighbours=5,
            knn_val={"accuracy": accuracy - 0.1},
            knn_test={},
            logme=-0.5,
        )
        for k, accuracy in enumerate(val)
    )
    size = sum(BYTES[t] for t in name)
    return SubsetRecord(
        sources=tuple(name), width=int(size / 2), bytes_per_row=size, scores=scores, against_best=None,
        best_part=None, gain=None,
    )  # fmt: skip


def told(*subsets, metric=ACCURACY):
    """The recommendation for subsets with their comparisons, by plain means over splits."""

    def mean(subset):
        return subset.mean("val", "accuracy") * (1 if metric.higher_is_better else -1)

    def difference(one, other):
        return paired([x.val["accuracy"] - y.val["accuracy"] for x, y in zip(one.scores, other.scores, strict=True)])

    best = max(subsets, key=mean)
    done = []
    for one in subsets:
        parts = [part for part in subsets if set(part.sources) < set(one.sources)]
        part = max(parts, key=mean) if parts else None
        changes = {
            "against_best": None if one is best else difference(one, best),
            "best_part": part and part.sources,
            "gain": part and difference(one, part),
        }
        done.append(one.model_copy(update=changes))
    pairs = [
        PairRecord(sources=(x.sources[0], y.sources[0]), cka=(0.5,), one_right=(0.2, 0.2), by_chance=(0.3, 0.3))
        for k, x in enumerate(subsets) for y in subsets[k + 1 :] if len(x.sources) == len(y.sources) == 1
    ]  # fmt: skip
    return recommend(done, pairs, metric)


def test_a_second_source_that_adds_nothing_beyond_the_noise_is_left_out():
    chosen, reasons = told(subset("a", 0.80, 0.82, 0.81), subset("b", 0.60, 0.61, 0.59), subset("ab", 0.82, 0.81, 0.82))
    assert chosen.sources == ("a",)
    assert (
        "Use a alone: the validation accuracy of its probe is 81.0%, within the noise of the best, a + b" in reasons[0]
    )
    assert reasons[1].startswith("A second source shows no gain beyond the noise")
    assert "right on 20.0% of the rows, 30.0% if" in reasons[1]
    assert reasons[2] == "a takes 33% of the bytes per row of a + b."


def test_a_second_source_that_helps_is_taken():
    chosen, reasons = told(
        subset("a", 0.80, 0.82, 0.81), subset("b", 0.70, 0.71, 0.69), subset("ab", 0.90, 0.92, 0.905)
    )
    assert chosen.sources == ("a", "b")
    assert "the best of 3 subsets, and no smaller one is within the noise of it." in reasons[0]
    assert reasons[1].startswith("A second source helps: the best pair, a + b, against a alone is +9.8 points")
    assert len(reasons) == 2


def test_a_second_source_that_harms_is_left_out():
    chosen, reasons = told(
        subset("a", 0.80, 0.82, 0.81), subset("b", 0.30, 0.31, 0.29), subset("ab", 0.70, 0.722, 0.71)
    )
    assert chosen.sources == ("a",)
    assert "the best of 3 subsets." in reasons[0]
    assert reasons[1].startswith("A second source makes it worse")


def test_among_equals_a_much_cheaper_one_is_mentioned():
    chosen, reasons = told(subset("a", 0.80, 0.82, 0.81), subset("b", 0.81, 0.82, 0.81), subset("ab", 0.80, 0.81, 0.80))
    assert chosen.sources == ("b",)
    assert reasons[-1] == ("a is within the noise as well, and takes 50% of the bytes per row.")


def test_of_equal_scores_the_smaller_then_the_cheaper_one_is_taken():
    same = (0.8, 0.7, 0.9)
    for names in (("a", "b", "ab"), ("ab", "b", "a"), ("b", "ab", "a")):
        assert told(*(subset(name, *same) for name in names))[0].sources == ("a",)


def test_one_source_is_nothing_to_choose_from():
    chosen, reasons = told(subset("a", 0.8, 0.7))
    assert chosen.sources == ("a",)
    assert reasons == (
        "a is the only source, so there is nothing to choose: the validation accuracy of its probe is 75.0%, of its "
        "nearest neighbours 65.0%.",
    )


@pytest.mark.parametrize("test", [0.0, 1.0, None])
def test_test_scores_are_not_looked_at(test):
    plain = [subset("a", 0.80, 0.82, 0.81), subset("b", 0.70, 0.71, 0.69), subset("ab", 0.90, 0.92, 0.905)]
    other = [subset("a", 0.80, 0.82, 0.81, test=test), *plain[1:]]
    assert told(*other)[1] == told(*plain)[1]
    assert told(*other)[0].sources == told(*plain)[0].sources


def test_for_a_loss_less_is_better_and_the_unit_is_its_own():
    loss = Metric(name="accuracy", label="RMSE", unit="kWh", higher_is_better=False)
    chosen, reasons = told(
        subset("a", 0.80, 0.82, 0.81), subset("b", 0.90, 0.91, 0.89), subset("ab", 0.70, 0.71, 0.695), metric=loss
    )
    assert chosen.sources == ("a", "b")
    assert "the validation RMSE of its probe is 0.7017 kWh, the best of 3 subsets" in reasons[0]
    assert reasons[1].startswith(
        "A second source helps: the best pair, a + b, against a alone is \N{MINUS SIGN}0.108 kWh"
    )
