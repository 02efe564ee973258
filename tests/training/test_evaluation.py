"""Evaluation: what the students say of test rows, counted by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data.dataset import Dataset
from pipeline.data.preparation import PrepareSettings, prepare
from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.probing import probes
from pipeline.store import FeatureStore
from pipeline.students import load_student, predict
from pipeline.training.evaluation import evaluate
from pipeline.training.sweep import train


def test_accuracy_is_the_share_of_right_answers_on_each_seeds_own_test_rows(project: Path, params: Params):
    train("none", params, project)
    result = evaluate("none", params, project)
    data = Dataset.open(project / "data")
    assert [score.split for score in result.results] == [0, 1, 0]
    for score in result.results:
        recipe, student = load_student(project / "runs" / "none" / "students" / str(score.seed))
        rows = data.split(score.split).test
        answers = predict(student, recipe.inputs(data), rows, torch.device("cpu")).argmax(1)
        right = sum(int(answer == data.labels[row]) for answer, row in zip(answers, rows, strict=True))
        assert score.accuracy == pytest.approx(right / len(rows))
    assert result.probe is None
    assert json.loads((project / "evaluations" / "none.json").read_text())["test_rows"] == result.test_rows


def test_several_teachers_are_one_reference(project: Path, params: Params):
    train("both", params, project)
    result = evaluate("both", params, project)
    data = Dataset.open(project / "data")
    assert result.probe is not None
    for score, mine in zip(result.results, result.probe, strict=True):
        rows = data.split(score.split).test
        votes = np.zeros((len(rows), 3))
        for name in ("wise", "loud"):
            store = FeatureStore.open(project / "features" / f"{name}.zarr")
            fitted = probes.load_probe(project / "probes" / f"{name}.safetensors", score.split, data, store)
            logits = fitted.logits(store[rows])
            votes += logits - np.log(np.exp(logits).sum(1, keepdims=True))
        assert mine.accuracy == pytest.approx((votes.argmax(1) == data.labels[rows]).mean())


def test_students_of_other_splits_are_refused(project: Path, params: Params):
    """Their training rows may be test rows now."""
    train("none", params, project)
    settings = params.read(PrepareSettings, "dataset")
    source = settings.source | {"path": str(project / "raw" / "reviews.csv")}
    prepare(settings.model_copy(update={"source": source, "seed": 1}), project / "data")
    with pytest.raises(UserError, match="run `aft train none`"):
        evaluate("none", params, project)


def test_a_run_that_is_not_trained_says_what_to_run(project: Path, params: Params):
    with pytest.raises(UserError, match="run `aft train none`"):
        evaluate("none", params, project)
