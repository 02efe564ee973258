"""Classification: labels, losses and scores against their definitions in plain loops."""

import math

import numpy as np
import pytest
import torch

from pipeline import tasks
from pipeline.errors import UserError


@pytest.fixture
def task() -> tasks.Task:
    return tasks.build("classification", ["bad", "good", "plain"])


def log_softmax(row: list[float]) -> list[float]:
    total = math.log(sum(math.exp(x) for x in row))
    return [x - total for x in row]


def test_classes_are_sorted_unless_they_are_given():
    labels, classes = tasks.encode("classification", ["good", "bad", "plain"])
    assert (labels.tolist(), classes) == ([1, 0, 2], ("bad", "good", "plain"))
    labels, classes = tasks.encode("classification", ["10", "9", "1"])
    assert (labels.tolist(), classes) == ([2, 1, 0], ("1", "9", "10"))
    labels, classes = tasks.encode("classification", ["b"], ["b", "a"])
    assert (labels.tolist(), classes) == ([0], ("b", "a"))


def test_what_cannot_be_encoded_is_refused():
    with pytest.raises(tasks.LabelError, match=r"label 'c' is not in dataset.classes: b, a") as caught:
        tasks.encode("classification", ["b", "c"], ["b", "a"])
    assert caught.value.label == "c"
    with pytest.raises(UserError, match="a name occurs twice"):
        tasks.encode("classification", [], ["a", "a"])
    with pytest.raises(UserError, match=r"dataset.task: no 'clasification'.*did you mean `classification`"):
        tasks.build("clasification", [])


def test_every_class_needs_rows(task: tasks.Task):
    task.check(np.array([0, 1, 2, -1]))
    with pytest.raises(UserError, match="no row has the label 'good'"):
        task.check(np.array([0, 2, -1]))
    with pytest.raises(UserError, match="nothing to tell apart"):
        tasks.build("classification", ["a"]).check(np.zeros(3, np.int64))
    tasks.build("classification", []).check(np.full(3, -1))
    with pytest.raises(UserError, match="split 1: no labelled training row of class 'plain'; label more rows"):
        task.check_training(np.array([0, 1]), "split 1")


def test_loss_divergence_and_combination_are_their_definitions(task: tasks.Task):
    random = torch.Generator().manual_seed(0)
    student, one, other = (torch.randn(7, 3, generator=random, dtype=torch.float64) for _ in range(3))
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    losses = [-log_softmax(row)[label] for row, label in zip(student.tolist(), labels.tolist(), strict=True)]
    assert task.loss(student, labels).item() == pytest.approx(sum(losses) / 7)
    both = task.combine([one, other])
    total = 0.0
    for i in range(7):
        mean = [(a + b) / 2 for a, b in zip(log_softmax(one[i].tolist()), log_softmax(other[i].tolist()), strict=True)]
        assert both[i].tolist() == pytest.approx(mean)
        teacher = log_softmax([x / 3 for x in mean])
        pupil = log_softmax([x / 3 for x in student[i].tolist()])
        total += sum(math.exp(p) * (p - q) for p, q in zip(teacher, pupil, strict=True))
    assert task.divergence(student, both, 3.0).item() == pytest.approx(9 * total / 7)
    assert abs(task.divergence(student, student + 5, 1.0).item()) < 1e-12


def test_the_initial_gradient_is_that_of_equal_logits(task: tasks.Task):
    labels = torch.tensor([0, 1, 2, 2, 2])
    outputs = torch.zeros(5, 3, requires_grad=True)
    task.loss(outputs, labels).backward()
    assert outputs.grad is not None
    assert task.initial_gradient(labels.numpy()) == pytest.approx(outputs.grad.norm().item())


def test_scores_are_counted(task: tasks.Task):
    outputs = np.array([[2.0, 1, 0], [0, 2, 1], [0, 2, 1], [2, 0, 1]])
    labels = np.array([0, 1, 2, 2])
    scores = task.scores(outputs, labels)
    assert list(scores) == [metric.name for metric in task.metrics]
    assert scores["accuracy"] == task.score(outputs, labels) == 0.5
    assert scores["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert scores["log_loss"] == pytest.approx(
        sum(-log_softmax(r)[y] for r, y in zip(outputs.tolist(), labels, strict=True)) / 4
    )
    assert task.largest_share(outputs) == 0.5
    assert task.row_scores(outputs, labels).tolist() == [1, 1, 0, 0]
    assert not task.collapsed(outputs)
    assert task.collapsed(outputs[1:3])
    assert task.better(0.6, 0.5)


def test_the_baseline_predicts_the_most_frequent_class_with_its_share(task: tasks.Task):
    labels = np.array([2, 2, 2, 1])
    best = np.tile(task.baseline(labels), (4, 1))
    assert task.score(best, labels) == 0.75
    assert task.scores(best, labels)["log_loss"] == pytest.approx(-(3 * math.log(0.75) + math.log(0.25)) / 4)


def test_targets_are_one_hot(task: tasks.Task):
    assert task.targets(np.array([2, 0])).tolist() == [[0, 0, 1], [1, 0, 0]]


