"""Regression: labels, losses and scores against their definitions and scikit-learn."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics

from pipeline import tasks
from pipeline.errors import UserError


@pytest.fixture
def labels() -> np.ndarray:
    return np.random.default_rng(0).normal(50, 8, 40).astype(np.float32)


@pytest.fixture
def task(labels: np.ndarray) -> tasks.Task:
    return tasks.build("regression", ["value"], "kWh").fitted(labels)


def test_labels_are_numbers_in_many_notations():
    labels, outputs = tasks.encode("regression", ["1", "1.0", "-2.5", "1e3", "007"])
    assert labels.tolist() == [1, 1, -2.5, 1000, 7]
    assert (labels.dtype, outputs) == (np.float32, ("value",))


@pytest.mark.parametrize(
    ("label", "problem"),
    [
        ("nan", "not a finite number"),
        ("inf", "not a finite number"),
        ("-Infinity", "not a finite number"),
        ("1e39", "not a finite number"),
        ("4 stars", "'4 stars' is not a number"),
        ("", "not a number"),
        ("1,5", "'1,5' is not a number"),
    ],
)
def test_what_is_not_a_finite_number_is_refused(label: str, problem: str):
    with pytest.raises(tasks.LabelError, match=problem) as caught:
        tasks.encode("regression", ["1", label])
    assert caught.value.label == label


def test_settings_of_other_tasks_are_refused():
    with pytest.raises(UserError, match=r"dataset.classes: a regression has no classes"):
        tasks.encode("regression", [], ["a", "b"])
    with pytest.raises(UserError, match=r"dataset.unit: write percent"):
        tasks.build("regression", ["value"], "%")
    with pytest.raises(UserError, match=r"dataset.unit: 'kWh': classes have no unit"):
        tasks.build("classification", ["a", "b"], "kWh")


def test_labels_must_differ_by_what_single_precision_can_tell_apart(task: tasks.Task):
    task.check(np.array([1, 2, np.nan], np.float32))
    with pytest.raises(UserError, match="all rows have the label 3; there is nothing to learn"):
        task.check(np.array([3, 3, np.nan], np.float32))
    with pytest.raises(UserError, match=r"near 1.7e\+09 and differ by 1.3e\+02 only.*subtract a constant"):
        task.check(np.float32(1.7e9) + np.array([-128, 128], np.float32))
    with pytest.raises(UserError, match="split 1: 2 labelled training rows with one and the same label; label more"):
        task.check_training(np.array([3, 3], np.float32), "split 1")
    with pytest.raises(UserError, match="split 1: no labelled training row; label more"):
        task.check_training(np.array([], np.float32), "split 1")


def test_the_last_layer_has_mean_0_and_deviation_1(task: tasks.Task, labels: np.ndarray):
    assert task.shift == pytest.approx(labels.mean())
    assert task.scale == pytest.approx(labels.std())
    assert task.targets(labels).mean() == pytest.approx(0, abs=1e-6)
    assert task.targets(labels).std() == pytest.approx(1)


def test_loss_and_divergence_are_their_definitions_in_any_unit(task: tasks.Task, labels: np.ndarray):
    random = np.random.default_rng(1)
    student, teacher = (random.normal(50, 8, (40, 1)) for _ in range(2))
    spread = float(labels.std())
    loss = sum(((s - y) / spread) ** 2 for s, y in zip(student[:, 0].tolist(), labels.tolist(), strict=True)) / 40
    assert task.loss(torch.from_numpy(student), torch.from_numpy(labels)).item() == pytest.approx(loss)
    gap = sum(((s - t) / spread) ** 2 for s, t in zip(student[:, 0].tolist(), teacher[:, 0].tolist(), strict=True)) / 40
    assert task.divergence(torch.from_numpy(student), torch.from_numpy(teacher), 4.0).item() == pytest.approx(gap)
    grams = tasks.build("regression", ["value"]).fitted(1000 * labels)
    assert grams.loss(torch.from_numpy(1000 * student), torch.from_numpy(1000 * labels)).item() == pytest.approx(
        loss, rel=1e-5
    )


def test_scores_equal_scikit_learns(task: tasks.Task, labels: np.ndarray):
    outputs = labels[:, None] + np.random.default_rng(2).normal(0, 4, (40, 1)).round()  # some ties
    scores = task.scores(outputs, labels)
    assert scores["rmse"] == pytest.approx(metrics.root_mean_squared_error(labels, outputs[:, 0]))
    assert scores["mae"] == pytest.approx(metrics.mean_absolute_error(labels, outputs[:, 0]))
    assert scores["r2"] == pytest.approx(metrics.r2_score(labels, outputs[:, 0]))
    assert scores["spearman"] == pytest.approx(stats.spearmanr(labels, outputs[:, 0]).statistic)
    tied = outputs.round(-1)
    assert task.scores(tied, labels.round(-1))["spearman"] == pytest.approx(
        stats.spearmanr(labels.round(-1), tied[:, 0]).statistic
    )
    assert np.isnan(task.scores(np.full((40, 1), 50.0), labels)["spearman"])
    assert [(metric.unit, metric.higher_is_better) for metric in task.metrics] == [
        ("kWh", False), ("kWh", False), ("", True), ("", True),
    ]  # fmt: skip


def test_row_scores_have_the_standard_error_of_an_rmse():
    """By the bootstrap: the spread of the RMSE over samples of rows."""
    random = np.random.default_rng(3)
    task, errors = tasks.build("regression", ["value"]), random.normal(0, 2, 400)
    labels, outputs = np.zeros(400, np.float32), errors[:, None]
    rows = task.row_scores(outputs, labels)
    again = [np.sqrt(np.square(random.choice(errors, 400)).mean()) for _ in range(2000)]
    assert rows.std() / 20 == pytest.approx(np.std(again), rel=0.1)
    assert (task.row_scores(np.zeros((3, 1)), np.zeros(3, np.float32)) == 0).all()


def test_strata_are_bins_of_about_as_many_rows_and_equal_labels_stay_together(task: tasks.Task):
    assert np.bincount(task.strata(np.arange(100, dtype=np.float32))).tolist() == [20] * 5
    counts = np.random.default_rng(4).integers(0, 3, 100).astype(np.float32)
    strata = task.strata(counts)
    assert len({(value, stratum) for value, stratum in zip(counts, strata, strict=True)}) == 3
    assert (np.diff(strata[np.argsort(counts, kind="stable")]) >= 0).all()
    zeros = np.array([0] * 97 + [1, 2, 3], np.float32)
    assert np.bincount(task.strata(zeros)).min() >= 5
    assert task.strata(np.array([1, 2], np.float32)).tolist() == [0, 0]


def test_predictions_that_hardly_differ_are_a_collapse(task: tasks.Task, labels: np.ndarray):
    assert task.collapsed(np.full((5, 1), 50.0) + np.arange(5)[:, None] / 100)
    assert not task.collapsed(50.0 + np.arange(5)[:, None])
