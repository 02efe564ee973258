"""A linear probe on one teacher's cached features: what the teacher knows of the task, and in which directions.

Multinomial logistic regression on standardised features, one per draw of the splits. It sees the labels of the labelled
training rows only; its strength is chosen by the log loss on validation rows. Its accuracy is the reference that the
report compares students with, its class directions are what `task_directions` adds to a kernel, and its logits are what
logit distillation follows where a teacher has no head for the task.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from pipeline.data.dataset import Dataset
from pipeline.errors import UserError
from pipeline.functional import kernel_probe, linear, logistic
from pipeline.functional.kernel_probe import KernelProbe
from pipeline.functional.metrics import accuracy
from pipeline.functional.standardisation import score_std, statistics
from pipeline.params import Settings
from pipeline.store import FeatureStore


class ProbeSettings(Settings):
    """The `probe` section.

    Attributes:
        strengths: candidates for the inverse of the L2 penalty on standardised features; one is chosen on val.
        sharpness: of the kernel probe's radial kernel on unit rows: candidates, one is chosen on val.
        kernel_strengths: the same of the kernel probe.
        kernel_rows: the kernel probe learns from at most so many labelled rows, drawn at random: its cost grows with
            rows times landmarks.
        landmarks: at most so many of those span the kernel probe.
    """

    strengths: list[float] = Field(default=[1e-4, 1e-3, 1e-2, 1e-1, 1.0], min_length=1)
    sharpness: list[float] = Field(default=[0.25, 0.5, 1.0], min_length=1)
    kernel_strengths: list[float] = Field(default=[1.0, 10.0, 100.0, 1e3, 1e4], min_length=1)
    kernel_rows: int = Field(default=4000, ge=2)
    landmarks: int = Field(default=1024, ge=2)


@dataclass(frozen=True)
class Probe:
    """The probes of one teacher on one draw of the splits; arrays are float32, shapes as in `TeacherProfile`.

    The linear one is the reference and gives the task directions; `fold_weight` and `fold_bias` are its fits without
    the rows of each fold. `kernel` is the other, and `kernel_std` the spread over the training rows of its logits [C].
    """

    mean: np.ndarray
    std: np.ndarray
    row_norm: float
    weight: np.ndarray
    bias: np.ndarray
    fold_weight: np.ndarray
    fold_bias: np.ndarray
    direction_std: np.ndarray
    val_log_loss: float
    kernel: KernelProbe
    kernel_std: np.ndarray

    def logits(self, raw: np.ndarray) -> np.ndarray:
        """Logits [n, C] of raw features [n, D]."""
        logits: np.ndarray = (raw.astype(np.float32) - self.mean) / self.std @ self.weight.T + self.bias
        return logits


@dataclass(frozen=True)
class SplitScore:
    """How well the probe of one draw does, and with which strength."""

    split: int
    strength: float
    val_accuracy: float
    val_log_loss: float
    test_accuracy: float
    train_rows: int
    kernel_sharpness: float
    kernel_strength: float
    kernel_val_log_loss: float
    kernel_test_accuracy: float


@dataclass(frozen=True)
class ProbeResult:
    """What `probe` returns: a score per draw of the splits."""

    teacher: str
    splits: list[SplitScore]
    seconds: float

    def __str__(self) -> str:
        scores = [s.test_accuracy for s in self.splits]
        return (
            f"probe of {self.teacher}: test accuracy {np.mean(scores):.4f}, {len(scores)} draws, {self.seconds:.1f} s"
        )


def probe(teacher: str, data: Dataset, store: FeatureStore, settings: ProbeSettings, out: Path) -> ProbeResult:
    """Fit the teacher's probe on every draw of the splits; write `<out>.safetensors` and `<out>.json`.

    Args:
        teacher: its name, for the record.
        data: the prepared dataset that the store describes.
        store: the teacher's features, with a `pooled` head.
        settings: candidate strengths.
        out: where to write, without a suffix.

    Raises:
        UserError: the store is of another dataset, a class has no labelled training row, or the features are the same
            for all rows.
    """
    started = time.perf_counter()
    store.check(dataset=data.digest, ids=data.ids)
    reader = store.reader(store.head_name())
    arrays: dict[str, np.ndarray] = {}
    scores = []
    for number in range(data.splits):
        fitted, score = _fit(data, number, reader, settings)
        scores.append(score)
        arrays |= {f"{number}.{key}": np.asarray(value, np.float32) for key, value in _flat(asdict(fitted)).items()}
    result = ProbeResult(teacher, scores, time.perf_counter() - started)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(arrays, f"{out}.safetensors", _identity(data, store))
    Path(f"{out}.json").write_text(json.dumps(asdict(result), indent=1) + "\n")
    return result


def load_probe(path: Path, split: int, data: Dataset, store: FeatureStore) -> Probe:
    """The probe of one draw from the file that `probe` wrote.

    Raises:
        UserError: there is none, or it was fitted on other features, rows or labels: those of another draw may be
            test rows here.
    """
    again = f"run `aft probe {path.stem}`"
    if not path.is_file():
        raise UserError(f"{path}: no probe of this teacher; {again}")
    try:
        with safe_open(path, "numpy") as file:
            fitted_on = file.metadata() or {}
        arrays = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: damaged ({error}); {again}") from None
    if fitted_on.get("store") != store.head_digest(store.head_name()) or fitted_on.get(f"{split}") != data.split_digest(
        split
    ):
        raise UserError(f"{path}: fitted on other features, splits or labels than these; {again}")
    fields: dict[str, Any] = {
        key.partition(".")[2]: value if value.ndim else float(value)
        for key, value in arrays.items()
        if key.startswith(f"{split}.")
    }
    kernel = {key.partition(".")[2]: fields.pop(key) for key in list(fields) if key.startswith("kernel.")}
    try:
        return Probe(**fields, kernel=KernelProbe(**kernel))
    except TypeError:
        raise UserError(f"{path}: written by another version; {again}") from None


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    """A record within a record as keys with a dot."""
    kernel = {f"kernel.{key}": value for key, value in values["kernel"].items()}
    return {key: value for key, value in values.items() if key != "kernel"} | kernel


def training_labels(data: Dataset, number: int) -> np.ndarray:
    """The class numbers of a draw's labelled training rows. Raises `UserError` if a class has none of them."""
    labels: np.ndarray = data.labels[data.split(number).labelled]
    if len(absent := np.setdiff1d(np.arange(len(data.task.outputs)), labels)):
        raise UserError(
            f"draw {number}: no labelled training row of class {data.classes[absent[0]]!r}; label more rows"
        )
    return labels


