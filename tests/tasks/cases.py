"""An example of each task's labels: all that the shared tests need to know of a new task."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from pipeline import tasks
from pipeline.tasks import Task


@dataclass(frozen=True)
class Case:
    """Labels in memory, and labels in a table whose rows are of three kinds.

    Attributes:
        cell: from the kind of a row and noise to its cell.
        outputs: names of a model's outputs for the table.
        labels: as a source has them.
        dataset, source: settings that the table needs.
    """

    cell: Callable[[int, float], str]
    outputs: tuple[str, ...] = ()
    labels: tuple[tasks.Label, ...] = ()
    dataset: dict[str, str] = field(default_factory=dict)
    source: dict[str, str] = field(default_factory=dict)

    def encode(self, name: str) -> tuple[Task, np.ndarray]:
        """The task `name` for `labels`, and these as numbers."""
        distinct = list(dict.fromkeys(self.labels))
        labels, outputs = tasks.encode(name, distinct)
        return tasks.build(name, outputs), labels[[distinct.index(label) for label in self.labels]]


random = np.random.default_rng(0)
CASES = {
    "classification": Case(
        lambda kind, noise: ("bad", "good", "plain")[kind],
        outputs=("bad", "good", "plain"),
        labels=("good", "bad", "plain", "good", "bad", "plain", "good", "plain", "bad") * 3,
    ),
    "multilabel": Case(
        lambda kind, noise: ("sun", "sea; sun" if noise > 0 else "sea", "wind; sea" if noise > 1 else "wind")[kind],
        outputs=("sea", "sun", "wind"),
        labels=(("sun",), ("sun", "sea"), (), ("sea", "wind"), ("wind",), ("sun", "sea", "wind")) * 6,
        source={"label_separator": ";"},
    ),
    "regression": Case(
        lambda kind, noise: f"{200_000 + 50_000 * (kind + noise / 10):.0f}",  # far from 0 and 1
        outputs=("value",),
        labels=tuple(f"{value:.3f}" for value in 70 + 9 * random.normal(size=27)),
        dataset={"task": "regression", "unit": "kWh"},
    ),
}
