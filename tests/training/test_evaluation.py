"""Evaluation: the students' predictions on test rows, counted by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data import Dataset, PrepareSettings, prepare
from pipeline.errors import UserError
from pipeline.functional.kernels import centre, debiased_cka, gram
from pipeline.params import Params
from pipeline.project import Project
from pipeline.records import EvaluationRecord
from pipeline.reporting import report
from pipeline.store import FeatureStore
from pipeline.students import load_student, predict, student_outputs
from pipeline.training import evaluate, evaluation, read_outputs, train
from pipeline.training.representation import NEIGHBOURS


def test_accuracy_is_the_share_of_right_predictions_on_each_seeds_own_test_rows(project: Path, params: Params):
    train("none", params, Project(project))
    result = evaluate("none", params, Project(project))
    data = Dataset.open(project / "data")
    assert [score.split for score in result.results] == [0, 1, 0]
    assert (result.task, result.outputs) == ("classification", ("bad", "good", "plain"))
    assert result.metrics == data.task.metrics
    for score in result.results:
        blueprint, student = load_student(project / "runs" / "none" / "students" / str(score.seed))
        rows = data.split(score.split).test
        predicted = predict(student, blueprint.inputs(data), rows, torch.device("cpu")).argmax(1).tolist()
        right = sum(a == data.labels[row] for a, row in zip(predicted, rows, strict=True))
        assert score.scores["accuracy"] == pytest.approx(right / len(rows))
        assert score.collapsed == (len(set(predicted)) == 1)
    assert result.probe is None
    assert EvaluationRecord.read(Project(project).evaluation("none")) == result
    assert "seconds" not in Project(project).evaluation("none").read_text()


def test_several_sources_are_one_reference(project: Path, params: Params):
    train("both", params, Project(project))
    result = evaluate("both", params, Project(project))
    data = Dataset.open(project / "data")
    assert result.probe is not None
    for score, mine in zip(result.results, result.probe, strict=True):
        rows, train_rows = data.split(score.split).test, data.split(score.split).train
        votes = np.zeros((len(rows), 3))
        for name in ("wise", "loud"):
            store = FeatureStore.open(project / "features" / f"{name}.zarr")
            folder = project / "probes" / name / "pooled" / str(score.split)
            cached = np.load(folder / "linear.npy")
            assert cached.shape == (len(store), 3) and len(train_rows) < len(cached)
            votes += cached[rows] - np.log(np.exp(cached[rows]).sum(1, keepdims=True))
        assert mine.scores["accuracy"] == pytest.approx((votes.argmax(1) == data.labels[rows]).mean())
        assert (mine.seed, mine.split) == (score.seed, score.split)


def test_students_of_other_splits_are_refused(project: Path, params: Params):
    """Their training rows may be test rows now."""
    train("none", params, Project(project))
    settings = params.read(PrepareSettings, "dataset")
    source = settings.source | {"path": str(project / "raw" / "reviews.csv")}
    prepare(settings.model_copy(update={"source": source, "seed": 1}), project / "data")
    with pytest.raises(UserError, match="run `aft train none`"):
        evaluate("none", params, Project(project))


def test_a_run_that_is_not_trained_names_the_command(project: Path, params: Params):
    with pytest.raises(UserError, match="run `aft train none`"):
        evaluate("none", params, Project(project))


def test_a_damaged_record_is_one_line(project: Path, params: Params):
    train("none", params, Project(project))
    (project / "runs" / "none" / "run.json").write_text("{}")
    with pytest.raises(UserError, match=r"damaged, or changed by hand .*run `aft train none` again") as caught:
        evaluate("none", params, Project(project))
    assert "\n" not in str(caught.value)


def test_a_student_with_a_flipped_bit_is_not_evaluated(project: Path, params: Params):
    train("none", params, Project(project))
    path = project / "runs" / "none" / "students" / "0" / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"weights\.safetensors: damaged; run `aft train none` again"):
        evaluate("none", params, Project(project))
    assert not (project / "evaluations" / "none.json").exists()


def test_the_report_does_not_show_scores_of_students_that_were_trained_anew(project: Path, params: Params):
    paths = Project(project)
    params.values["runs"] = {"none": params.values["runs"]["none"]}
    params.values["train"] |= {"steps": 3}
    train("none", params, paths)
    evaluate("none", params, paths)
    report(params, paths)
    params.values["train"] |= {"steps": 4}
    train("none", params, paths)
    with pytest.raises(UserError, match="of other students than none has now; run `aft evaluate none` again"):
        report(params, paths)
    evaluate("none", params, paths)
    report(params, paths)


def test_outputs_of_validation_and_test_rows_are_kept_and_give_the_scores(project: Path, params: Params):
    paths = Project(project)
    train("none", params, paths)
    result = evaluate("none", params, paths)
    data, blocks = Dataset.open(project / "data"), list(read_outputs(paths.outputs("none")))
    assert [(block.seed, block.part) for block in blocks] == [(s, p) for s in (0, 1, 2) for p in ("val", "test")]
    for block in blocks:
        split = data.split(block.seed % 2)
        rows = split.val if block.part == "val" else split.test
        blueprint, student = load_student(project / "runs" / "none" / "students" / str(block.seed))
        assert list(block.ids) == data.ids[rows].tolist()
        assert block.labels.tolist() == data.labels[rows].tolist()
        expected = predict(student, blueprint.inputs(data), rows, torch.device("cpu"))
        assert np.array_equal(block.outputs, expected)
        assert block.outputs.dtype == np.float32
        if block.part == "test":
            score = next(each for each in result.results if each.seed == block.seed)
            assert score.scores == data.task.scores(block.outputs, block.labels)
    before = paths.outputs("none").read_bytes()
    evaluate("none", params, paths)
    assert paths.outputs("none").read_bytes() == before
    paths.outputs("none").write_bytes(before[:-100])
    with pytest.raises(UserError, match=r"none.parquet: damaged .*run `aft evaluate none` again"):
        list(read_outputs(paths.outputs("none")))
    paths.outputs("none").unlink()
    with pytest.raises(UserError, match=r"none.parquet: no such file; run `aft evaluate none`"):
        list(read_outputs(paths.outputs("none")))


def test_features_are_read_by_neighbours_and_compared_with_the_teachers(project: Path, params: Params):
    paths = Project(project)
    train("aft", params, paths)
    result = evaluate("aft", params, paths)
    assert [each.seed for each in result.features] == [0, 1, 2]
    data, seed = Dataset.open(project / "data"), 1
    split, found = data.split(seed), result.features[seed]
    blueprint, student = load_student(project / "runs" / "aft" / "students" / str(seed))

    def forward(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        (made,) = student_outputs(student, blueprint.inputs(data), rows, torch.device("cpu"))
        return made[0].numpy(), made[1].numpy()

    (bank, _), (test, outputs) = forward(split.labelled), forward(split.test)
    mean, std = bank.mean(0), bank.std(0)
    bank, queries = (bank - mean) / std, (test - mean) / std
    by_number = []
    for number in NEIGHBOURS:
        right = 0
        for query, label in zip(queries, data.labels[split.test], strict=True):
            cosines = [float(query @ row / np.linalg.norm(query) / np.linalg.norm(row)) for row in bank]
            near = np.argsort(cosines)[::-1][:number]
            votes = [
                sum(1 + cosines[n] / (2 * (number + 1)) for n in near if data.labels[split.labelled[n]] == c)
                for c in range(3)
            ]
            right += int(np.argmax(votes) == label)
        by_number.append(right / len(queries))
    assert any(found.scores["neighbours"] == pytest.approx(score) for score in by_number)
    assert found.scores["linear"] > 0.5
    (near,) = found.teachers
    features = FeatureStore.open(project / "features" / "wise.zarr").reader("pooled")(split.test).astype(np.float64)
    kernels = [gram(centre(torch.from_numpy(rows.astype(np.float64)))) for rows in (test, features)]
    assert (near.source, near.scores["cka"]) == ("wise", pytest.approx(float(debiased_cka(*kernels))))
    of_probe = np.load(project / "probes" / "wise" / "pooled" / str(seed) / "linear.npy")[split.test]
    assert near.scores["agreement"] == pytest.approx((of_probe.argmax(1) == outputs.argmax(1)).mean())


def test_without_validation_rows_or_with_too_few_classes_nothing_reads_the_features(
    project: Path, params: Params, monkeypatch: pytest.MonkeyPatch
):
    train("none", params, Project(project))
    monkeypatch.setattr(evaluation, "_can_be_probed", lambda data, labelled: False)
    assert evaluate("none", params, Project(project)).features == ()


def test_the_details_are_counted_by_hand(project: Path, params: Params):
    train("none", params, Project(project))
    result = evaluate("none", params, Project(project))
    assert [each.seed for each in result.details] == [0, 1, 2]
    assert [metric.name for metric in result.more] == list(result.details[0].scores)
    block = next(b for b in read_outputs(Project(project).outputs("none")) if (b.seed, b.part) == (1, "test"))
    found, predicted = result.details[1], block.outputs.argmax(1)
    for number, one in enumerate(found.classes):
        mine, said = block.labels == number, predicted == number
        assert one.scores["rows"] == mine.sum()
        assert one.scores["recall"] == pytest.approx((mine & said).sum() / mine.sum())
        assert one.scores["precision"] == pytest.approx((mine & said).sum() / said.sum())
        assert found.confusion[number] == tuple((mine & (predicted == other)).sum() for other in range(3))
    recalls = [one.scores["recall"] for one in found.classes]
    assert found.scores["balanced_accuracy"] == pytest.approx(np.mean(recalls))
