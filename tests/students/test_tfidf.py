"""tf-idf with a linear model: scikit-learn's own numbers, and a run in which nothing is trained."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from pipeline import tasks
from pipeline.checks import check_params
from pipeline.data import Dataset
from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.predict import Predictor
from pipeline.project import Project
from pipeline.records import EvaluationRecord, RunRecord
from pipeline.students import Student, student_blueprint, tfidf
from pipeline.students._words import WORD
from pipeline.training import evaluate, train

SECTION = {"family": "tfidf", "min_count": 1, "strength": 1.0}


def solved(data: Dataset, labels: np.ndarray, task: tasks.Task, **settings: Any) -> tuple[Student, Any, np.ndarray]:
    """A student of the labelled rows of the first split, its inputs, and these rows."""
    split = data.split(0)
    blueprint = student_blueprint(SECTION | settings, "students.x", data, split.train, task=task)
    student, inputs = blueprint.build(), blueprint.inputs(data)
    blueprint.solve(student, inputs, split.labelled, labels[split.labelled], task)
    return student.eval(), inputs, split.labelled


def sparse(data: Dataset, rows: np.ndarray) -> tuple[Any, Any]:
    """All texts, and some of them, as scikit-learn has them."""
    vectoriser = TfidfVectorizer(token_pattern=WORD.pattern, sublinear_tf=True)
    vectoriser.fit(data.content(data.split(0).train))
    return vectoriser.transform(data.content(np.arange(len(data)))), vectoriser.transform(data.content(rows))


def outputs(student: Student, inputs: Any, data: Dataset) -> np.ndarray:
    with torch.inference_mode():
        return student(inputs.batch(np.arange(len(data))))[1].double().numpy()


@pytest.fixture
def data(project: Path) -> Dataset:
    return Dataset.open(project / "data")


@pytest.mark.parametrize("weights", [None, {"bad": 5.0}])
def test_classes_have_the_probabilities_of_scikit_learn(data: Dataset, weights: dict[str, float] | None):
    task = data.task.fitted(data.labels, weights)
    student, inputs, rows = solved(data, data.labels, task, strength=3.0)
    everything, some = sparse(data, rows)
    by_class = None if weights is None else {0: 5.0, 1: 1.0, 2: 1.0}
    model = LogisticRegression(C=3.0, max_iter=1000, class_weight=by_class).fit(some, data.labels[rows])
    found = task.probabilities(outputs(student, inputs, data))
    assert np.allclose(found, model.predict_proba(everything), atol=1e-4)
    assert found.max() > 0.5


def test_of_two_classes_it_gives_the_probabilities_of_scikit_learn(data: Dataset):
    task, labels = tasks.build("classification", ("a", "b")), np.arange(len(data)) % 2
    student, inputs, rows = solved(data, labels, task)
    everything, some = sparse(data, rows)
    model = LogisticRegression(max_iter=1000).fit(some, labels[rows])
    found = task.probabilities(outputs(student, inputs, data)[:, :2])
    assert np.allclose(found, model.predict_proba(everything), atol=1e-4)


def test_labels_are_one_against_the_rest(data: Dataset):
    task = tasks.build("multilabel", ("a", "b"))
    labels = (np.arange(len(data))[:, None] % np.array([2, 3]) == 0).astype(np.int8)
    student, inputs, rows = solved(data, labels, task)
    everything, some = sparse(data, rows)
    found = task.probabilities(outputs(student, inputs, data))
    for column in range(2):
        model = LogisticRegression(max_iter=1000).fit(some, labels[rows, column])
        assert np.allclose(found[:, column], model.predict_proba(everything)[:, 1], atol=1e-4)


def test_numbers_are_those_of_ridge_regression(data: Dataset):
    labels = (200_000 + 1000 * np.random.default_rng(0).normal(size=len(data))).astype(np.float32)
    task = tasks.build("regression", ("value",), "kWh").fitted(labels[data.split(0).labelled])
    student, inputs, rows = solved(data, labels, task, strength=2.0)
    everything, some = sparse(data, rows)
    model = Ridge(alpha=0.5, solver="cholesky").fit(some.toarray(), labels[rows].astype(np.float64))
    assert np.allclose(outputs(student, inputs, data)[:, 0], model.predict(everything), atol=1.0)
    assert labels.std() > 100


def test_words_that_repeat_and_texts_without_a_known_one():
    torch.manual_seed(0)
    student = tfidf.TfIdf([1.5, 2.0, 2.5], 2)
    torch.nn.init.normal_(student.words.weight)
    texts = [[3, 1, 1, 1], [0], [2]]
    batch = torch.tensor([n for text in texts for n in text]), torch.tensor([0, 4, 5])
    once, thrice = 2.5, (1 + np.log(3)) * 1.5
    norm = float(np.hypot(once, thrice))
    words = student.words.weight.detach()
    expected = torch.stack([(once * words[3] + thrice * words[1]) / norm, torch.zeros(2), words[2]])
    torch.testing.assert_close(student(batch)[1], expected)
    graph = student.graph()
    torch.testing.assert_close(graph.module(*graph.arrange(batch)), expected)


def with_run(params: Params, **run: Any) -> Params:
    params.values["students"]["floor"] = SECTION
    params.values["runs"]["floor"] = {"student": "floor"} | run
    return params


def test_a_run_of_it_is_searched_evaluated_and_exported(project: Path, params: Params, aft: Callable, tmp_path: Path):
    values = with_run(params, search={"student.strength": [0.1, 10.0]}).values
    (project / "params.yaml").write_text(json.dumps(values))
    result = train("floor", params, Project(project))
    assert (result.trials, result.trained) == (6, 6)
    again = train("floor", params, Project(project))
    assert (again.trained, again.found) == (0, 6)
    changed = Params(values | {"train": values["train"] | {"steps": 7, "learning_rate": 0.5, "batch_size": 5}})
    assert train("floor", changed, Project(project)).trained == 0, "settings of steps change nothing"
    run = RunRecord.read(project / "runs/floor/run.json")
    assert (run.steps, run.student.solved, run.student.trains) == (0, True, False)
    found = evaluate("floor", params, Project(project))
    assert EvaluationRecord.read(project / "evaluations/floor.json") == found
    assert all(each.scores["accuracy"] > 0.5 for each in found.results)
    assert aft("export", "floor", "--output", str(tmp_path / "home")).returncode == 0
    assert "Solved for in one go; seed" in (tmp_path / "home/README.md").read_text()
    assert not list((tmp_path / "home").glob("*.pkl"))
    assert Predictor(tmp_path / "home")(["good1 good2 good3", "bad1 bad2"]).predictions == ["good", "bad"]
    assert aft("export", "floor", "--output", str(tmp_path / "more"), "--refit").returncode == 0


def test_the_report_compares_it_with_plain_training_of_another_student(project: Path, params: Params):
    from pipeline.reporting import report
    from pipeline.runs import join

    with_run(params)
    for name in ("aft", "both"):
        del params.values["runs"][name]
    join(params, Project(project))
    for name in ("none", "floor"):
        train(name, params, Project(project))
        evaluate(name, params, Project(project))
    page = report(params, Project(project)).page.read_text()
    assert "Results of floor" in page
    assert "The one run of floor is" in page


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (
            {"teachers": ["wise"], "methods": {"kd": {"weight": 1.0}}},
            "a tfidf student is solved for, and takes no steps; drop `methods` and `shuffle_teachers`",
        ),
        ({"teachers": ["wise"], "shuffle_teachers": True}, "drop `methods` and `shuffle_teachers`"),
        ({"train": {"steps": 3}}, "train.steps does nothing; remove it from this run"),
        ({"search": {"train.learning_rate": [0.1, 0.2]}}, "train.learning_rate does nothing; remove it from this run"),
    ],
)
def test_what_needs_steps_is_refused(project: Path, params: Params, run: dict[str, Any], message: str):
    with_run(params, **run)
    with pytest.raises(UserError, match=message):
        check_params(params)
    with pytest.raises(UserError, match=message):
        train("floor", params, Project(project))


def test_a_class_without_a_labelled_row_is_refused(data: Dataset):
    task = tasks.build("classification", ("a", "b", "c"))
    with pytest.raises(UserError, match="tfidf: no labelled training row of class 'c'"):
        solved(data, np.arange(len(data)) % 2, task)
