"""Runs compared with plain training of their student: who is paired with whom, and which way is better."""

import pytest

from pipeline.functional.statistics import gap_closed, holm, paired
from pipeline.reporting.inputs import read_inputs

from .records import AFT, KD, NONE, REGRESSION, Workspace


@pytest.fixture
def project(tmp_path):
    return Workspace(tmp_path)


def inputs(project, *names):
    return read_inputs(project.params(*names), project.project, ())


def compare(project, *names):
    return inputs(project, *names).comparisons


def outcomes(project, *names):
    return {o.name: o for comparison in compare(project, *names) for o in comparison.outcomes}


def test_differences_are_taken_seed_by_seed(project):
    project.run("none", NONE, methods=[])
    project.run("kd", KD)
    differences = [x - y for x, y in zip(KD, NONE, strict=True)]
    found = outcomes(project, "none", "kd")
    assert found["kd"].differences == pytest.approx(differences)
    assert found["kd"].difference == paired(found["kd"].differences)
    assert found["none"].difference is None


def test_every_student_has_its_own_baseline(project):
    project.run("none", NONE, methods=[])
    project.run("kd", KD)
    project.run("plain_cnn", [x + 0.2 for x in NONE], methods=[], student="cnn")
    project.run("aft_cnn", [x + 0.2 for x in AFT], student="cnn")
    bag, cnn = compare(project, "none", "aft_cnn", "kd", "plain_cnn")
    assert (bag.student.name, cnn.student.name) == ("bag", "cnn")
    assert (bag.baseline.name, cnn.baseline.name) == ("none", "plain_cnn")
    assert [o.name for o in cnn.outcomes] == ["plain_cnn", "aft_cnn"]
    assert cnn.outcomes[1].differences == pytest.approx([x - y for x, y in zip(AFT, NONE, strict=True)])


def test_a_student_of_features_is_compared_with_plain_training_of_another(project):
    project.run("probe", AFT, methods=[], student="head", reads="features")
    project.run("worse", KD, methods=[], student="head", reads="features", teachers=("minilm", "bge"))
    project.run("none", NONE, methods=[])
    head, bag = compare(project, "probe", "worse", "none")
    assert head.baseline is bag.baseline
    assert [o.name for o in head.outcomes] == ["probe", "worse"]
    assert head.outcomes[0].differences == pytest.approx([x - y for x, y in zip(AFT, NONE, strict=True)])
    assert [o.verdict for o in head.outcomes] == ["gain", "noise"]
    assert not any(o.plain for o in head.outcomes)
    assert [reference.name for reference in head.references] == ["minilm", "minilm + bge"]


def test_a_student_of_features_is_compared_with_nothing_if_no_plain_training_has_its_seeds(project):
    project.run("none", NONE[:3], methods=[])
    project.run("probe", AFT, methods=[], student="head", reads="features")
    _, head = compare(project, "none", "probe")
    assert head.baseline is None
    assert head.outcomes[0].verdict == "unpaired"


def test_of_several_plain_runs_the_one_called_none_is_the_baseline(project):
    project.run("early", KD, methods=[])
    project.run("none", NONE, methods=[])
    (comparison,) = compare(project, "early", "none")
    assert comparison.baseline.name == "none"
    assert comparison.outcomes[1].verdict == "noise"


def test_without_plain_training_nothing_is_compared(project):
    project.run("kd", KD)
    (comparison,) = compare(project, "kd")
    assert comparison.baseline is None
    assert comparison.outcomes[0].verdict == "unpaired"


def test_runs_keep_their_order_between_plain_training_and_controls(project):
    for name in ("b", "a"):
        project.run(name, KD)
    project.run("control", NONE, shuffled=True)
    project.run("none", NONE, methods=[])
    (comparison,) = compare(project, "control", "b", "a", "none")
    assert [o.name for o in comparison.outcomes] == ["none", "b", "a", "control"]


def test_p_values_of_all_students_are_adjusted_together_and_identical_runs_are_no_test(project):
    project.run("none", NONE, methods=[])
    project.run("kd", KD)
    project.run("zero", NONE, weights=(0.0, 1.0), chosen=0.0)
    project.run("plain_cnn", NONE, methods=[], student="cnn")
    project.run("aft", AFT, student="cnn")
    found = outcomes(project, "none", "kd", "zero", "plain_cnn", "aft")
    raw = [paired([x - y for x, y in zip(run, NONE, strict=True)]).p for run in (KD, AFT)]
    assert [found["kd"].p, found["aft"].p] == pytest.approx(holm(raw))
    assert found["zero"].p is None


@pytest.mark.parametrize(
    ("accuracies", "options", "verdict"),
    [
        (AFT, {}, "gain"),
        (KD, {}, "noise"),
        ([x - 0.03 for x in NONE], {}, "loss"),
        (NONE, {"weights": (0.0, 3.0), "chosen": 0.0}, "zero"),
        (NONE, {}, "noise"),
    ],
)
def test_the_verdict_follows_the_interval(project, accuracies, options, verdict):
    project.run("none", NONE, methods=[])
    project.run("it", [a + d for a, d in zip(accuracies, (0.001, -0.001, 0, 0, 0), strict=True)], **options)
    assert outcomes(project, "none", "it")["it"].verdict == verdict


