"""Ways to transfer, one file a method: `name: aft` is `aft.py`.

A method offers `Settings`, its own keys in a run, with `build(context)`, which returns a `Transfer`: a module that
turns a step's `Signals` into a scalar penalty. The weight of the penalty belongs to the run, not to the method.
Whatever parameters the module has (gates, projections) get an optimiser group of their own, at `learning_rate`, and
are not exported with the student.

A method may say what is worth trying of its settings: `AUTO`, lists of values by key, which `weight: auto` searches
beside the weight where the run does not set them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import wraps

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


@dataclass(frozen=True)
class Signals:
    """All that is known about the n rows of one step. Methods take what they need, by name.

    Attributes:
        features: the student's features, the input of its last layer.
        logits: the student's logits.
        teachers: raw features of each teacher, in the run's order, float32.
        labels: class numbers, -1 for rows without a label (hidden or missing).
        folds: which part of the labelled rows the teachers' rows are in, for probes that were fitted without that part;
            -1 for rows in none.
        progress: how far training is, from 0 at the first step to 1 after the last.
        heads: what each teacher's own head for the task says, its stored logits, float32; empty unless a method of the
            run has `logits: head`.
    """

    features: Float[Tensor, "n student"]
    logits: Float[Tensor, "n classes"]
    teachers: tuple[Float[Tensor, "n _"], ...]
    labels: Int[Tensor, " n"]
    folds: Int[Tensor, " n"]
    progress: float = 0.0
    heads: tuple[Float[Tensor, "n classes"], ...] = ()


@dataclass(frozen=True)
class TeacherProfile:
    """What is known of one teacher's D features before training: statistics over the training rows, and a probe.

    Attributes:
        name: its key in params.yaml.
        mean, std: per feature, over all training rows, labelled or not [D]; std is never 0.
        row_norm: mean L2 norm of a standardised row, (x - mean) / std.
        probe_weight: multinomial logistic regression on standardised features, fitted on labelled training rows
            only [C, D].
        probe_bias: [C].
        fold_weight, fold_bias: the same of a probe fitted without the labelled rows of each fold [K, C, D], [K, C].
        direction_std: per class, the standard deviation over training rows of a standardised row's product with the
            unit-norm class direction [C].
        kernel: a probe of the same labelled rows that need not be linear.
    """

    name: str
    mean: Float[Tensor, " teacher"]
    std: Float[Tensor, " teacher"]
    row_norm: float
    probe_weight: Float[Tensor, "classes teacher"]
    probe_bias: Float[Tensor, " classes"]
    fold_weight: Float[Tensor, "folds classes teacher"]
    fold_bias: Float[Tensor, "folds classes"]
    direction_std: Float[Tensor, " classes"]
    kernel: "KernelProfile"

    def standardise(self, raw: Float[Tensor, "n teacher"]) -> Float[Tensor, "n teacher"]:
        """Raw features, each shifted and scaled to mean 0 and standard deviation 1 over the training rows."""
        return (raw - self.mean) / self.std

    def logits(self, raw: Float[Tensor, "n teacher"]) -> Float[Tensor, "n classes"]:
        """What the probe says of raw features."""
        return self.standardise(raw) @ self.probe_weight.T + self.probe_bias


@dataclass(frozen=True)
class KernelProfile:
    """A kernel probe: logits K(x, landmarks) weight + bias, K(x, y) = exp(-sharpness |x - y|^2) on unit rows.

    Attributes:
        landmarks: unit rows [m, D].
        sharpness: of the kernel.
        weight: [m, C].
        bias: [C].
        fold_weight, fold_bias: the same without the labelled rows of each fold [K, m, C], [K, C].
        std: of the logits over the training rows [C].
        better: whether its log loss on validation rows is below the linear probe's.
    """

    landmarks: Float[Tensor, "m teacher"]
    sharpness: float
    weight: Float[Tensor, "m classes"]
    bias: Float[Tensor, " classes"]
    fold_weight: Float[Tensor, "folds m classes"]
    fold_bias: Float[Tensor, "folds classes"]
    std: Float[Tensor, " classes"]
    better: bool


@dataclass(frozen=True)
class Context:
    """What a method may look at before training. Rows are numbers into the dataset; tensors are all on one device.

    Attributes:
        student_width: d, the width of the student's features.
        classes: C, the number of classes.
        teachers: a profile per teacher, in the run's order.
        train_rows: all training rows, labelled or not.
        labelled_rows: the training rows whose label may be used.
        val_rows: validation rows, for stopping early; their labels are not for fitting.
        labels: per row of the dataset, -1 where unknown or hidden: only `labelled_rows` have one.
        folds: per row of the dataset, as in `Signals`.
        teacher_features: raw features of teacher number k for rows, float32 [n, D].
        student_features: features of the untrained student for rows, float32 [n, d].
        seed: the run's seed.
    """

    student_width: int
    classes: int
    teachers: tuple[TeacherProfile, ...]
    train_rows: np.ndarray
    labelled_rows: np.ndarray
    val_rows: np.ndarray
    labels: Int[Tensor, " rows"]
    folds: Int[Tensor, " rows"]
    teacher_features: Callable[[int, np.ndarray], Tensor]
    student_features: Callable[[np.ndarray], Tensor]
    seed: int


class Transfer(nn.Module, ABC):
    """A method at work. `learning_rate` is that of its own parameters, where it has any."""

    learning_rate: float = 1e-2

    @abstractmethod
    def forward(self, signals: Signals) -> Float[Tensor, ""]:
        """The penalty, a scalar that is finite and, but for rounding, not negative."""

    def log(self) -> dict[str, float]:
        """A few numbers worth a line in the log, such as statistics of the gates. Called rarely: it may wait."""
        return {}

    def gates(self) -> dict[str, Float[Tensor, " teacher"]]:
        """How much each feature of each teacher counts, by teacher, for the report; empty if there is no such thing."""
        return {}


def full_precision(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A `Transfer.forward` that runs outside autocast, on signals cast up to float32: kernels need every digit."""

    def up(x: Tensor) -> Tensor:
        return x.to(torch.promote_types(x.dtype, torch.float32))

    @wraps(forward)
    def outside_autocast(self: Transfer, signals: Signals) -> Tensor:
        teachers = tuple(up(teacher) for teacher in signals.teachers)
        heads = tuple(up(head) for head in signals.heads)
        features, logits = up(signals.features), up(signals.logits)
        signals = replace(signals, features=features, logits=logits, teachers=teachers, heads=heads)
        device = signals.features.device.type
        with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
            return forward(self, signals)

    return outside_autocast
