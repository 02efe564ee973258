"""Transfer methods, one file per method: `aft: {weight: ...}` in a run is `aft.py`.

A method offers `Settings`, its own keys in a run, with `build(context)`, which returns a `Transfer`: a module that
turns a step's `Signals` into a scalar penalty. The weight of the penalty belongs to the run, not to the method.
Parameters of the module (gates, projections) get their own optimiser group, at `learning_rate`, and are not exported
with the student.

A method may name settings that are worth a search: `AUTO`, lists of values by key, which `weight: auto` searches along
with the weight unless the run sets them; a list of one value is set. A method for certain tasks only lists them in
`TASKS`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from pipeline.probing import OutputKind, ProbeKind
from pipeline.tasks import Task

TeacherOutput = OutputKind | Literal["head", "zero_shot"]
"""Outputs for the task from a teacher: of a probe on a source, or its own: those of its head, or from names of classes.
"""

Reads = TeacherOutput | Literal["features"]
"""What a method may read from each source: its raw features, or outputs."""


@dataclass(frozen=True)
class Signals:
    """Everything known about the n rows of one step. Methods take what they need, by name.

    Attributes:
        features: the student's features, the input of its last layer [n, d].
        outputs: the student's outputs [n, C].
        labels: in the task's form; the task's `missing` for rows whose label is hidden or missing [n, ...].
        teachers: raw features of each source, in the run's order, float32 [n, D_k]; empty unless a method reads them.
        teacher_outputs: by kind, the outputs of each source, in the run's order, float32 [n, C]; only the kinds that a
            method reads.
        progress: of training, from 0 at the first step to 1 after the last.
    """

    features: Float[Tensor, "n student"]
    outputs: Float[Tensor, "n c"]
    labels: Shaped[Tensor, "n *label"]
    teachers: tuple[Float[Tensor, "n _"], ...] = ()
    teacher_outputs: Mapping[TeacherOutput, tuple[Float[Tensor, "n c"], ...]] = field(default_factory=dict)
    progress: float = 0.0

    def map_teachers(self, change: Callable[[Tensor], Tensor]) -> "Signals":
        """The same signals with every teacher's features and outputs changed."""
        outputs = {kind: tuple(map(change, each)) for kind, each in self.teacher_outputs.items()}
        return replace(self, teachers=tuple(map(change, self.teachers)), teacher_outputs=outputs)

    def with_other_rows(self) -> "Signals":
        """The same signals with each row given the teachers' features and outputs of another row."""
        return self.map_teachers(lambda rows: rows.roll(1, 0))


@dataclass(frozen=True)
class Directions:
    """Task directions of one source: (outputs - shift) * scale, columns with mean 0 and standard deviation 1.

    Attributes:
        shift, scale: per output of the probe [C].
    """

    shift: Float[Tensor, " c"]
    scale: Float[Tensor, " c"]


@dataclass(frozen=True)
class TeacherProfile:
    """What is known before training about one source's D features, and its probe's C outputs.

    Attributes:
        name: of the source.
        mean, std: per feature, over all training rows, labelled or not [D]; std is never 0.
        row_norm: mean L2 norm of a standardised row, (x - mean) / std.
        better: the kind of probe with the lower loss on validation rows.
        directions: by kind of probe, how its outputs become task directions.
    """

    name: str
    mean: Float[Tensor, " teacher"]
    std: Float[Tensor, " teacher"]
    row_norm: float
    better: ProbeKind
    directions: Mapping[ProbeKind, Directions]

    def standardise(self, raw: Float[Tensor, "n teacher"]) -> Float[Tensor, "n teacher"]:
        """Raw features, each shifted and scaled to mean 0 and standard deviation 1 over the training rows."""
        return (raw - self.mean) / self.std


@dataclass(frozen=True)
class Context:
    """What a method may use before training. Rows are row numbers of the dataset; all tensors are on one device.

    Attributes:
        student_width: d, the width of the student's features.
        task: the task; `len(task.outputs)` is C.
        teachers: a profile per source, in the run's order.
        train_rows: all training rows, labelled or not [t].
        labelled_rows: the training rows whose label may be used [l].
        val_rows: validation rows, for early stopping; their labels must not be fitted [v].
        labels: per row of the dataset; the task's `missing` except for `labelled_rows` [rows, ...].
        teacher_features: raw features of source number k for rows: (k, rows) -> float32 [n, D_k].
        teacher_outputs: outputs of one kind of source number k for rows: (kind, k, rows) -> float32 [n, C].
        student_features: features of the untrained student: rows -> float32 [n, d].
        seed: the trial's seed.
    """

    student_width: int
    task: Task
    teachers: tuple[TeacherProfile, ...]
    train_rows: np.ndarray
    labelled_rows: np.ndarray
    val_rows: np.ndarray
    labels: Shaped[Tensor, "rows *label"]
    teacher_features: Callable[[int, np.ndarray], Tensor]
    teacher_outputs: Callable[[TeacherOutput, int, np.ndarray], Tensor]
    student_features: Callable[[np.ndarray], Tensor]
    seed: int

    def initial_signals(self, rows: np.ndarray, reads: Collection[Reads]) -> Signals:
        """The signals of rows before training, for a method that reads this; the student's outputs are 0."""
        numbers = range(len(self.teachers))
        features = self.student_features(rows).detach()
        return Signals(
            features,
            features.new_zeros(len(rows), len(self.task.outputs)),
            self.labels[rows],
            tuple(self.teacher_features(k, rows) for k in numbers) if "features" in reads else (),
            {kind: tuple(self.teacher_outputs(kind, k, rows) for k in numbers) for kind in reads if kind != "features"},
        )


class Transfer(nn.Module, ABC):
    """A method in training.

    Attributes:
        learning_rate: of its own parameters, if it has any.
        reads: what it reads from each source; nothing else is loaded for it.
        mix: whether it asks for `train.mix`, where the run does not.
    """

    learning_rate: float = 1e-2
    mix: bool = False
    reads: frozenset[Reads] = frozenset({"features"})

    @abstractmethod
    def forward(self, signals: Signals) -> Float[Tensor, ""]:
        """The penalty, a finite scalar that is not negative, apart from rounding."""

    def log(self) -> dict[str, float]:
        """A few numbers for the log, such as statistics of the gates. Called rarely, so it may wait for the device."""
        return {}

    def gates(self) -> dict[str, Float[Tensor, " teacher"]]:
        """The weight of each feature, by source, for the report; empty if the method has no gates."""
        return {}


def full_precision(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A `Transfer.forward` that runs outside autocast, on signals cast to float32: kernels need the precision."""

    def up(x: Tensor) -> Tensor:
        return x.to(torch.promote_types(x.dtype, torch.float32))

    @wraps(forward)
    def outside_autocast(self: Transfer, signals: Signals) -> Tensor:
        signals = replace(signals.map_teachers(up), features=up(signals.features), outputs=up(signals.outputs))
        device = signals.features.device.type
        with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
            return forward(self, signals)

    return outside_autocast
