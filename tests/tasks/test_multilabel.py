"""Multi-label: labels, losses and scores against their definitions and scikit-learn."""

import math
import re

import numpy as np
import pytest
import torch
from sklearn import metrics
from sklearn.linear_model import LogisticRegression

from pipeline import tasks
from pipeline.errors import UserError
from pipeline.functional import independent
from pipeline.functional.linear import FOLDS, folds


@pytest.fixture
def task() -> tasks.Task:
    return tasks.build("multilabel", ["sea", "sun", "wind"])


@pytest.fixture
def labels() -> np.ndarray:
    return (np.random.default_rng(0).random((60, 3)) < [0.5, 0.2, 0.1]).astype(np.int8)


def test_labels_are_sets_in_any_order():
    labels, outputs = tasks.encode("multilabel", [("sun", "sea"), ("sea", "sun"), (), "wind"])
    assert outputs == ("sea", "sun", "wind")
    assert labels.tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 0], [0, 0, 1]]
    labels, outputs = tasks.encode("multilabel", [("sun",)], ["wind", "sun"])
    assert (labels.tolist(), outputs) == ([[0, 1]], ("wind", "sun"))


@pytest.mark.parametrize("names", [None, ("1", "2"), ("1.0", "2.0")])
def test_whole_numbers_with_and_without_a_point_are_one_label(names: tuple[str, ...] | None):
    labels, outputs = tasks.encode("multilabel", [("1", "2"), ("1.0",), "2.0"], names)
    assert (labels.tolist(), outputs) == ([[1, 1], [1, 0], [0, 1]], ("1", "2"))
    assert tasks.encode("multilabel", [("1", "1.0"), ("sea",)])[1] == ("1", "1.0", "sea")


def test_what_cannot_be_encoded_is_refused():
    with pytest.raises(tasks.LabelError, match=r"label 'moon' is not in dataset.classes: sea, sun") as caught:
        tasks.encode("multilabel", [("sea",), ("sun", "moon")], ["sea", "sun"])
    assert caught.value.label == ("sun", "moon")
    with pytest.raises(UserError, match="a name occurs twice"):
        tasks.encode("multilabel", [], ["a", "a"])
    with pytest.raises(UserError, match="have no unit"):
        tasks.build("multilabel", ["a"], "kWh")
    for name in ("classification", "regression"):
        with pytest.raises(tasks.LabelError, match=r"labels sun, sea: a list of labels needs dataset.task: multilabel"):
            tasks.encode(name, [("sun", "sea")])


@pytest.mark.parametrize(
    ("labels", "separator"),
    (
        (["b", "s", "b;s"], ";"),
        ([("b",), ("s",), (), ("b | s",)], "|"),
        (["sea, sun", "sun, wind", "wind, sea, snow"], ","),  # snow occurs once
        (["haze primary", "haze water", "primary water"], " "),
        (["b", "s", ("b", "s"), "b;s"], None),  # rows do have several
        (["R&B; Soul", "Jazz", "Pop"], None),
        (["a;", "a", ";"], None),
        (["b"], None),
        ([], None),
    ),
)
def test_texts_of_several_labels_are_found(labels: list[tasks.Label], separator: str | None):
    if separator is None:
        tasks.encode("multilabel", labels)
        return
    with pytest.raises(tasks.LabelError, match=f"looks like several.*label_separator: {re.escape(repr(separator))}"):
        tasks.encode("multilabel", labels)
    names = sorted({label if isinstance(label, str) else "".join(label) for label in labels})
    assert len(tasks.encode("multilabel", labels, names)[1]) == len(names)


def test_labels_that_cannot_be_learned_are_refused(task: tasks.Task, labels: np.ndarray):
    task.check(labels)
    with pytest.raises(UserError, match="no row has any label"):
        tasks.build("multilabel", []).check(np.zeros((5, 0), np.int8))
    with pytest.raises(UserError, match="2 rows with the label 'wind', which needs 3"):
        task.check(np.array([[1, 1, 0]] * 5 + [[0, 0, 1]] * 2 + [[-1, -1, -1]], np.int8))
    with pytest.raises(UserError, match="all rows have the label 'sea'; remove it"):
        task.check(np.array([[1, 1, 0], [1, 0, 1]] * 4, np.int8))
    with pytest.raises(UserError, match="split 1: no labelled training row with the label 'wind'"):
        task.check_training(np.array([[1, 1, 0], [0, 0, 0]], np.int8), "split 1")
    with pytest.raises(UserError, match="split 1: no labelled training row without the label 'sea'"):
        task.check_training(np.array([[1, 1, 0], [1, 0, 1]], np.int8), "split 1")