def test_one_seed_is_no_verdict(project):
    project.run("none", NONE[:1], methods=[])
    project.run("aft", AFT[:1])
    found = outcomes(project, "none", "aft")["aft"]
    assert found.verdict == "single"
    assert (found.p, found.gap.low) == (None, None)


def test_the_gap_reaches_to_the_probe_of_the_runs_own_teachers(project):
    project.run("none", NONE, methods=[])
    project.run("aft", AFT, probe=0.70)
    project.run("kd", AFT, teachers=("large",), probe=0.75)
    (comparison,) = compare(project, "none", "aft", "kd")
    gain = sum(AFT) - sum(NONE)
    for outcome, reference in zip(comparison.outcomes[1:], comparison.references, strict=True):
        probe = [result.scores["accuracy"] for result in outcome.evaluation.probe]
        assert outcome.gap.share == pytest.approx(gain / (sum(probe) - sum(NONE)))
        assert reference.mean == pytest.approx(sum(probe) / 5)
        assert reference.difference == pytest.approx((sum(probe) - sum(NONE)) / 5)
    assert [reference.name for reference in comparison.references] == ["minilm", "large"]


def test_the_curve_is_that_of_the_chosen_weight_only(project):
    project.run("kd", KD, weights=(0.0, 1.0, 10.0), chosen=1.0)
    lines = [line.split(",") for line in (project.root / "runs/kd/curves.csv").read_text().split()[1:]]
    curve = outcomes(project, "kd")["kd"].curve
    assert [point.step for point in curve] == list(range(0, 1001, 50))
    for point in curve:
        values = [float(line[4]) for line in lines if line[1] == "1" and int(line[2]) == point.step]
        assert point.seeds == len(values) == 5
        assert point.mean == pytest.approx(sum(values) / 5)


def test_weights_of_several_methods_are_named(project):
    project.run("both", KD, weights=(0.0, 3.0), methods=["aft", "kd"])
    assert outcomes(project, "both")["both"].weight == "aft 3, kd 3"


def test_a_collapse_on_validation_or_test_rows_is_seen(project):
    project.run("aft", AFT, collapsed=(3,))
    project.run("kd", KD)
    evaluation = project.read("evaluations/kd.json")
    evaluation["results"][1]["collapsed"] = True
    project.write("evaluations/kd.json", evaluation)
    found = outcomes(project, "aft", "kd")
    assert (found["aft"].collapsed, found["kd"].collapsed) == ([3], [1])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"test_rows": 10}, "their numbers of test rows are 10 and 3000"),
        ({"outputs": ["a", "b", "c"]}, "their outputs have other names"),
    ],
)
def test_runs_tested_on_different_rows_are_shown_and_not_compared(project, values, message):
    project.run("none", NONE, methods=[])
    project.run("aft", AFT)
    project.run("kd", KD)
    project.change("evaluations/aft.json", **values)
    read = inputs(project)
    assert read.missing == (
        f"aft: not compared with none, because {message}; train and evaluate both with the same settings",
    )
    found = {outcome.name: outcome for outcome in read.outcomes}
    assert found["aft"].verdict == "unpaired"
    assert found["kd"].difference == paired([x - y for x, y in zip(KD, NONE, strict=True)])


def test_runs_with_different_seeds_are_not_compared(project):
    project.run("none", NONE, methods=[])
    project.run("aft", AFT[:3])
    (line,) = inputs(project).missing
    assert "not compared with none, because their seeds are [0, 1, 2] and [0, 1, 2, 3, 4]" in line


def test_runs_with_different_splits_are_not_compared(project):
    project.run("none", NONE, methods=[])
    project.run("aft", AFT)
    evaluation = project.read("evaluations/aft.json")
    evaluation["results"][0]["split"] = 4
    project.write("evaluations/aft.json", evaluation)
    (line,) = inputs(project).missing
    assert "their splits are [4, 1, 2, 3, 4] and [0, 1, 2, 3, 4]" in line


def test_where_lower_is_better_a_gain_is_a_negative_difference(tmp_path):
    project = Workspace(tmp_path, REGRESSION)
    plain = [2.0, 2.1, 1.9, 2.05, 2.0]
    better, worse = ([x + shift for x, shift in zip(plain, moved, strict=True)] for moved in (
        (-0.5, -0.45, -0.5, -0.4, 0.1), (0.3, 0.35, 0.3, 0.25, 0.3),
    ))  # fmt: skip
    project.run("none", plain, methods=[])
    project.run("better", better, probe=1.2)
    project.run("worse", worse, probe=1.2)
    found = outcomes(project)
    assert [found[name].verdict for name in ("better", "worse")] == ["gain", "loss"]
    assert found["better"].difference.mean == pytest.approx((-0.5 - 0.45 - 0.5 - 0.4 + 0.1) / 5)
    assert (found["better"].difference.wins, found["worse"].difference.wins) == (4, 0)
    gains = [y - x for x, y in zip(better, plain, strict=True)]
    gaps = [y - x for x, y in zip(found["better"].probe_scores, plain, strict=True)]
    assert found["better"].gap == gap_closed(gains, gaps)
    assert found["better"].gap.share > 0 > found["worse"].gap.share
