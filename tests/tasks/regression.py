"""A task of one file, for a test: a label is a number, a model's output is one number."""

from collections.abc import Sequence

import numpy as np

from pipeline import tasks
from pipeline.errors import UserError
from pipeline.functional.linear import FOLDS, Linear
from pipeline.records import Metric


def encode(texts: Sequence[str], names: Sequence[str] | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
    values = []
    for text in texts:
        try:
            values.append(float(text))
        except ValueError:
            raise tasks.LabelError(text, f"label {text!r} is not a number") from None
    return np.array(values, np.float32), ("target",)


def build(outputs: Sequence[str]) -> tasks.Task:
    return Regression(outputs)


class Ridge:
    """Linear least squares with an L2 penalty, standardised rows assumed."""

    def fit(self, train, labels, val, val_labels, strengths) -> Linear:
        found = [self._minimum(train, labels, strength) for strength in strengths]
        losses = [float(np.square(val @ weight.T + bias - val_labels[:, None]).mean()) for weight, bias in found]
        best = int(np.argmin(losses))
        return Linear(*found[best], strengths[best], losses[best])

    def cross_fit(self, rows, labels, folds, strength):
        fits = [self._minimum(rows[folds != fold], labels[folds != fold], strength) for fold in range(FOLDS)]
        return np.stack([weight for weight, _ in fits]), np.stack([bias for _, bias in fits])

    def _minimum(self, rows, labels, strength):
        centre, mean = rows.mean(0), labels.mean()
        gram = (rows - centre).T @ (rows - centre) + np.eye(rows.shape[1]) / strength
        weight = np.linalg.solve(gram, (rows - centre).T @ (labels - mean)).astype(np.float32)
        return weight[None], np.array([mean - centre @ weight], np.float32)


class Regression(tasks.Task):
    name = "regression"
    metrics = (Metric(name="mse", label="MSE", higher_is_better=False),)
    dtype = np.dtype(np.float32)
    missing = float("nan")
    linear = Ridge()

    def strata(self, labels):
        known = ~np.isnan(labels)
        strata = np.full(len(labels), -1)
        strata[known] = labels[known] > np.median(labels[known]) if known.any() else -1
        return strata

    def stratum(self, number):
        return ("lower half", "upper half")[number]

    def check(self, labels):
        if len(np.unique(labels[~np.isnan(labels)])) < 2:
            raise UserError("dataset: all labels are equal; there is nothing to learn")

    def check_training(self, labels, where):
        if len(labels) < 2 * FOLDS:
            raise UserError(f"{where}: {len(labels)} labelled training rows are too few; label more rows")

    def targets(self, labels):
        return labels[:, None].astype(np.float64)

    def loss(self, outputs, labels):
        return (outputs[:, 0] - labels).square().mean()

    def divergence(self, outputs, teacher, temperature):
        return (outputs - teacher).square().mean()

    def combine(self, outputs):
        return sum(outputs) / len(outputs)

    def initial_gradient(self, labels):
        return float(2 * np.sqrt(np.square(labels).mean() / len(labels)))

    def scores(self, outputs, labels):
        return {"mse": float(self.row_scores(outputs, labels).mean())}

    def row_scores(self, outputs, labels):
        return np.square(outputs[:, 0].astype(np.float64) - labels)

    def baseline(self, labels):
        return np.array([labels.mean()])

    def collapsed(self, outputs):
        return bool(np.ptp(outputs) < 1e-6)
