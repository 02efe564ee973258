"""What every task promises; a new file is tested as soon as it has an example in `cases.py`."""

import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from pipeline import tasks
from pipeline.plugins import plugins
from pipeline.tasks import Task

from .cases import CASES

NAMES = sorted(plugins("tasks"))


def test_every_task_has_a_case():
    assert sorted(CASES) == NAMES


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def labels(name: str) -> np.ndarray:
    return CASES[name].encode(name)[1]


@pytest.fixture
def task(name: str, labels: np.ndarray) -> Task:
    return CASES[name].encode(name)[0].fitted(labels)


def outputs_of(task: Task, n: int, seed: int = 0) -> np.ndarray:
    """What an untrained student may give: random numbers of a last layer, in the labels' unit."""
    z = np.random.default_rng(seed).normal(size=(n, len(task.outputs)))
    return (z * task.scale + task.shift).astype(np.float32)


def test_labels_are_arrays_of_the_tasks_dtype(task: Task, labels: np.ndarray):
    assert labels.dtype == task.dtype
    task.check(labels)
    task.check_training(labels, "split 0")
    assert task.targets(labels).shape == (len(labels), len(task.outputs))


def test_a_model_agrees_with_itself_more_than_with_another(task: Task, labels: np.ndarray):
    one, other = outputs_of(task, len(labels)), outputs_of(task, len(labels), seed=1)
    assert task.agreement(one, one) == pytest.approx(1.0)
    assert task.agreement(one, other) == pytest.approx(task.agreement(other, one))
    assert task.agreement(one, other) < 0.95


def test_more_scores_have_their_names_and_a_fitted_temperature_undoes_a_scale(task: Task, labels: np.ndarray):
    outputs = outputs_of(task, len(labels)) + task.targets(labels)  # knows something of the labels
    found = task.more_scores(outputs, labels, outputs, labels)
    assert list(found) == [metric.name for metric in task.more]
    if task.probabilities(outputs) is None:
        return
    surer = task.more_scores(5 * outputs, labels, 5 * outputs, labels)
    assert surer["temperature"] == pytest.approx(5 * found["temperature"], rel=1e-3)
    scaled = "calibration_error_at_temperature"
    assert surer[scaled] == pytest.approx(found[scaled], abs=1e-3) and surer[scaled] < surer["calibration_error"]
    assert np.isnan(task.more_scores(outputs, labels, outputs[:0], labels[:0])["temperature"])


def test_rows_weigh_the_same_where_classes_have_no_weights(task: Task, labels: np.ndarray):
    assert (task.row_weights(labels) == 1).all()


def test_a_task_is_built_again_from_its_outputs(name: str, task: Task, labels: np.ndarray):
    again = tasks.build(name, list(task.outputs)).fitted(labels)
    outputs = outputs_of(task, len(labels))
    assert again.outputs == task.outputs
    assert again.scores(outputs, labels) == task.scores(outputs, labels)


def test_unknown_labels_have_no_stratum_and_known_ones_do(task: Task, labels: np.ndarray):
    some = np.concatenate([labels, np.full_like(labels[:3], task.missing)])
    strata = task.strata(some)
    assert (strata[-3:] == -1).all()
    assert (strata[:-3] == task.strata(labels)).all()
    assert strata[:-3].min() >= 0
    assert all(task.stratum(int(number)) for number in np.unique(strata[:-3]))
    assert np.bincount(strata[:-3])[np.unique(strata[:-3])].min() >= 3
    assert (task.strata(np.full_like(labels, task.missing)) == -1).all()


def test_the_loss_is_a_mean_over_rows_and_falls_along_its_gradient(task: Task, labels: np.ndarray):
    outputs = torch.from_numpy(outputs_of(task, len(labels))).double().requires_grad_()
    known = torch.from_numpy(labels)
    loss = task.loss(outputs, known)
    rows = [task.loss(outputs[i : i + 1], known[i : i + 1]).item() for i in range(len(labels))]
    assert loss.item() == pytest.approx(np.mean(rows))
    loss.backward()
    assert outputs.grad is not None
    step = task.scale**2 * outputs.grad / 10
    assert task.loss(outputs - step, known) < loss


def test_the_divergence_is_zero_iff_equal_and_its_gradient_points_away_from_the_teacher(task: Task):
    teacher = torch.from_numpy(outputs_of(task, 8, 1)).double()
    student = torch.from_numpy(outputs_of(task, 8, 2)).double().requires_grad_()
    for temperature in (1.0, 4.0):
        assert task.divergence(teacher, teacher, temperature).item() == pytest.approx(0, abs=1e-9)
        divergence = task.divergence(student, teacher, temperature)
        assert divergence.item() > 1e-3
        (gradient,) = torch.autograd.grad(divergence, student)
        assert ((student - teacher) * gradient).sum() > 0
        nearer = task.divergence(student + (teacher - student) / 10, teacher, temperature)
        assert nearer < divergence


def test_combining_equals_changes_nothing_that_is_compared(task: Task):
    one, other = (torch.from_numpy(outputs_of(task, 8, seed)).double() for seed in (1, 2))
    same = task.combine([one, one])
    assert task.divergence(same, one, 1.0).item() == pytest.approx(0, abs=1e-9)
    assert torch.allclose(task.combine([one, other]), task.combine([other, one]))


