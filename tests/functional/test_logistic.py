import math
from collections.abc import Iterator

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from pipeline.functional import logistic
from pipeline.functional.linear import FOLDS
from pipeline.functional.linear import folds as folds_of
from pipeline.functional.metrics import log_loss


def minima(rows: np.ndarray, labels: np.ndarray, strengths: list[float]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    return logistic.minima(rows, np.eye(labels.max() + 1)[labels], strengths)


def blobs(n: int, d: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping classes, in features whose scales differ a thousandfold and whose means are far from 0."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    rows = random.normal(size=(n, d)) + np.random.default_rng(9).normal(size=(classes, d))[labels]
    return rows * np.logspace(-1.5, 1.5, d) + 5, labels


def loss(rows: np.ndarray, labels: np.ndarray, weight: np.ndarray, bias: np.ndarray, strength: float) -> float:
    """What is to be least, in plain loops."""
    total = sum(float(w) ** 2 for w in weight.ravel()) / (2 * strength)
    for row, label in zip(rows, labels, strict=True):
        logits = [sum(x * w for x, w in zip(row, column, strict=True)) for column in weight.T]
        logits = [logit + float(b) for logit, b in zip(logits, bias, strict=True)]
        top = max(logits)
        total += top + math.log(sum(math.exp(logit - top) for logit in logits)) - logits[label]
    return total


@pytest.mark.parametrize(("n", "d", "classes"), [(40, 3, 2), (60, 5, 4), (12, 30, 3)])
@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_nothing_near_is_better(n: int, d: int, classes: int, strength: float):
    rows, labels = blobs(n, d, classes)
    ((weight, bias),) = minima(rows, labels, [strength])
    least = loss(rows, labels, weight, bias, strength)
    random = np.random.default_rng(1)
    for size in (0.3, 0.03):
        for _ in range(5):
            # As large a change in each feature's share of the logits, whatever the feature's scale.
            other = weight + size * random.normal(size=weight.shape) / rows.std(0)[:, None]
            assert loss(rows, labels, other, bias - (rows.mean(0) @ (other - weight)), strength) > least
            assert loss(rows, labels, weight, bias + size * random.normal(size=classes), strength) > least


@pytest.mark.parametrize(("n", "d"), [(90, 6), (20, 50)])
@pytest.mark.parametrize("strength", [0.01, 1.0, 10.0])
def test_agrees_with_a_general_solver(n: int, d: int, strength: float):
    rows, labels = blobs(n, d, 3)
    standard = (rows - rows.mean(0)) / rows.std(0)  # or the general solver does not arrive
    ((there, offset),) = minima(standard, labels, [strength])
    model = LogisticRegression(C=strength, tol=1e-10, max_iter=100_000).fit(standard, labels)
    np.testing.assert_allclose(there.T, model.coef_, atol=0.01 * abs(model.coef_).max())
    np.testing.assert_allclose(offset, model.intercept_ - model.intercept_.mean(), atol=0.01)


def test_the_way_to_a_minimum_does_not_matter():
    rows, labels = blobs(50, 4, 3)
    _, (after_weight, after_bias) = minima(rows, labels, [0.1, 5.0])
    ((weight, bias),) = minima(rows, labels, [5.0])
    np.testing.assert_allclose(rows @ after_weight + after_bias, rows @ weight + bias, atol=0.01)


def test_shifting_and_turning_the_rows_changes_no_logit():
    rows, labels = blobs(50, 4, 3)
    turn, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(4, 4)))
    ((weight, bias),) = minima(rows, labels, [2.0])
    ((turned, shifted),) = minima(rows @ turn + 100, labels, [2.0])
    np.testing.assert_allclose((rows @ turn + 100) @ turned + shifted, rows @ weight + bias, atol=0.01)


def test_single_precision_loses_nothing_that_matters():
    rows, labels = blobs(200, 8, 3)
    exact, rough = (next(minima(rows.astype(t), labels, [1.0])) for t in (np.float64, np.float32))
    np.testing.assert_allclose(rows @ rough[0] + rough[1], rows @ exact[0] + exact[1], atol=0.02)


