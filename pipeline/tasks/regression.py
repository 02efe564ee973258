"""Regression: a label is a number, and a model's output is one number, in the label's unit.

A student learns standardised labels: mean 0 and standard deviation 1 over the labelled training rows of its split. Its
outputs are scaled back, so all outputs, predictions and scores are in the unit of the labels.
"""

from collections.abc import Sequence
from math import isfinite, nan, sqrt
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float, Int

from pipeline import tasks
from pipeline.errors import UserError, count
from pipeline.functional import ridge
from pipeline.functional.linear import LinearModel
from pipeline.functional.metrics import spearman
from pipeline.records import Metric

if TYPE_CHECKING:
    from torch import Tensor
else:
    # Tasks are imported without torch; jaxtyping then checks the shapes of any array.
    Tensor = Any

OUTPUT = "value"

BINS, FEWEST = 5, 5
"""The most strata, and the fewest rows of a stratum."""

LARGEST = float(np.finfo(np.float32).max)

SPREAD = 1e-4
"""The smallest standard deviation of labels, relative to the largest value: float32 has seven digits."""

COLLAPSED = 0.01
"""Outputs within this share of the labels' standard deviation count as one prediction."""


def encode(
    labels: Sequence[tasks.Label], names: Sequence[str] | None = None
) -> tuple[Float[np.ndarray, " n"], tuple[str, ...]]:
    """The numbers.

    Raises:
        LabelError: a label is not a finite number that float32 can hold.
        UserError: there are names of classes.
    """
    if names is not None:
        raise UserError("dataset.classes: a regression has no classes; remove it, or set dataset.task: classification")
    return np.array([_number(tasks.single(label)) for label in labels], np.float32), (OUTPUT,)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise tasks.LabelError(
            text, f"label {text!r} is not a number; correct it, leave it empty, or set dataset.task: classification"
        ) from None
    if not isfinite(value) or abs(value) > LARGEST:
        raise tasks.LabelError(text, f"label {text!r} is not a finite number; correct it, or leave it empty")
    return value


def build(outputs: Sequence[str], unit: str = "") -> "Regression":
    """The task of predicting a number in this unit. Raises `UserError` for the unit `%`."""
    if unit == "%":
        raise UserError("dataset.unit: write percent instead of %, which stands for shares of 1 here")
    return Regression(outputs, unit)


