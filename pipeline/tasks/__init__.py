"""Tasks: what labels, outputs, losses and scores are. `dataset.task: classification` is `classification.py`.

Splits, probes, methods, training, evaluation and the report use the task; nothing else knows about classes. A file
offers

- `encode(labels, names)`: the labels of a source as numbers, and the names of a model's outputs;
- `build(outputs, unit)`: a `Task` for models with these outputs and labels in this unit.

`aft prepare` needs no torch, so a file imports torch only inside the functions that compute with tensors.
"""

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from pipeline.errors import UserError, listed, suggestion
from pipeline.functional.linear import LinearModel
from pipeline.plugins import plugin
from pipeline.records import Metric

if TYPE_CHECKING:
    from torch import Tensor
else:
    # Tasks are imported without torch; jaxtyping then checks the shapes of any array.
    Tensor = Any

Label = str | tuple[str, ...]
"""A label in a source: a text, or several names where a row may have any number of labels."""


ClassWeights = Literal["balanced"] | Mapping[str, float]
"""Weights of classes by name, 1 by default; or `balanced`, so that every class has the same sum of weights."""


class LabelError(ValueError):
    """A label of a source that a task cannot read.

    Args:
        label: as the source has it.
        problem: what is wrong with it, and what to do.
    """

    def __init__(self, label: Label, problem: str):
        super().__init__(problem)
        self.label = label