def test_loss_divergence_and_combination_are_their_definitions(task: tasks.Task, labels: np.ndarray):
    random = torch.Generator().manual_seed(0)
    student, one, other = (torch.randn(60, 3, generator=random, dtype=torch.float64) for _ in range(3))

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    loss = divergence = 0.0
    both = task.combine([one, other])
    for i in range(60):
        for c in range(3):
            p = sigmoid(student[i, c].item())
            loss -= math.log(p if labels[i, c] else 1 - p) / 180
            mean = (one[i, c].item() + other[i, c].item()) / 2
            assert both[i, c].item() == pytest.approx(mean)
            t, s = sigmoid(mean / 3), sigmoid(student[i, c].item() / 3)
            divergence += 9 * (t * math.log(t / s) + (1 - t) * math.log((1 - t) / (1 - s))) / 180
    assert task.loss(student, torch.from_numpy(labels)).item() == pytest.approx(loss)
    assert task.divergence(student, both, 3.0).item() == pytest.approx(divergence)
    far = torch.full((2, 3), 1e3)
    assert task.divergence(far, -far, 1.0).isfinite()


def test_scores_equal_scikit_learns_ties_too(task: tasks.Task, labels: np.ndarray):
    outputs = (np.random.default_rng(1).normal(size=(60, 3)) + labels).round(1)
    scores, predicted = task.scores(outputs, labels), outputs > 0
    assert scores["mean_average_precision"] == pytest.approx(metrics.average_precision_score(labels, outputs))
    assert scores["macro_f1"] == pytest.approx(metrics.f1_score(labels, predicted, average="macro"))
    assert scores["micro_f1"] == pytest.approx(metrics.f1_score(labels, predicted, average="micro"))
    without = labels.copy()
    without[:, 2] = 0
    assert task.scores(outputs, without)["mean_average_precision"] == pytest.approx(
        metrics.average_precision_score(labels[:, :2], outputs[:, :2])
    )
    assert task.row_scores(outputs, without).mean() == pytest.approx(
        task.scores(outputs, without)["mean_average_precision"]
    )


def test_rare_labels_keep_their_share_in_the_strata(task: tasks.Task, labels: np.ndarray):
    strata = task.strata(labels)
    for row, stratum in zip(labels, strata, strict=True):
        rows = labels.sum(0)
        assert stratum == (3 if not row.any() else min(np.flatnonzero(row), key=lambda c: rows[c]))
    few = np.array([[1, 0, 0]] * 9 + [[1, 1, 0]] * 2 + [[-1, -1, -1]], np.int8)
    assert task.strata(few).tolist() == [0] * 11 + [-1]


def test_independent_regressions_are_those_of_each_label_alone(labels: np.ndarray):
    random = np.random.default_rng(2)
    rows = np.concatenate([random.normal(size=(60, 5)), labels + random.normal(size=(60, 3))], 1).astype(np.float32)
    found = independent.fit(rows, labels, rows, labels, [0.1])
    for c in range(3):
        alone = LogisticRegression(C=0.1, tol=1e-8, max_iter=1000).fit(rows, labels[:, c])
        assert found.outputs(rows)[:, c] == pytest.approx(alone.decision_function(rows), abs=2e-3)
    loss = metrics.log_loss(labels.ravel(), 1 / (1 + np.exp(-found.outputs(rows).ravel().astype(float)))) * 3
    assert found.val_loss == pytest.approx(loss, rel=1e-5)


def test_a_label_that_is_in_one_fold_only_is_learned_from_it():
    labels = np.zeros((20, 2), np.int8)
    labels[:10, 0], labels[3, 1] = 1, 1
    rows = (labels + np.random.default_rng(3).normal(size=(20, 2)) / 10).astype(np.float32)
    fold_of = folds(np.zeros(20, np.int64), 0)
    weights, biases = independent.cross_fit(rows, labels, fold_of, 1.0)
    assert (weights.shape, biases.shape) == ((FOLDS, 2, 2), (FOLDS, 2))
    assert (weights[:, 1, 1] > 0.1).all()


def test_the_same_logits_for_all_rows_are_a_collapse(task: tasks.Task):
    assert task.collapsed(np.tile([1.0, -2, 0], (4, 1)))
    assert not task.collapsed(np.array([[1.0, -2, 0], [1, -2, 1]]))


def test_smoothed_losses_are_their_definition(task: tasks.Task, labels: np.ndarray):
    smoothed = task.fitted(labels, smoothing=0.2)
    outputs = torch.randn(*labels.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    total = 0.0
    for row, marks in zip(outputs.tolist(), labels.tolist(), strict=True):
        for logit, mark in zip(row, marks, strict=True):
            target = 0.9 if mark else 0.1
            yes = 1 / (1 + math.exp(-logit))
            total -= target * math.log(yes) + (1 - target) * math.log(1 - yes)
    assert smoothed.loss(outputs, torch.from_numpy(labels)).item() == pytest.approx(total / labels.size)
    start = torch.zeros(*labels.shape, requires_grad=True)
    smoothed.loss(start, torch.from_numpy(labels)).backward()
    assert start.grad is not None
    assert smoothed.initial_gradient(labels) == pytest.approx(start.grad.norm().item())