class Regression(tasks.Task):
    """Labels are float32 [n], NaN where unknown; outputs are [n, 1]."""

    name = "regression"
    dtype = np.dtype(np.float32)
    missing = nan
    linear: ClassVar[LinearModel] = ridge

    def __init__(self, outputs: Sequence[str], unit: str = ""):
        super().__init__(outputs)
        self.unit = unit
        self.metrics = (
            Metric(name="rmse", label="RMSE", unit=unit, higher_is_better=False),
            Metric(name="mae", label="MAE", unit=unit, higher_is_better=False),
            Metric(name="r2", label="R²"),
            Metric(name="spearman", label="Spearman correlation"),
        )

    def fitted(
        self, labels: Float[np.ndarray, " n"], weights: tasks.ClassWeights | None = None, smoothing: float = 0.0
    ) -> "Regression":
        """With the mean and standard deviation of these labels as shift and scale."""
        fitted = Regression(self.outputs, self.unit)
        if len(labels):
            fitted.shift, fitted.scale = (
                float(labels.mean(dtype=np.float64)),
                float(labels.std(dtype=np.float64)) or 1.0,
            )
        return fitted

    def strata(self, labels: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """At most five bins with about equally many rows, in ascending order of labels; -1 for no label.

        Equal labels share a bin, and a bin with few rows is merged with the next.
        """
        known = ~np.isnan(labels)
        strata = np.full(len(labels), -1)
        values, number, rows = np.unique(labels[known], return_inverse=True, return_counts=True)
        n = int(rows.sum())
        middle = np.cumsum(rows) - (rows + 1) / 2
        bins = np.floor(middle * min(BINS, max(1, n // FEWEST)) / max(n, 1)).astype(np.int64)
        kept, first = np.zeros(len(values), np.int64), 0
        for place in range(1, len(values)):
            full = bins[place] > bins[place - 1] and rows[first:place].sum() >= FEWEST <= rows[place:].sum()
            kept[place] = kept[place - 1] + full
            first = place if full else first
        strata[known] = kept[number]
        return strata

    def stratum(self, number: int) -> str:
        return f"bin {number + 1} of the labels"

    def check(self, labels: Float[np.ndarray, " n"]) -> None:
        """Labels differ, by enough for float32.

        Raises:
            UserError: they do not.
        """
        known = labels[~np.isnan(labels)].astype(np.float64)
        if (known == known[:1]).all():
            raise UserError(f"dataset: all rows have the label {known[0]:g}; there is nothing to learn")
        if known.std() < SPREAD * np.abs(known).max():
            raise UserError(
                f"dataset: labels are near {known.mean():g} and differ by {known.std():.2g} only, which single "
                "precision cannot tell apart well; subtract a constant from them"
            )

    def check_training(self, labels: Float[np.ndarray, " n"], where: str) -> None:
        if (labels == labels[:1]).all():
            what = f"{count(len(labels), 'labelled training row')} with one and the same label"
            raise UserError(f"{where}: {what if len(labels) else 'no labelled training row'}; label more rows")

    def targets(self, labels: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 1"]:
        """One column, on the scale of the last layer."""
        targets: np.ndarray = (labels[:, None].astype(np.float64) - self.shift) / self.scale
        return targets

    def loss(self, outputs: Float[Tensor, "n 1"], labels: Float[Tensor, " n"]) -> Float[Tensor, ""]:
        """Mean of ((output - label) / scale)^2."""
        return ((outputs[:, 0] - labels) / self.scale).square().mean()

    def mixed_loss(
        self,
        outputs: Float[Tensor, "n 1"],
        labels: Float[Tensor, " n"],
        others: Float[Tensor, " n"],
        shares: Float[Tensor, " n"],
    ) -> Float[Tensor, ""]:
        """The loss with the mixture of both labels."""
        return self.loss(outputs, others.lerp(labels, shares))

    def divergence(
        self, outputs: Float[Tensor, "n 1"], teacher: Float[Tensor, "n 1"], temperature: float
    ) -> Float[Tensor, ""]:
        """Mean of ((output - teacher's) / scale)^2, which is the same at every temperature."""
        return ((outputs - teacher) / self.scale).square().mean()

    def combine(self, outputs: Sequence[Float[Tensor, "n 1"]]) -> Float[Tensor, "n 1"]:
        """The mean of the teachers' outputs."""
        import torch

        return torch.stack(list(outputs)).mean(0)

    def initial_gradient(self, labels: Float[np.ndarray, " n"]) -> float:
        """2 / n |targets|: an untrained last layer outputs about 0."""
        return 2 * float(np.linalg.norm(self.targets(labels))) / len(labels)

    def predictions(self, outputs: Float[np.ndarray, "n 1"]) -> list[float]:
        """The value, in the unit of the labels."""
        return [float(value) for value in outputs[:, 0]]

    def scores(self, outputs: Float[np.ndarray, "n 1"], labels: Float[np.ndarray, " n"]) -> dict[str, float]:
        """RMSE, MAE, R^2 = 1 - MSE / variance of the labels, and Spearman's correlation; NaN where not defined."""
        error = _errors(outputs, labels)
        mse, spread = float(np.square(error).mean()), float(labels.var(dtype=np.float64))
        return {
            "rmse": sqrt(mse),
            "mae": float(np.abs(error).mean()),
            "r2": 1 - mse / spread if spread > 0 else nan,
            "spearman": spearman(outputs[:, 0], labels),
        }

    def row_scores(self, outputs: Float[np.ndarray, "n 1"], labels: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """(e^2 + MSE) / (2 RMSE) for a row with error e.

        Their mean is the RMSE; their standard deviation over sqrt(n) is its standard error, by the delta method.
        """
        squares = np.square(_errors(outputs, labels))
        rmse = sqrt(float(squares.mean()))
        return (squares + rmse**2) / (2 * rmse) if rmse > 0 else squares

    def baseline(self, labels: Float[np.ndarray, " n"]) -> Float[np.ndarray, " 1"]:
        """The mean."""
        return np.array([labels.mean(dtype=np.float64)])

    def agreement(self, outputs: Float[np.ndarray, "n 1"], others: Float[np.ndarray, "n 1"]) -> float:
        """Spearman's correlation; NaN where one model gives the same value for every row."""
        return spearman(outputs[:, 0], others[:, 0])

    def collapsed(self, outputs: Float[np.ndarray, "n 1"]) -> bool:
        """Whether all outputs are nearly the same, compared with the spread of the labels."""
        return bool(np.ptp(outputs) < COLLAPSED * self.scale)


def _errors(outputs: Float[np.ndarray, "n 1"], labels: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    errors: np.ndarray = outputs[:, 0].astype(np.float64) - labels
    return errors
