"""Multi-label classification: a row has any number of C labels, and a model's outputs are one logit for each."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float, Int
from scipy import special

from pipeline import tasks
from pipeline.errors import UserError, count
from pipeline.functional import independent, metrics
from pipeline.functional.linear import LinearModel
from pipeline.records import Metric
from pipeline.tasks import _calibration

if TYPE_CHECKING:
    from torch import Tensor
else:
    # Tasks are imported without torch; jaxtyping then checks the shapes of any array.
    Tensor = Any

FEWEST = 3
"""The least number of rows of a stratum: one each for train, val and test."""

SEPARATORS = (*tasks.SEPARATORS, ",", "/", "+", " ")
"""What may stand between labels, the likeliest first."""

COLLAPSED = 0.01
"""Logits that differ by less than this count as one prediction."""


def encode(
    labels: Sequence[tasks.Label], names: Sequence[str] | None = None
) -> tuple[Int[np.ndarray, "n c"], tuple[str, ...]]:
    """A row of 0 and 1 for each set of labels, and the labels: `names`, or all that occur, sorted.

    If all labels are numbers, 1 and 1.0 are the same.

    Raises:
        LabelError: a label is not among the names; or no row has several, and one looks like several in one text.
        UserError: a name occurs twice.
    """
    if names is None and (several := tasks.joined(labels, SEPARATORS)):
        raise tasks.LabelError(
            several[0],
            f"label {''.join(several[0])!r} looks like several: set dataset.source.label_separator: {several[1]!r}, or "
            "list all labels in dataset.classes if it is one",
        )
    sets = [(label,) if isinstance(label, str) else label for label in labels]
    occur = sorted({name for each in sets for name in each})
    known = [*occur, *(names or ())]
    called = dict(zip(known, tasks.whole(known), strict=True))
    outputs = tuple(sorted({called[name] for name in occur}) if names is None else [called[name] for name in names])
    number = tasks.numbering(outputs)
    found = np.zeros((len(sets), len(outputs)), np.int8)
    for row, (label, each) in enumerate(zip(labels, sets, strict=True)):
        for name in each:
            found[row, number(called[name], label)] = 1
    return found, outputs


def build(outputs: Sequence[str], unit: str = "") -> "MultiLabel":
    """The task with these labels. Raises `UserError` if there is a unit."""
    if unit:
        raise UserError(f"dataset.unit: {unit!r}: labels that a row has or has not have no unit; remove it")
    return MultiLabel(outputs)


class MultiLabel(tasks.Task):
    """Labels are int8 [n, C], 1 where a row has the label, else 0, all -1 where unknown; outputs are logits [n, C]."""

    name = "multilabel"
    # Average precision needs no threshold: with few rows or rare labels, no logit may be above 0.
    metrics = (
        Metric(name="mean_average_precision", label="mAP", unit="%"),
        Metric(name="macro_f1", label="macro F1", unit="%"),
        Metric(name="micro_f1", label="micro F1", unit="%"),
    )
    more = (
        Metric(name="auroc", label="AUROC", unit="%"),
        Metric(name="log_loss", label="log loss", unit="nats", higher_is_better=False),
        Metric(name="brier", label="Brier score", higher_is_better=False),
        *_calibration.SCORES,
    )
    fits = _calibration.FITTED
    dtype = np.dtype(np.int8)
    missing = -1
    smoothable = True
    linear: ClassVar[LinearModel] = independent

    def __init__(self, outputs: Sequence[str]):
        super().__init__(outputs)
        self.classes = self.outputs
        self.smoothing = 0.0

    def fitted(
        self, labels: Int[np.ndarray, "n c"], weights: tasks.ClassWeights | None = None, smoothing: float = 0.0
    ) -> "MultiLabel":
        """With smoothed labels."""
        if not smoothing:
            return self
        fitted = MultiLabel(self.outputs)
        fitted.smoothing = smoothing
        return fitted

    def class_rows(self, labels: Int[np.ndarray, "n c"]) -> Int[np.ndarray, " c"]:
        return (labels == 1).sum(0)

    def strata(self, labels: Int[np.ndarray, "n c"]) -> Int[np.ndarray, " n"]:
        """Each row's rarest label; C for a row without labels, -1 where labels are unknown.

        So rare labels keep their share in every part of a split. A stratum of fewer than three rows is merged into the
        largest one.
        """
        known = (labels != self.missing).all(1)
        rows = self.class_rows(labels)
        order = np.argsort(rows, kind="stable")
        has = labels[:, order] == 1
        strata = np.where(has.any(1), order[has.argmax(1)] if len(order) else 0, len(order))
        if known.any():
            sizes = np.bincount(strata[known], minlength=len(order) + 1)
            strata = np.where(sizes[strata] < FEWEST, sizes.argmax(), strata)
        return np.where(known, strata, -1)

    def stratum(self, number: int) -> str:
        if number == len(self.outputs):
            return "label none"
        return f"label {self.outputs[number]!r} (as the rarest of a row)"

    def check(self, labels: Int[np.ndarray, "n c"]) -> None:
        """Every label is in three rows or more, and one or more are without it.

        Raises:
            UserError: a label is not, or there are none.
        """
        if not self.outputs:
            raise UserError("dataset: no row has any label; there is nothing to learn")
        known = labels[(labels != self.missing).all(1)]
        rows = self.class_rows(known)
        if rows.min() < FEWEST:
            name = self.outputs[int(rows.argmin())]
            raise UserError(
                f"dataset: {count(int(rows.min()), 'row')} with the label {name!r}, which needs {FEWEST} to be in "
                "train, val and test; add some, or remove the label"
            )
        if rows.max() == len(known):
            raise UserError(f"dataset: all rows have the label {self.outputs[int(rows.argmax())]!r}; remove it")

    def check_training(self, labels: Int[np.ndarray, "n c"], where: str) -> None:
        rows = self.class_rows(labels)
        for what, wrong in (("with", rows == 0), ("without", rows == len(labels))):
            if wrong.any():
                name = self.outputs[int(wrong.argmax())]
                raise UserError(f"{where}: no labelled training row {what} the label {name!r}; label more rows")

    def targets(self, labels: Int[np.ndarray, "n c"]) -> Float[np.ndarray, "n c"]:
        """0 or 1."""
        return labels.astype(np.float64)

    def loss(self, outputs: Float[Tensor, "n c"], labels: Int[Tensor, "n c"]) -> Float[Tensor, ""]:
        """Binary cross-entropy, mean over rows and labels; with smoothing s, the targets are s/2 and 1 - s/2."""
        from torch.nn import functional

        return functional.binary_cross_entropy_with_logits(outputs, self._smoothed(labels.to(outputs.dtype)))

    def _smoothed(self, targets: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        return targets * (1 - self.smoothing) + self.smoothing / 2 if self.smoothing else targets

    def mixed_loss(
        self,
        outputs: Float[Tensor, "n c"],
        labels: Int[Tensor, "n c"],
        others: Int[Tensor, "n c"],
        shares: Float[Tensor, " n"],
    ) -> Float[Tensor, ""]:
        """Binary cross-entropy with the mixture of both rows' labels."""
        from torch.nn import functional

        targets = others.to(outputs.dtype).lerp(labels.to(outputs.dtype), shares[:, None])
        return functional.binary_cross_entropy_with_logits(outputs, self._smoothed(targets))

    def divergence(
        self, outputs: Float[Tensor, "n c"], teacher: Float[Tensor, "n c"], temperature: float
    ) -> Float[Tensor, ""]:
        """T^2 * mean over rows and labels of KL(Bernoulli(sigmoid(t / T)) || Bernoulli(sigmoid(s / T)))."""
        from torch.nn.functional import logsigmoid

        student, teacher = outputs / temperature, teacher / temperature
        present = teacher.sigmoid() * (logsigmoid(teacher) - logsigmoid(student))
        absent = (-teacher).sigmoid() * (logsigmoid(-teacher) - logsigmoid(-student))
        return temperature**2 * (present + absent).mean()

    def combine(self, outputs: Sequence[Float[Tensor, "n c"]]) -> Float[Tensor, "n c"]:
        """The mean of the teachers' log-odds."""
        import torch

        return torch.stack(list(outputs)).mean(0)

    def initial_gradient(self, labels: Int[np.ndarray, "n c"]) -> float:
        """(1 - smoothing) / (2 sqrt(n C)): an untrained model gives every label the probability 1/2."""
        return 0.5 * (1 - self.smoothing) / float(np.sqrt(labels.size))

    def predictions(self, outputs: Float[np.ndarray, "n c"]) -> list[tuple[str, ...]]:
        """The labels with a logit above 0."""
        return [tuple(self.outputs[number] for number in np.flatnonzero(row > 0)) for row in outputs]

    def probabilities(self, outputs: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n c"]:
        """Sigmoid: of each label by itself."""
        found: np.ndarray = special.expit(outputs.astype(np.float64))
        return found

    def scores(self, outputs: Float[np.ndarray, "n c"], labels: Int[np.ndarray, "n c"]) -> dict[str, float]:
        macro, micro = metrics.label_f1(outputs, labels)
        return {
            "mean_average_precision": metrics.mean_average_precision(outputs, labels),
            "macro_f1": macro,
            "micro_f1": micro,
        }

    def more_scores(
        self,
        outputs: Float[np.ndarray, "n c"],
        labels: Int[np.ndarray, "n c"],
        val_outputs: Float[np.ndarray, "m c"],
        val_labels: Int[np.ndarray, "m c"],
    ) -> dict[str, float]:
        from sklearn.metrics import roc_auc_score

        def error(logits: np.ndarray, labels: np.ndarray) -> float:
            return metrics.label_calibration_error(self.probabilities(logits), labels)

        probabilities = self.probabilities(outputs)
        return {
            "auroc": metrics.mean_of_known(metrics.one_vs_rest(roc_auc_score, outputs, labels)),
            "log_loss": metrics.label_log_loss(outputs, labels),
            "brier": float(np.square(probabilities - labels).mean()),
            **_calibration.scores(outputs, labels, val_outputs, val_labels, error, metrics.label_log_loss),
        }

    def class_scores(self, outputs: Float[np.ndarray, "n c"], labels: Int[np.ndarray, "n c"]) -> dict[str, list[float]]:
        from sklearn.metrics import average_precision_score

        predicted, true = outputs > 0, labels == 1
        found = metrics.precision_recall_f1((predicted & true).sum(0), true.sum(0), predicted.sum(0))
        named = dict(zip(("precision", "recall", "f1"), (values.tolist() for values in found), strict=True))
        precision = metrics.one_vs_rest(average_precision_score, outputs, labels)
        return {"rows": true.sum(0).astype(float).tolist(), "average_precision": precision.tolist()} | named

    def row_scores(self, outputs: Float[np.ndarray, "n c"], labels: Int[np.ndarray, "n c"]) -> Float[np.ndarray, " n"]:
        """The sum of precisions over a row's labels, weighted so that the mean over rows is the mAP."""
        rows = self.class_rows(labels)
        weights = len(labels) / np.maximum(rows, 1) / max(1, int((rows > 0).sum()))
        found: np.ndarray = metrics.precisions(outputs, labels) @ weights
        return found

    def baseline(self, labels: Int[np.ndarray, "n c"]) -> Float[np.ndarray, " c"]:
        """The log-odds of the share of rows with each label."""
        shares = np.clip(self.class_rows(labels) / len(labels), 1e-12, 1 - 1e-12)
        odds: np.ndarray = np.log(shares / (1 - shares))
        return odds

    def agreement(self, outputs: Float[np.ndarray, "n c"], others: Float[np.ndarray, "n c"]) -> float:
        """The share of pairs of a row and a label where both predict it, or neither does."""
        return float(((outputs > 0) == (others > 0)).mean())

    def collapsed(self, outputs: Float[np.ndarray, "n c"]) -> bool:
        """Whether the logits of every label are nearly the same for all rows."""
        return bool(np.ptp(outputs, axis=0).max() < COLLAPSED)