def test_two_classes_have_opposite_rows():
    fitted = logistic.fit(*blobs(40, 3, 2), *blobs(30, 3, 2, seed=1), [1.0])
    np.testing.assert_allclose(fitted.weight[0], -fitted.weight[1], atol=1e-5)
    assert fitted.bias[0] == pytest.approx(-fitted.bias[1], abs=1e-5)
    assert fitted.weight.flags.c_contiguous


def test_rows_that_are_all_equal_give_the_share_of_each_class():
    labels = np.array([0, 0, 0, 1])
    ((weight, bias),) = minima(np.ones((4, 2)), labels, [1.0])
    assert not weight.any()
    assert np.exp(bias[0] - bias[1]) == pytest.approx(3, rel=1e-3)


def test_validation_rows_choose_among_strengths_in_any_order():
    train, val = blobs(60, 20, 3), blobs(60, 20, 3, seed=1)
    strengths = [10.0, 0.001, 0.01, 1.0, 0.1]
    losses = {strength: logistic.fit(*train, *val, [strength]).val_loss for strength in strengths}
    fitted = logistic.fit(*train, *val, strengths)
    assert min(losses, key=losses.__getitem__) not in (0.001, 10.0)
    assert fitted.strength == min(losses, key=losses.__getitem__)
    assert fitted.val_loss == pytest.approx(losses[fitted.strength], rel=1e-3)
    assert log_loss(fitted.outputs(val[0]), val[1]) == pytest.approx(fitted.val_loss, rel=1e-5)


def test_strengths_past_the_first_that_does_worse_are_not_tried(monkeypatch: pytest.MonkeyPatch):
    train, val = blobs(60, 20, 3), blobs(60, 20, 3, seed=1)
    tried = []
    search = logistic._minimum
    monkeypatch.setattr(
        logistic, "_minimum", lambda rows, wanted, s, *rest: (tried.append(s), search(rows, wanted, s, *rest))[1]
    )
    best = logistic.fit(*train, *val, [1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1e3]).strength
    assert tried[-2] == best
    assert len(tried) < 7


def test_folds_spread_every_class_evenly_and_at_random():
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [40, 13, 2]))
    folds = folds_of(labels, 3)
    for c, rows in ((0, 40), (1, 13), (2, 2)):
        counts = np.bincount(folds[labels == c], minlength=FOLDS)
        assert counts.sum() == rows
        assert counts.max() - counts.min() <= 1
    assert np.array_equal(folds, folds_of(labels, 3))
    assert not np.array_equal(folds, folds_of(labels, 4))


def test_a_cross_fit_never_sees_the_labels_of_the_fold():
    rows, labels = blobs(60, 4, 3)
    folds = folds_of(labels, 0)
    weights, biases = logistic.cross_fit(rows, labels, folds, 1.0)
    assert weights.shape == (FOLDS, 3, 4)
    assert biases.shape == (FOLDS, 3)
    for fold in range(FOLDS):
        others = folds != fold
        weight, bias = next(minima(rows[others], labels[others], [1.0]))
        np.testing.assert_allclose(weights[fold], weight.T, atol=1e-4)
        np.testing.assert_allclose(biases[fold], bias, atol=1e-4)
    lies = np.where(folds == 2, (labels + 1) % 3, labels)
    assert np.array_equal(logistic.cross_fit(rows, lies, folds, 1.0)[0][2], weights[2])
    assert not np.array_equal(logistic.cross_fit(rows, lies, folds, 1.0)[0][1], weights[1])


def test_a_class_of_one_row_does_not_vanish_from_its_folds_fit():
    rows, labels = blobs(30, 4, 3)
    labels[labels == 2] = 0
    labels[7] = 2
    weights, biases = logistic.cross_fit(rows, labels, folds_of(labels, 0), 1.0)
    assert np.isfinite(weights).all()
    assert np.abs(biases).max() < 10
