"""Evaluation: the students' predictions on test rows, counted by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data import Dataset, PrepareSettings, prepare
from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.project import Project
from pipeline.records import EvaluationRecord
from pipeline.reporting import report
from pipeline.store import FeatureStore
from pipeline.students import load_student, predict
from pipeline.training import evaluate, read_outputs, train


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
        assert block.ids.tolist() == data.ids[rows].tolist()
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