def test_whole_numbers_are_one_class_in_both_notations():
    labels, classes = tasks.encode("classification", ["1", "0.0", "1.0", "10"])
    assert (labels.tolist(), classes) == ([1, 0, 1, 2], ("0", "1", "10"))
    labels, classes = tasks.encode("classification", ["1.0", "0"], ["1", "0"])
    assert (labels.tolist(), classes) == ([0, 1], ("1", "0"))
    assert tasks.encode("classification", ["007", "7", "1.5", "True"])[1] == ("007", "1.5", "7", "True")
    for wrong in ("nan", "inf"):
        with pytest.raises(tasks.LabelError, match=f"label '{wrong}' is not a finite number"):
            tasks.encode("classification", ["1", wrong])


def test_the_task_is_found_from_labels_that_are_plain_and_asked_for_where_they_are_numbers():
    assert tasks.find(["good", "1"]) == tasks.find(["True", "False"]) == tasks.find([]) == "classification"
    assert tasks.find([("sun", "sea"), ()]) == "multilabel"
    assert tasks.find(["R&B; Soul", "Jazz", "Pop"]) == tasks.find(["toys, games", "toys", "games"]) == "classification"
    assert tasks.find(["b", "s", "b;s"], ["b", "s", "b;s"]) == "classification"
    with pytest.raises(tasks.LabelError, match=r"'b;s' looks like several: .*';', or dataset.task: classification"):
        tasks.find(["b", "s", "b;s"])
    for labels in (["1", "2"], ["0.5", "nan"], ["-1", "1e3"]):
        with pytest.raises(UserError, match=r"dataset.task: the labels are numbers.*`task: regression`.*`task: class"):
            tasks.find(labels)


@pytest.mark.parametrize("weights", ["balanced", {"plain": 5.0}])
def test_weighted_losses_are_their_definition(task: tasks.Task, weights: tasks.ClassWeights):
    labels = np.array([0, 1, 2, 2, 2, 1])
    of_class = [6 / 3, 6 / 6, 6 / 9] if weights == "balanced" else [1, 1, 5]
    outputs = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    losses = [-of_class[y] * log_softmax(row)[y] for row, y in zip(outputs.tolist(), labels, strict=True)]
    weighted = task.fitted(labels, weights)
    total = sum(of_class[y] for y in labels)
    assert weighted.loss(outputs, torch.from_numpy(labels)).item() == pytest.approx(sum(losses) / total)
    start = torch.zeros(6, 3, requires_grad=True)
    weighted.loss(start, torch.from_numpy(labels)).backward()
    assert start.grad is not None
    assert weighted.initial_gradient(labels) == pytest.approx(start.grad.norm().item())
    assert weighted.scores(outputs.numpy(), labels) == task.scores(outputs.numpy(), labels)


def test_a_weight_of_an_unknown_class_is_refused(task: tasks.Task):
    with pytest.raises(UserError, match=r"train.class_weights: no class 'god'; there are bad, good, plain"):
        task.fitted(np.array([0, 1, 2]), {"god": 2.0})


@pytest.mark.parametrize("weights", [None, "balanced", {"plain": 5.0}])
def test_losses_of_mixtures_are_their_definition(task: tasks.Task, weights: tasks.ClassWeights | None):
    labels, others = np.array([0, 1, 1, 2, 2, 2]), np.array([2, 1, 0, 0, 1, 2])
    shares = np.array([0.0, 0.5, 0.9, 0.25, 1.0, 0.6])
    of_class = [1.0] * 3 if weights is None else [6 / 3, 6 / 6, 6 / 9] if weights == "balanced" else [1, 1, 5]
    outputs = np.random.default_rng(0).normal(size=(6, 3))
    total = mass = 0.0
    for row in range(6):
        logs = log_softmax(outputs[row].tolist())
        for label, share in ((labels[row], shares[row]), (others[row], 1 - shares[row])):
            total -= share * of_class[label] * logs[label]
            mass += share * of_class[label]
    tensors = [torch.from_numpy(each) for each in (outputs, labels, others, shares)]
    assert task.fitted(labels, weights).mixed_loss(*tensors).item() == pytest.approx(total / mass)


@pytest.mark.parametrize("weights", [None, {"plain": 5.0}])
def test_smoothed_losses_are_their_definition(task: tasks.Task, weights: tasks.ClassWeights | None):
    labels, smoothing = np.array([0, 1, 2, 2, 2, 1]), 0.3
    of_class = [1.0, 1.0, 5.0] if weights else [1.0, 1.0, 1.0]
    outputs = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    total = 0.0
    for row, y in zip(outputs.tolist(), labels.tolist(), strict=True):
        logs = log_softmax(row)
        total -= (1 - smoothing) * of_class[y] * logs[y]
        total -= smoothing * sum(w * log for w, log in zip(of_class, logs, strict=True)) / 3
    smoothed = task.fitted(labels, weights, smoothing)
    rows = torch.from_numpy(labels)
    mean = total / sum(of_class[y] for y in labels)
    assert smoothed.loss(outputs, rows).item() == pytest.approx(mean)
    whole = torch.ones(6, dtype=torch.float64)
    assert smoothed.mixed_loss(outputs, rows, rows.flip(0), whole).item() == pytest.approx(mean)
    start = torch.zeros(6, 3, requires_grad=True)
    smoothed.loss(start, rows).backward()
    assert start.grad is not None
    assert smoothed.initial_gradient(labels) == pytest.approx(start.grad.norm().item())
