"""Ridge regression: a stationary point of its objective, scikit-learn's solution, invariances."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from pipeline.functional import ridge
from pipeline.functional.linear import FOLDS, folds


def problem(n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(n)
    rows = (random.normal(size=(n, d)) * np.geomspace(10, 0.01, d) + 3).astype(np.float32)
    return rows, (1000 + 5 * rows[:, 0] - 40 * rows[:, -1] + random.normal(size=n)).astype(np.float32)


@pytest.mark.parametrize(("n", "d"), [(50, 7), (7, 50)])
@pytest.mark.parametrize("strength", [1e-4, 1.0, 1e3])
def test_equals_scikit_learn(n: int, d: int, strength: float):
    rows, labels = problem(n, d)
    [(weight, bias)] = ridge.minima(rows, labels, [strength])
    wanted = Ridge(alpha=1 / strength).fit(rows.astype(np.float64), labels.astype(np.float64))
    assert weight == pytest.approx(wanted.coef_, rel=1e-3, abs=1e-3)
    assert rows @ weight + bias == pytest.approx(wanted.predict(rows.astype(np.float64)), rel=1e-5)


def test_validation_rows_choose_the_strength():
    rows, labels = problem(60, 30)
    strengths = [100.0, 1e-6, 0.1]
    found = ridge.fit(rows[:40], labels[:40], rows[40:], labels[40:], strengths)
    losses = {}
    for strength in strengths:
        [(weight, bias)] = ridge.minima(rows[:40], labels[:40], [strength])
        losses[strength] = np.square(rows[40:] @ weight + bias - labels[40:]).mean()
    assert found.strength == min(losses, key=losses.__getitem__)
    assert found.val_loss == pytest.approx(losses[found.strength])
    assert found.outputs(rows[40:])[:, 0] == pytest.approx(rows[40:] @ found.weight[0] + found.bias[0])


def test_scaled_and_shifted_labels_give_scaled_and_shifted_outputs():
    rows, labels = problem(40, 5)
    [(weight, bias)] = ridge.minima(rows, labels, [0.5])
    [(other, moved)] = ridge.minima(rows, 3 * labels - 100, [0.5])
    assert other == pytest.approx(3 * weight, rel=1e-3)
    assert moved == pytest.approx(3 * bias - 100, rel=1e-4)


def test_cross_fitted_number_k_has_not_seen_fold_k():
    rows, labels = problem(23, 4)
    fold_of = folds(np.zeros(23, np.int64), 0)
    weights, biases = ridge.cross_fit(rows, labels, fold_of, 1.0)
    assert (weights.shape, biases.shape) == ((FOLDS, 1, 4), (FOLDS, 1))
    for fold in range(FOLDS):
        changed = np.where(fold_of == fold, 0, labels).astype(np.float32)
        assert (ridge.cross_fit(rows, changed, fold_of, 1.0)[0][fold] == weights[fold]).all()


def test_what_is_constant_has_no_weight():
    rows, labels = problem(9, 3)
    [(weight, bias)] = ridge.minima(np.ones_like(rows), labels, [1.0])
    assert (weight == 0).all()
    assert bias == pytest.approx(labels.mean())
    [(weight, bias)] = ridge.minima(rows, np.full_like(labels, 7), [1.0])
    assert weight == pytest.approx(0, abs=1e-6)
    assert rows @ weight + bias == pytest.approx(7)