def _identity(data: Dataset, store: FeatureStore) -> dict[str, str]:
    """What a probe was fitted on: the store, and each draw."""
    return {"store": store.head_digest(store.head_name())} | {
        f"{draw}": data.split_digest(draw) for draw in range(data.splits)
    }


def _fit(
    data: Dataset, number: int, reader: Callable[[np.ndarray], np.ndarray], settings: ProbeSettings
) -> tuple[Probe, SplitScore]:
    split = data.split(number)
    mean, std, row_norm = statistics(split.train, reader)
    if row_norm == 0:
        raise UserError("the features are the same for every training row; look at the teacher and its preprocessing")
    labels = training_labels(data, number)
    rows = {"train": split.labelled, "val": split.val, "test": split.test}
    raw = {role: reader(chosen).astype(np.float32) for role, chosen in rows.items()}
    standard = {role: (features - mean) / std for role, features in raw.items() if role != "test"}
    best = logistic.fit(standard["train"], labels, standard["val"], data.labels[split.val], settings.strengths)
    folds = linear.folds(labels, number)
    fold_weight, fold_bias = logistic.cross_fit(standard["train"], labels, folds, best.strength)
    some = _some(labels, settings.kernel_rows, number)
    kernel = kernel_probe.fit(
        standard["train"][some], labels[some], folds[some], standard["val"], data.labels[split.val],
        standard["train"][some[: settings.landmarks]], settings.sharpness, settings.kernel_strengths,
    )  # fmt: skip
    directions = (best.weight / np.maximum(np.linalg.norm(best.weight, axis=1, keepdims=True), 1e-12)).T
    direction_std = score_std(split.train, reader, lambda raw: (raw - mean) / std @ directions)
    kernel_std = score_std(split.train, reader, lambda raw: kernel.logits((raw - mean) / std))
    fitted = Probe(
        mean, std, row_norm, best.weight, best.bias, fold_weight, fold_bias, direction_std, best.val_loss,
        kernel, kernel_std,
    )  # fmt: skip
    scores = {role: accuracy(fitted.logits(raw[role]), data.labels[rows[role]]) for role in ("val", "test")}
    kernel_accuracy = accuracy(kernel.logits((raw["test"] - mean) / std), data.labels[split.test])
    return fitted, SplitScore(
        number, best.strength, scores["val"], best.val_loss, scores["test"], len(labels),
        kernel.sharpness, kernel.strength, kernel.val_log_loss, kernel_accuracy,
    )  # fmt: skip


def _some(labels: np.ndarray, most: int, seed: int) -> np.ndarray:
    """At most so many numbers of rows, in random order, but one of every class at least."""
    order = np.random.default_rng(seed).permutation(len(labels))
    _, first = np.unique(labels[order], return_index=True)
    rest = np.delete(order, first)
    return np.concatenate([order[first], rest[: max(0, most - len(first))]])
