import math
from functools import partial

import numpy as np
import pytest

from pipeline.functional import kernel_probe, linear, logistic
from pipeline.functional.kernel_probe import KernelFit
from pipeline.functional.metrics import log_loss

SHARPNESS, STRENGTHS = [0.5, 2.0], [1.0, 100.0]


def crossed(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points of the plane in four quadrants, opposite ones of one class: no line tells the classes apart."""
    points = np.random.default_rng(seed).standard_normal((rows, 2)).astype(np.float32)
    return points, (points.prod(1) > 0).astype(np.int64)


fit = partial(kernel_probe.fit, logistic)


def outputs(fitted: KernelFit, rows: np.ndarray) -> np.ndarray:
    near = kernel_probe.kernel(kernel_probe.unit(rows), fitted.landmarks, fitted.sharpness)
    return fitted.linear.outputs(near)


@pytest.fixture(scope="module")
def fitted() -> KernelFit:
    train, labels = crossed(80, 0)
    return fit(train, labels, linear.folds(labels, 0), *crossed(60, 1), train, SHARPNESS, STRENGTHS)


def test_logits_are_kernels_with_the_landmarks(fitted: KernelFit):
    rows = crossed(5, 2)[0]
    for row, logits in zip(rows.astype(np.float64), outputs(fitted, rows), strict=True):
        unit = row / math.sqrt(sum(row**2))
        for c in range(2):
            total = float(fitted.linear.bias[c])
            for landmark, weight in zip(fitted.landmarks, fitted.linear.weight[c], strict=True):
                total += math.exp(-fitted.sharpness * sum((unit - landmark) ** 2)) * weight
            assert logits[c] == pytest.approx(total, abs=2e-3)


def test_it_knows_what_no_linear_probe_can(fitted: KernelFit):
    rows, labels = crossed(300, 3)
    assert (outputs(fitted, rows).argmax(1) == labels).mean() > 0.9


def test_lengths_of_rows_do_not_matter(fitted: KernelFit):
    rows = crossed(20, 4)[0]
    longer = rows * np.linspace(0.5, 30, 20, dtype=np.float32)[:, None]
    np.testing.assert_allclose(outputs(fitted, longer), outputs(fitted, rows), atol=1e-3)


def test_two_classes_have_two_logits_of_opposite_sign(fitted: KernelFit):
    logits = outputs(fitted, crossed(20, 5)[0])
    np.testing.assert_allclose(logits[:, 0], -logits[:, 1], atol=1e-3)


def test_the_candidate_with_the_least_validation_loss_is_kept(fitted: KernelFit):
    train, labels = crossed(80, 0)
    val, val_labels = crossed(60, 1)
    folds = linear.folds(labels, 0)
    losses = {
        (sharp, strength): fit(train, labels, folds, val, val_labels, train, [sharp], [strength]).linear.val_loss
        for sharp in SHARPNESS
        for strength in STRENGTHS
    }
    assert (fitted.sharpness, fitted.linear.strength) == min(losses, key=losses.__getitem__)
    assert fitted.linear.val_loss == pytest.approx(min(losses.values()), rel=1e-3)
    assert log_loss(outputs(fitted, val), val_labels) == pytest.approx(fitted.linear.val_loss, abs=1e-4)


def test_with_all_rows_as_landmarks_it_is_kernel_logistic_regression():
    """At the optimum of strength * loss + |w|^2 / 2, w is strength * sum_i residual_i phi_i, phi centred."""
    rows = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)
    labels = np.arange(30) % 3
    probe = fit(rows, labels, linear.folds(labels, 0), rows, labels, rows, [1.0], [3.0])
    logits = outputs(probe, rows).astype(np.float64)
    said = np.exp(logits - logits.max(1, keepdims=True))
    residual = 3.0 * (np.eye(3)[labels] - said / said.sum(1, keepdims=True))
    centring = np.eye(30) - 1 / 30
    values = kernel_probe.kernel(probe.landmarks, probe.landmarks, 1.0).astype(np.float64)
    np.testing.assert_allclose(centring @ logits, centring @ values @ centring @ residual, atol=0.01)


def test_a_few_landmarks_are_enough_for_a_simple_task():
    train, labels = crossed(200, 0)
    probe = fit(train, labels, linear.folds(labels, 0), *crossed(60, 1), train[:20], SHARPNESS, STRENGTHS)
    rows, truth = crossed(300, 3)
    assert probe.landmarks.shape == (20, 2)
    assert (outputs(probe, rows).argmax(1) == truth).mean() > 0.85


def test_the_fit_without_a_fold_does_not_see_its_labels(fitted: KernelFit):
    train, labels = crossed(80, 0)
    folds = linear.folds(labels, 0)
    flipped = np.where(folds == 2, 1 - labels, labels)
    again = fit(train, flipped, folds, *crossed(60, 1), train, [fitted.sharpness], [fitted.linear.strength])
    assert np.array_equal(again.fold_weight[2], fitted.fold_weight[2])
    assert not np.array_equal(again.fold_weight[1], fitted.fold_weight[1])
    # And it is a probe like any other: it predicts as a probe of the other rows does.
    rows, truth = crossed(300, 3)
    near = kernel_probe.kernel(kernel_probe.unit(rows), fitted.landmarks, fitted.sharpness)
    for weight, bias in zip(fitted.fold_weight, fitted.fold_bias, strict=True):
        assert ((near @ weight.T + bias).argmax(1) == truth).mean() > 0.85
