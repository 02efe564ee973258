"""Runs against plain training of their student: who is paired with whom, and what is refused."""

import pytest

from pipeline.errors import UserError
from pipeline.functional.statistics import holm, paired
from pipeline.reporting.comparison import compare

from .records import AFT, KD, NONE, Project


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


def outcomes(project, *names):
    return {o.name: o for comparison in compare(project.root, names) for o in comparison.outcomes}


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
    bag, cnn = compare(project.root, ["none", "aft_cnn", "kd", "plain_cnn"])
    assert (bag.student.name, cnn.student.name) == ("bag", "cnn")
    assert (bag.baseline.name, cnn.baseline.name) == ("none", "plain_cnn")
    assert [o.name for o in cnn.outcomes] == ["plain_cnn", "aft_cnn"]
    assert cnn.outcomes[1].differences == pytest.approx([x - y for x, y in zip(AFT, NONE, strict=True)])


def test_a_student_of_features_is_compared_with_plain_training_of_another(project):
    project.run("probe", AFT, methods=[], student="head", reads="features")
    project.run("worse", KD, methods=[], student="head", reads="features", teachers=("minilm", "bge"))
    project.run("none", NONE, methods=[])
    head, bag = compare(project.root, ["probe", "worse", "none"])
    assert head.baseline is bag.baseline
    assert [o.name for o in head.outcomes] == ["probe", "worse"]
    assert head.outcomes[0].differences == pytest.approx([x - y for x, y in zip(AFT, NONE, strict=True)])
    assert [o.verdict for o in head.outcomes] == ["gain", "noise"]
    assert not any(o.plain for o in head.outcomes)
    assert [reference.name for reference in head.references] == ["minilm", "minilm + bge"]


def test_a_student_of_features_is_compared_with_nothing_if_no_plain_training_has_its_seeds(project):
    project.run("none", NONE[:3], methods=[])
    project.run("probe", AFT, methods=[], student="head", reads="features")
    _, head = compare(project.root, ["none", "probe"])
    assert head.baseline is None
    assert head.outcomes[0].verdict == "unpaired"


def test_of_several_plain_runs_the_one_called_none_is_the_baseline(project):
    project.run("early", KD, methods=[])
    project.run("none", NONE, methods=[])
    (comparison,) = compare(project.root, ["early", "none"])
    assert comparison.baseline.name == "none"
    assert comparison.outcomes[1].verdict == "noise"


def test_without_plain_training_nothing_is_compared(project):
    project.run("kd", KD)
    (comparison,) = compare(project.root, ["kd"])
    assert comparison.baseline is None
    assert comparison.outcomes[0].verdict == "unpaired"


def test_runs_keep_their_order_between_plain_training_and_controls(project):
    for name in ("b", "a"):
        project.run(name, KD)
    project.run("control", NONE, shuffled=True)
    project.run("none", NONE, methods=[])
    (comparison,) = compare(project.root, ["control", "b", "a", "none"])
    assert [o.name for o in comparison.outcomes] == ["none", "b", "a", "control"]


def test_p_values_of_all_students_are_adjusted_together_and_identical_runs_are_no_test(project):
    project.run("none", NONE, methods=[])
    project.run("kd", KD)
    project.run("aside", NONE, weights=(0.0, 1.0), chosen=0.0)
    project.run("plain_cnn", NONE, methods=[], student="cnn")
    project.run("aft", AFT, student="cnn")
    found = outcomes(project, "none", "kd", "aside", "plain_cnn", "aft")
    raw = [paired([x - y for x, y in zip(run, NONE, strict=True)]).p for run in (KD, AFT)]
    assert [found["kd"].p, found["aft"].p] == pytest.approx(holm(raw))
    assert found["aside"].p is None