def test_the_initial_gradient_is_that_of_a_last_layer_at_zero(task: Task, labels: np.ndarray):
    last = torch.zeros(len(labels), len(task.outputs), dtype=torch.float64, requires_grad=True)
    task.loss(last * task.scale + task.shift, torch.from_numpy(labels)).backward()
    assert last.grad is not None
    assert task.initial_gradient(labels) == pytest.approx(last.grad.norm().item(), rel=1e-5)


def test_row_scores_have_the_mean_of_the_primary_score(task: Task, labels: np.ndarray):
    outputs = outputs_of(task, len(labels))
    scores = task.scores(outputs, labels)
    assert list(scores) == [metric.name for metric in task.metrics]
    rows = task.row_scores(outputs, labels)
    assert rows.shape == (len(labels),)
    assert rows.mean() == pytest.approx(scores[task.primary.name]) == pytest.approx(task.score(outputs, labels))


def test_better_follows_the_direction_of_the_primary_score(task: Task, labels: np.ndarray):
    right = best(task, labels)
    wrong = np.roll(right, 1, axis=0)
    assert task.better(task.score(right, labels), task.score(wrong, labels))
    assert not task.better(task.score(wrong, labels), task.score(right, labels))
    for metric in task.metrics:
        sign = 1 if metric.higher_is_better else -1
        assert sign * task.scores(right, labels)[metric.name] > sign * task.scores(wrong, labels)[metric.name]


def best(task: Task, labels: np.ndarray) -> np.ndarray:
    """Outputs that are right for every row: large where the target is, which are its own value for a regression."""
    targets = task.targets(labels)
    return (targets * task.scale + task.shift if not task.classes else 20 * targets - 10).astype(np.float32)


def test_the_baseline_is_the_best_constant(task: Task, labels: np.ndarray):
    known = torch.from_numpy(labels)
    constant = np.tile(task.baseline(labels), (len(labels), 1))
    loss = task.loss(torch.from_numpy(constant), known).item()
    for seed in range(5):
        other = constant + np.random.default_rng(seed).normal(size=constant.shape[1]) * task.scale / 10
        assert task.loss(torch.from_numpy(other), known).item() >= loss - 1e-9
    assert task.collapsed(constant)
    assert not task.collapsed(best(task, labels))


def test_the_linear_model_is_fitted_and_cross_fitted(task: Task, labels: np.ndarray):
    targets = task.targets(labels)
    noise = np.random.default_rng(1).normal(size=(len(labels), 6))
    rows = np.concatenate([targets, noise], axis=1).astype(np.float32)
    found = task.linear.fit(rows, labels, rows, labels, [1.0, 100.0])
    assert (found.weight.dtype, found.weight.shape) == (np.float32, (len(task.outputs), rows.shape[1]))
    constant = np.tile(task.baseline(labels), (len(labels), 1))
    assert task.better(task.score(found.outputs(rows), labels), task.score(constant, labels))
    from pipeline.functional.linear import FOLDS, folds

    weights, biases = task.linear.cross_fit(rows, labels, folds(task.strata(labels), 0), found.strength)
    assert (weights.shape, biases.shape) == ((FOLDS, *found.weight.shape), (FOLDS, *found.bias.shape))


def test_a_split_is_stratified_and_its_order_does_not_matter(task: Task, labels: np.ndarray):
    order = np.random.default_rng(2).permutation(len(labels))
    assert (task.strata(labels[order]) == task.strata(labels)[order]).all()


def test_every_task_is_read_without_torch(name: str):
    code = f"import sys; from pipeline import tasks; tasks.build({name!r}, 'ab'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def refused(name: str, *labels: tasks.Label, names: Sequence[str] | None = None) -> tuple[tasks.Label, str]:
    """The label that is refused, and why, in one line."""
    with pytest.raises(tasks.LabelError) as caught:
        tasks.encode(name, labels, names)
    assert "\n" not in str(caught.value)
    return caught.value.label, str(caught.value)


def test_the_loss_of_a_mixture_is_between_those_of_both_labels(task: Task, labels: np.ndarray):
    outputs = torch.from_numpy(outputs_of(task, len(labels))).requires_grad_()
    own, others = torch.from_numpy(labels), torch.from_numpy(labels[::-1].copy())

    def gradient(loss: torch.Tensor) -> torch.Tensor:
        (found,) = torch.autograd.grad(loss, outputs)
        return found

    for share, same in ((1.0, own), (0.0, others)):
        found = task.mixed_loss(outputs, own, others, torch.full((len(labels),), share))
        torch.testing.assert_close(found, task.loss(outputs, same))
    mixed = gradient(task.mixed_loss(outputs, own, others, torch.full((len(labels),), 0.3)))
    expected = 0.3 * gradient(task.loss(outputs, own)) + 0.7 * gradient(task.loss(outputs, others))
    torch.testing.assert_close(mixed, expected, atol=1e-6, rtol=1e-4)


def test_each_row_of_a_mixture_has_a_share_of_its_own(task: Task, labels: np.ndarray):
    outputs = torch.from_numpy(outputs_of(task, len(labels)))
    own, others = torch.from_numpy(labels), torch.from_numpy(labels[::-1].copy())
    shares = torch.linspace(0, 1, len(labels))
    rows = [task.mixed_loss(outputs[k : k + 1], own[k : k + 1], others[k : k + 1], shares[k : k + 1]) for k in range(9)]
    whole = task.mixed_loss(outputs[:9], own[:9], others[:9], shares[:9])
    torch.testing.assert_close(whole, torch.stack(rows).mean())