class Task(ABC):
    """What a model learns. Labels are arrays [n, ...] of `dtype`; a model's outputs are float [n, C].

    Attributes:
        name: the file in pipeline/tasks/.
        metrics: what `scores` returns; the first is the primary one, which weights and sources are chosen by.
        dtype: of labels.
        missing: the value for a row without a label, or with a hidden one.
        weighable: whether classes may have weights in the loss, and rows may be sampled by class.
        smoothable: whether labels may be smoothed.
        linear: fits linear models for probes, such as `pipeline.functional.logistic`.
        outputs: names of the C outputs of a model, which are in the unit of the labels.
        classes: names of the classes, for tasks that have classes.
        shift, scale: a student's last layer gives (outputs - shift) / scale, and losses use that. Set by `fitted`; 0
            and 1 before, and for tasks without a unit.
    """

    name: ClassVar[str]
    metrics: tuple[Metric, ...]
    dtype: ClassVar[np.dtype[Any]]
    missing: ClassVar[int | float]
    weighable: ClassVar[bool] = False
    smoothable: ClassVar[bool] = False
    linear: ClassVar[LinearModel]
    classes: tuple[str, ...]

    def __init__(self, outputs: Sequence[str]):
        self.outputs = tuple(outputs)
        self.classes = ()
        self.shift, self.scale = 0.0, 1.0

    @property
    def primary(self) -> Metric:
        """The metric for choices and comparisons."""
        return self.metrics[0]

    def score(self, outputs: Float[np.ndarray, "n c"], labels: np.ndarray) -> float:
        """The primary score."""
        return self.scores(outputs, labels)[self.primary.name]

    def metric(self, name: str | None) -> Metric:
        """The metric of that name, of `metrics` or `more`; the primary one for None.

        Raises:
            UserError: there is none, or it is nothing to choose by.
        """
        if name is None:
            return self.primary
        known = {metric.name: metric for metric in (*self.metrics, *self.more) if metric.name not in self.fits}
        if name not in known:
            names = list(known)
            raise UserError(f"train.val: {self.name} has no score `{name}`{suggestion(name, names)}; {listed(names)}")
        return known[name]

    def better(self, score: float, other: float) -> bool:
        """Whether a primary score is better than another one."""
        return score > other if self.primary.higher_is_better else score < other

    def fitted(self, labels: np.ndarray, weights: ClassWeights | None = None, smoothing: float = 0.0) -> "Task":
        """The task with outputs and losses scaled by the labels of a split's labelled training rows.

        Args:
            labels: of these rows.
            weights: of classes in the loss, for `weighable` tasks.
            smoothing: the share of a label that is spread evenly in the loss, for `smoothable` tasks.

        Raises:
            UserError: there are no such classes.
        """
        return self

    # Labels

    @abstractmethod
    def strata(self, labels: np.ndarray) -> Int[np.ndarray, " n"]:
        """The stratum of every row, from 0; -1 without a label. Every part of a split has rows of each stratum."""

    @abstractmethod
    def stratum(self, number: int) -> str:
        """A stratum's name in messages, such as `class 'good'`."""

    def class_rows(self, labels: np.ndarray) -> Int[np.ndarray, " c"]:
        """How many rows have each class; empty for tasks without classes."""
        return np.zeros(0, np.int64)

    @abstractmethod
    def check(self, labels: np.ndarray) -> None:
        """Make sure that the labels of a whole dataset can be learned. Raises `UserError` if not."""

    def hint(self, labels: np.ndarray) -> str:
        """What else to try where the labels do not allow the splits asked for: text to add to a line, or none."""
        return ""

    @abstractmethod
    def check_training(self, labels: np.ndarray, where: str) -> None:
        """Make sure that a probe can be fitted to the labels of the labelled training rows.

        Raises:
            UserError: it cannot; the line starts with `where`.
        """

    def row_weights(self, labels: np.ndarray) -> Float[np.ndarray, " n"]:
        """The weight of each row's loss, before it is divided by their sum."""
        return np.ones(len(labels))

    @abstractmethod
    def targets(self, labels: np.ndarray) -> Float[np.ndarray, "n c"]:
        """Labels as float64 targets of a regression, one column per output, on the scale of a last layer."""

    # Training, on torch tensors

    @abstractmethod
    def loss(self, outputs: Float[Tensor, "n c"], labels: Tensor) -> Float[Tensor, ""]:
        """The mean loss of labelled rows."""

    def loss_weight(self, labels: np.ndarray) -> float:
        """What rows count in the mean loss of a batch that they are a part of: their number, if all count alike."""
        return float(len(labels))

    @abstractmethod
    def mixed_loss(
        self, outputs: Float[Tensor, "n c"], labels: Tensor, others: Tensor, shares: Float[Tensor, " n"]
    ) -> Float[Tensor, ""]:
        """The mean loss of rows that are mixtures of two: `shares` of what `labels` says, the rest of `others`."""

    @abstractmethod
    def divergence(
        self, outputs: Float[Tensor, "n c"], teacher: Float[Tensor, "n c"], temperature: float
    ) -> Float[Tensor, ""]:
        """How far a student's outputs are from a teacher's, mean over rows; 0 where they agree.

        A higher temperature compares softer outputs. The scale of its gradient does not depend on the temperature.
        """

    @abstractmethod
    def combine(self, outputs: Sequence[Float[Tensor, "n c"]]) -> Float[Tensor, "n c"]:
        """The outputs of several teachers together."""

    @abstractmethod
    def initial_gradient(self, labels: np.ndarray) -> float:
        """The norm of the gradient of `loss` at the last layer's output in an untrained model, for these labels."""

    # Predictions

    @abstractmethod
    def predictions(self, outputs: Float[np.ndarray, "n c"]) -> list[Any]:
        """The prediction for every row, as text, labels or a number."""

    def probabilities(self, outputs: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n c"] | None:
        """The probability of every class, float64; None for a task without classes."""
        return None

    # Scores

    @abstractmethod
    def scores(self, outputs: Float[np.ndarray, "n c"], labels: np.ndarray) -> dict[str, float]:
        """Scores by the names in `metrics`."""

    more: tuple[Metric, ...] = ()
    """What `more_scores` gives: for the evaluation of a run, and for a training that names one of them in `val`."""

    fits: ClassVar[frozenset[str]] = frozenset()
    """Those of them that need validation rows to fit something, so that these cannot choose by them."""

    def more_scores(
        self,
        outputs: Float[np.ndarray, "n c"],
        labels: np.ndarray,
        val_outputs: Float[np.ndarray, "m c"],
        val_labels: np.ndarray,
    ) -> dict[str, float]:
        """Further scores of test rows, by the names in `more`. Validation rows may fit what scores need."""
        return {}

    def more_score(self, name: str, outputs: Float[np.ndarray, "n c"], labels: np.ndarray) -> float:
        """One of `more` that fits nothing."""
        return self.more_scores(outputs, labels, outputs[:0], labels[:0])[name]

    def class_scores(self, outputs: Float[np.ndarray, "n c"], labels: np.ndarray) -> dict[str, list[float]]:
        """Scores of each class, NaN where not defined; empty for tasks without classes."""
        return {}

    def confusion(self, outputs: Float[np.ndarray, "n c"], labels: np.ndarray) -> Int[np.ndarray, "c c"] | None:
        """How many rows of each class are predicted to be of each; None where a row may have several, or none."""
        return None

    @abstractmethod
    def row_scores(self, outputs: Float[np.ndarray, "n c"], labels: np.ndarray) -> Float[np.ndarray, " n"]:
        """Each row's contribution to the primary score: their mean is the score, and differences can be paired."""

    @abstractmethod
    def baseline(self, labels: np.ndarray) -> Float[np.ndarray, " c"]:
        """The best constant outputs."""

    @abstractmethod
    def collapsed(self, outputs: Float[np.ndarray, "n c"]) -> bool:
        """Whether all rows are given the same prediction."""

    @abstractmethod
    def agreement(self, outputs: Float[np.ndarray, "n c"], others: Float[np.ndarray, "n c"]) -> float:
        """How far two models predict alike: the share of equal predictions, or the rank correlation of values."""

    def correct(self, outputs: Float[np.ndarray, "n c"], labels: np.ndarray) -> Bool[np.ndarray, " n"] | None:
        """Which predictions are right; None for a task without right and wrong."""
        return None

    def largest_share(self, outputs: Float[np.ndarray, "n c"]) -> float | None:
        """The share of rows with the most frequent prediction; None where predictions are not classes."""
        return None


SEPARATORS = (";", "|")
"""What stands between labels, and hardly ever in the name of one."""


def find(labels: Sequence[Label], names: Sequence[str] | None = None) -> str:
    """The task that fits the labels: `multilabel` for sets of names, `classification` for texts.

    Args:
        labels: the distinct labels of a source.
        names: those that the user lists, none of which stands for several.

    Raises:
        LabelError: a text looks like several labels, which may be one class.
        UserError: they are numbers, which may be classes or quantities.
    """
    if any(isinstance(label, tuple) for label in labels):
        return "multilabel"
    if names is None and (found := joined(labels, SEPARATORS)):
        label, separator = found
        raise LabelError(
            label,
            f"label {label!r} looks like several: set dataset.source.label_separator: {separator!r}, or dataset.task: "
            "classification if it is one class",
        )
    if labels and all(map(is_number, labels)):
        some = ", ".join(str(label) for label in labels[:3])
        raise UserError(
            f"dataset.task: the labels are numbers, such as {some}: write `task: regression` to predict amounts, or "
            "`task: classification` to tell them apart as classes"
        )
    return "classification"


def is_number(label: Label) -> bool:
    """Whether a label is a number in any notation, including NaN and infinity."""
    try:
        float(label)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True


def whole(names: Sequence[str]) -> list[str]:
    """Names as they are; or, if all are numbers, without a point that only zeros follow, so that 1.0 is 1.

    Many tools write a column of whole numbers with a point if one cell is empty.
    """
    if not all(map(is_number, names)):
        return list(names)
    return [re.sub(r"\.0+$", "", name) for name in names]


def joined(labels: Sequence[Label], separators: Sequence[str]) -> tuple[Label, str] | None:
    """A label that looks like several in one text, and what separates them; None if there is none, or a row has
    several.

    With `a`, `b` and `a;b` it is `a;b`: of what is between separators, more than half is in other labels, too. In
    `R&B; Soul`, alone among other labels, it is not.
    """
    known = [label for label in labels if label]
    texts = [
        label if isinstance(label, str) else label[0] for label in known if isinstance(label, str) or len(label) == 1
    ]
    if len(texts) < len(known):
        return None
    for separator in separators:
        split = [[part.strip() for part in text.split(separator)] for text in texts]
        places = Counter(part for parts in split for part in set(parts))
        parts = {part for parts in split if len(parts) > 1 and all(parts) for part in parts}
        if parts and 2 * sum(places[part] > 1 for part in parts) > len(parts):
            return known[next(place for place, several in enumerate(split) if len(several) > 1)], separator
    return None


def single(label: Label) -> str:
    """The label, for tasks with one label per row. Raises `LabelError` for several."""
    if isinstance(label, str):
        return label
    raise LabelError(label, f"labels {', '.join(label) or '(none)'}: a list of labels needs dataset.task: multilabel")


def numbering(names: Sequence[str]) -> Callable[[str, Label], int]:
    """A function of a name, and of the label that contains it, which gives the name's place among `names`, from 0.

    It raises `LabelError` for a name that is not among them.

    Raises:
        UserError: a name occurs twice.
    """
    numbers = {name: number for number, name in enumerate(names)}
    if len(numbers) < len(names):
        raise UserError("dataset.classes: a name occurs twice")

    def number(name: str, label: Label) -> int:
        if name not in numbers:
            several = (each for each in SEPARATORS if all(part.strip() in numbers for part in name.split(each)))
            hint = "".join(f"; if it is several, set dataset.source.label_separator: {each!r}" for each in several)
            raise LabelError(label, f"label {name!r} is not in dataset.classes: {listed(names)}{hint}")
        return numbers[name]

    return number


def encode(
    name: str, labels: Sequence[Label], names: Sequence[str] | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels as numbers.

    Args:
        name: of the task.
        labels: the distinct labels of a source, in any order.
        names: the names of the outputs, in the user's order, for tasks that allow it.

    Returns:
        Each label [len(labels), ...], in the task's dtype, and the names of the outputs.

    Raises:
        LabelError: the task cannot read a label.
        UserError: there is no such task, or it cannot have these names.
    """
    found: tuple[np.ndarray, tuple[str, ...]] = plugin("tasks", name, "dataset.task").encode(labels, names)
    return found


def build(name: str, outputs: Sequence[str], unit: str = "") -> Task:
    """The task of a dataset, for models with these outputs and labels in this unit.

    Raises:
        UserError: there is no such task, or its labels have no unit.
    """
    task: Task = plugin("tasks", name, "dataset.task").build(outputs, unit)
    return task


__all__ = [
    "ClassWeights", "Label", "LabelError", "Task", "build", "encode", "find", "is_number", "joined", "single", "whole",
]  # fmt: skip