@pytest.mark.parametrize(
    ("accuracies", "options", "verdict"),
    [
        (AFT, {}, "gain"),
        (KD, {}, "noise"),
        ([x - 0.03 for x in NONE], {}, "loss"),
        (NONE, {"weights": (0.0, 3.0), "chosen": 0.0}, "aside"),
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
    (comparison,) = compare(project.root, ["none", "aft", "kd"])
    gain = sum(AFT) - sum(NONE)
    for outcome, reference in zip(comparison.outcomes[1:], comparison.references, strict=True):
        probe = [score.accuracy for score in outcome.evaluation.probe]
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
        values = [float(line[5]) for line in lines if line[1] == "1" and int(line[2]) == point.step]
        assert point.seeds == len(values) == 5
        assert point.mean == pytest.approx(sum(values) / 5)


def test_weights_of_several_methods_are_named(project):
    project.run("both", KD, weights=(0.0, 3.0), methods=["aft", "kd"])
    assert outcomes(project, "both")["both"].weight == "aft 3, kd 3"


def test_a_collapse_on_validation_or_test_rows_is_seen(project):
    project.run("aft", AFT, one_class=(3,))
    project.run("kd", KD)
    evaluation = project.read("evaluations/kd.json")
    evaluation["results"][1]["largest_class_share"] = 1.0
    project.write("evaluations/kd.json", evaluation)
    found = outcomes(project, "aft", "kd")
    assert (found["aft"].collapsed, found["kd"].collapsed) == ([3], [1])


@pytest.mark.parametrize(
    ("path", "command"),
    [
        ("runs/aft/run.json", "aft train aft"),
        ("runs/aft/curves.csv", "aft train aft"),
        ("evaluations/aft.json", "aft evaluate aft"),
    ],
)
def test_a_missing_record_is_named_with_the_command_that_makes_it(project, path, command):
    project.run("aft", AFT)
    (project.root / path).unlink()
    with pytest.raises(UserError, match=f"{path}: no such file; run `{command}`"):
        compare(project.root, ["aft"])


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("runs/aft/run.json", "{", "damaged.*run `aft train aft` again"),
        ("runs/aft/run.json", "{}", r"damaged.*\(run: Field required\)"),
        ("runs/aft/curves.csv", "seed,weight\n0,0\n", "damaged.*run `aft train aft` again"),
        ("runs/aft/curves.csv", "seed,weight,step,val_accuracy\n0,3,x,0.5\n", "damaged.*run `aft train aft` again"),
        ("runs/aft/curves.csv", "seed,weight,step,val_accuracy\n0,7,0,0.5\n", "no lines for the chosen weight 3"),
        ("runs/aft/gates.json", "[1]", "damaged.*run `aft train aft` again"),
        ("runs/aft/gates.json", '{"minilm": [[0.5], [0.5, 0.5], [0.5], [0.5], [0.5]]}', "not the same number of gates"),
        ("runs/aft/gates.json", '{"minilm": [[0.5]]}', "not the same number of gates"),
        ("evaluations/aft.json", "", "damaged.*run `aft evaluate aft` again"),
    ],
)
def test_a_damaged_record_is_named(project, path, text, message):
    project.run("aft", AFT)
    (project.root / path).write_text(text)
    with pytest.raises(UserError, match=message) as error:
        compare(project.root, ["aft"])
    assert "\n" not in str(error.value)


def test_an_evaluation_of_other_students_is_refused(project):
    project.run("aft", AFT)
    project.change("runs/aft/run.json", seeds=[5, 6, 7, 8, 9])
    with pytest.raises(UserError, match="run `aft evaluate aft` again"):
        compare(project.root, ["aft"])


def test_a_chosen_weight_that_was_no_candidate_is_refused(project):
    project.run("aft", AFT)
    project.change("runs/aft/run.json", chosen=[5.0])
    with pytest.raises(UserError, match="not among the candidates"):
        compare(project.root, ["aft"])


def test_a_candidate_that_diverged_reached_nothing_and_cannot_be_the_choice(project):
    project.run("aft", AFT, weights=(0.0, 3.0), chosen=0.0)
    candidates = project.read("runs/aft/run.json")["candidates"]
    candidates[1]["val_accuracy"][2] = None
    project.change("runs/aft/run.json", candidates=candidates)
    (comparison,) = compare(project.root, ["aft"])
    kept, lost = comparison.outcomes[0].run.candidates
    assert len(kept.reached) == 5 and lost.reached == ()
    project.change("runs/aft/run.json", chosen=[3.0])
    with pytest.raises(UserError, match="or diverged"):
        compare(project.root, ["aft"])


@pytest.mark.parametrize(
    ("what", "values"),
    [("test rows", {"test_rows": 10}), ("classes", {"classes": ["a", "b", "c"]})],
)
def test_runs_tested_on_different_rows_are_not_compared(project, what, values):
    project.run("none", NONE, methods=[])
    project.run("aft", AFT)
    project.change("evaluations/aft.json", **values)
    with pytest.raises(UserError, match=f"runs aft and none cannot be paired: their {what} are"):
        compare(project.root, ["none", "aft"])


def test_runs_with_different_seeds_are_not_compared(project):
    project.run("none", NONE, methods=[])
    project.run("aft", AFT[:3])
    with pytest.raises(UserError, match="runs aft and none cannot be paired: their seeds are"):
        compare(project.root, ["none", "aft"])


def test_runs_with_different_splits_are_not_compared(project):
    project.run("none", NONE, methods=[])
    project.run("aft", AFT)
    evaluation = project.read("evaluations/aft.json")
    evaluation["results"][0]["split"] = 4
    project.write("evaluations/aft.json", evaluation)
    with pytest.raises(UserError, match="their splits are"):
        compare(project.root, ["none", "aft"])
