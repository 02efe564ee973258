"""Single-label classification: a label is one of C classes, and a model's outputs are logits."""

from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import special

from pipeline import tasks
from pipeline.errors import UserError, count
from pipeline.functional import logistic, metrics
from pipeline.functional.linear import LinearModel
from pipeline.records import Metric
from pipeline.tasks import _calibration

if TYPE_CHECKING:
    from torch import Tensor
else:
    # Tasks are imported without torch; jaxtyping then checks the shapes of any array.
    Tensor = Any


def encode(
    labels: Sequence[tasks.Label], names: Sequence[str] | None = None
) -> tuple[Int[np.ndarray, " n"], tuple[str, ...]]:
    """Class numbers, and the classes: `names`, or all labels, sorted (as numbers, if all are).

    If all labels are numbers, 1 and 1.0 are the same class.

    Raises:
        LabelError: a label is not among the names, a row has several, or one among numbers is NaN or infinite.
        UserError: a name occurs twice.
    """
    texts = [tasks.single(label) for label in labels]
    if texts and all(map(tasks.is_number, texts)):
        for text in texts:
            if not isfinite(float(text)) and (names is None or text not in names):
                raise tasks.LabelError(text, f"label {text!r} is not a finite number; correct it, or leave it empty")
        texts = tasks.whole(texts)
        names = sorted(set(texts), key=lambda text: (float(text), text)) if names is None else tasks.whole(names)
    elif names is None:
        names = sorted(set(texts))
    number = tasks.numbering(names)
    return np.array([number(text, text) for text in texts], np.int64), tuple(names)


def build(outputs: Sequence[str], unit: str = "") -> "Classification":
    """The task with these classes. Raises `UserError` if there is a unit."""
    if unit:
        raise UserError(f"dataset.unit: {unit!r}: classes have no unit; remove it, or set dataset.task: regression")
    return Classification(outputs)


class Classification(tasks.Task):
    """Labels are class numbers int64 [n], -1 where unknown; outputs are logits [n, C], one per class."""

    name = "classification"
    metrics = (
        Metric(name="accuracy", label="accuracy", unit="%"),
        Metric(name="macro_f1", label="macro F1", unit="%"),
        Metric(name="log_loss", label="log loss", unit="nats", higher_is_better=False),
    )
    more = (
        Metric(name="balanced_accuracy", label="balanced accuracy", unit="%"),
        Metric(name="auroc", label="AUROC", unit="%"),
        Metric(name="average_precision", label="average precision", unit="%"),
        Metric(name="brier", label="Brier score", higher_is_better=False),
        *_calibration.SCORES,
    )
    fits = _calibration.FITTED
    dtype = np.dtype(np.int64)
    missing = -1
    weighable = True
    smoothable = True
    linear: ClassVar[LinearModel] = logistic

    def __init__(self, outputs: Sequence[str]):
        super().__init__(outputs)
        self.classes = self.outputs
        self.weights: np.ndarray | None = None
        self._numbers: list[float] = []  # the same, for torch.compile, which cannot read them from an array
        self.smoothing = 0.0
        self._tensors: dict[Any, Tensor] = {}

    def fitted(
        self, labels: Int[np.ndarray, " n"], weights: tasks.ClassWeights | None = None, smoothing: float = 0.0
    ) -> "Classification":
        """With the weight of each class; `balanced` is n / (C n_c) for a class of n_c rows, as in scikit-learn."""
        if weights is None and not smoothing:
            return self
        fitted = Classification(self.outputs)
        fitted.smoothing = smoothing
        if weights is None:
            return fitted
        if isinstance(weights, str):
            fitted.weights = len(labels) / (len(self.classes) * np.maximum(self.class_rows(labels), 1))
        else:
            if unknown := sorted(set(weights) - set(self.classes)):
                raise UserError(f"train.class_weights: no class {unknown[0]!r}; there are {', '.join(self.classes)}")
            fitted.weights = np.array([weights.get(name, 1.0) for name in self.classes])
        fitted._numbers = fitted.weights.tolist()
        return fitted

    def class_rows(self, labels: Int[np.ndarray, " n"]) -> Int[np.ndarray, " c"]:
        return np.bincount(labels[labels >= 0], minlength=len(self.classes))

    def strata(self, labels: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """The classes themselves."""
        return labels

    def stratum(self, number: int) -> str:
        return f"class {self.classes[number]!r}"

    def check(self, labels: Int[np.ndarray, " n"]) -> None:
        """Every class has a row, and there are two or more; no class at all, in a dataset without labels, is fine.

        Raises:
            UserError: a class has no row, or there is only one.
        """
        counts = self.class_rows(labels)
        if self.classes and counts.min() == 0:
            name = self.classes[int(counts.argmin())]
            raise UserError(f"dataset.classes: no row has the label {name!r}; add some, or remove it")
        if len(self.classes) == 1:
            raise UserError(f"dataset: all rows have the label {self.classes[0]!r}; there is nothing to tell apart")

    def hint(self, labels: Int[np.ndarray, " n"]) -> str:
        """Regression, if the classes are numbers, most of which are on one row or two."""
        if not all(map(tasks.is_number, self.classes)) or np.median(self.class_rows(labels)) > 2:
            return ""
        return f"; or set dataset.task: regression, if these {count(len(self.classes), 'number')} are amounts"

    def check_training(self, labels: Int[np.ndarray, " n"], where: str) -> None:
        if len(absent := np.setdiff1d(np.arange(len(self.classes)), labels)):
            raise UserError(f"{where}: no labelled training row of {self.stratum(int(absent[0]))}; label more rows")

    def row_weights(self, labels: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        return np.ones(len(labels)) if self.weights is None else self.weights[labels]

    def targets(self, labels: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n c"]:
        """One-hot rows."""
        targets: np.ndarray = np.eye(len(self.classes))[labels]
        return targets

    def loss(self, outputs: Float[Tensor, "n c"], labels: Int[Tensor, " n"]) -> Float[Tensor, ""]:
        """Cross-entropy: sum of weight times -log softmax(outputs)[label] over rows, divided by the sum of weights.

        With smoothing s, (1 - s) of that, and s times the mean over all classes of weight times -log softmax(outputs),
        summed and divided likewise.
        """
        from torch.nn import functional

        return functional.cross_entropy(outputs, labels, weight=self._on(outputs), label_smoothing=self.smoothing)

    def loss_weight(self, labels: Int[np.ndarray, " n"]) -> float:
        """The sum of the weights of their classes."""
        return float(len(labels)) if self.weights is None else float(self.weights[labels].sum())

    def mixed_loss(
        self,
        outputs: Float[Tensor, "n c"],
        labels: Int[Tensor, " n"],
        others: Int[Tensor, " n"],
        shares: Float[Tensor, " n"],
    ) -> Float[Tensor, ""]:
        """Cross-entropy with both labels, each with its share of the row, and classes weighted as in `loss`."""
        from torch import cat, ones_like
        from torch.nn import functional

        weights = self._on(outputs)
        both, parts = cat([labels, others]), cat([shares, 1 - shares])
        found = parts * functional.cross_entropy(
            cat([outputs, outputs]), both, weights, reduction="none", label_smoothing=self.smoothing
        )
        return found.sum() / (parts * (ones_like(parts) if weights is None else weights[both])).sum()

    def _on(self, outputs: Tensor) -> Tensor | None:
        """The weights on the device of the outputs, copied there once, so that no step waits for it."""
        if self.weights is None:
            return None
        key = outputs.device, outputs.dtype
        if key not in self._tensors:
            self._tensors[key] = outputs.new_tensor(self._numbers)
        return self._tensors[key]

    def divergence(
        self, outputs: Float[Tensor, "n c"], teacher: Float[Tensor, "n c"], temperature: float
    ) -> Float[Tensor, ""]:
        """T^2 * mean over rows of KL(softmax(t / T) || softmax(s / T)) (Hinton et al., arXiv 1503.02531)."""
        from torch.nn import functional

        student, teacher = ((logits / temperature).log_softmax(1) for logits in (outputs, teacher))
        return temperature**2 * functional.kl_div(student, teacher, reduction="batchmean", log_target=True)

    def combine(self, outputs: Sequence[Float[Tensor, "n c"]]) -> Float[Tensor, "n c"]:
        """The mean of the teachers' log-probabilities."""
        import torch

        return torch.stack([logits.log_softmax(1) for logits in outputs]).mean(0)

    def initial_gradient(self, labels: Int[np.ndarray, " n"]) -> float:
        """sqrt((1 - 1/C) sum w^2) / sum w, w of each row: an untrained model gives C classes the same probability.

        With smoothing s, the gradient of a row of class y is (1 - s) w_y (1/C - [c = y]) + s/C (mean of w - w_c).
        """
        classes, s = len(self.classes), self.smoothing
        of_class = np.ones(classes) if self.weights is None else self.weights
        own = of_class[labels, None] * (1 / classes - np.eye(classes)[labels])
        rows = (1 - s) * own + s / classes * (of_class.mean() - of_class)
        return float(np.linalg.norm(rows)) / float(of_class[labels].sum())

    def predictions(self, outputs: Float[np.ndarray, "n c"]) -> list[str]:
        """The class with the largest logit."""
        return list(map(self.classes.__getitem__, outputs.argmax(1).tolist()))

    def probabilities(self, outputs: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n c"]:
        """Softmax."""
        found: np.ndarray = special.softmax(outputs.astype(np.float64), axis=1)
        return found

    def scores(self, outputs: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"]) -> dict[str, float]:
        return {
            "accuracy": metrics.accuracy(outputs, labels),
            "macro_f1": metrics.macro_f1(outputs, labels),
            "log_loss": metrics.log_loss(outputs, labels),
        }

    def more_scores(
        self,
        outputs: Float[np.ndarray, "n c"],
        labels: Int[np.ndarray, " n"],
        val_outputs: Float[np.ndarray, "m c"],
        val_labels: Int[np.ndarray, " m"],
    ) -> dict[str, float]:
        from sklearn.metrics import average_precision_score, roc_auc_score

        one_hot, probabilities = np.eye(len(self.classes), dtype=np.int8)[labels], self.probabilities(outputs)
        return {
            "balanced_accuracy": metrics.mean_of_known(np.array(self.class_scores(outputs, labels)["recall"])),
            "auroc": metrics.mean_of_known(metrics.one_vs_rest(roc_auc_score, probabilities, one_hot)),
            "average_precision": metrics.mean_of_known(
                metrics.one_vs_rest(average_precision_score, probabilities, one_hot)
            ),
            "brier": metrics.brier(outputs, labels),
            **_calibration.scores(
                outputs, labels, val_outputs, val_labels, metrics.calibration_error, metrics.log_loss
            ),
        }

    def class_scores(self, outputs: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"]) -> dict[str, list[float]]:
        table = self.confusion(outputs, labels)
        rows = table.sum(1)
        found = metrics.precision_recall_f1(np.diag(table), rows, table.sum(0))
        named = dict(zip(("precision", "recall", "f1"), (values.tolist() for values in found), strict=True))
        return {"rows": rows.astype(float).tolist()} | named

    def confusion(self, outputs: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"]) -> Int[np.ndarray, "c c"]:
        return metrics.confusion(labels, outputs.argmax(1), len(self.classes))

    def row_scores(self, outputs: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """1 where the largest logit is at the label, else 0."""
        return self.correct(outputs, labels).astype(np.float64)

    def agreement(self, outputs: Float[np.ndarray, "n c"], others: Float[np.ndarray, "n c"]) -> float:
        """The share of rows with the same largest logit."""
        return float((outputs.argmax(1) == others.argmax(1)).mean())

    def correct(self, outputs: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Whether the largest logit is at the label."""
        right: np.ndarray = outputs.argmax(1) == labels
        return right

    def baseline(self, labels: Int[np.ndarray, " n"]) -> Float[np.ndarray, " c"]:
        """The logarithm of each class's share of rows."""
        counts = np.bincount(labels, minlength=len(self.classes))
        shares: np.ndarray = np.log(np.maximum(counts, 1e-12) / len(labels))
        return shares

    def collapsed(self, outputs: Float[np.ndarray, "n c"]) -> bool:
        """Whether one class is predicted for every row."""
        return metrics.largest_class_share(outputs) == 1.0

    def largest_share(self, outputs: Float[np.ndarray, "n c"]) -> float:
        """The share of rows with the most frequent class."""
        return metrics.largest_class_share(outputs)
