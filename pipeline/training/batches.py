"""The rows of every step of a trial, and the parts that a step cuts them into."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from pipeline.data import Split
from pipeline.tasks import Task
from pipeline.training.config import TrialSettings


def batches(
    split: Split, seed: int, settings: TrialSettings, transfer: bool, strata: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, int]]:
    """The rows of every step, and how many of them, at the start, are the labelled batch.

    If methods see unlabelled rows, a transfer batch of labelled and unlabelled training rows follows. It has its own
    random numbers, so the labelled batches are the same with and without it. If methods see the labelled batch and it
    is augmented, it follows a second time for them: teachers know only clean rows and views, and no mixtures.

    Args:
        split: whose rows these are.
        seed, settings: of the trial.
        transfer: whether any method is at work.
        strata: the class of each labelled row, in the order of `split.labelled`; for balanced sampling alone.
    """
    random = np.random.default_rng([seed, 0])
    if settings.sampling == "balanced":
        assert strata is not None
        labelled = balanced(split.labelled, strata, settings.batch_size, random)
    else:
        labelled = shuffled(split.labelled, settings.batch_size, random)
    everyone = shuffled(split.train, settings.transfer_batch_size, np.random.default_rng([seed, 1]))
    apart = transfer and settings.unlabelled and len(split.unlabelled) > 0
    again = transfer and bool(settings.augment)
    for _ in range(settings.steps):
        rows = next(labelled)
        seen = next(everyone) if apart else rows if again else rows[:0]
        yield np.concatenate([rows, seen]), len(rows)


def shuffled(rows: np.ndarray, size: int, random: np.random.Generator) -> Iterator[np.ndarray]:
    """Batches without end, in a new order every epoch. The last short batch is dropped: kernels need whole ones."""
    size = min(size, len(rows))
    while True:
        order = random.permutation(rows)
        for start in range(0, len(order) - size + 1, size):
            yield order[start : start + size]


def balanced(rows: np.ndarray, strata: np.ndarray, size: int, random: np.random.Generator) -> Iterator[np.ndarray]:
    """Endless batches with equally many rows of each class; if they do not divide, random classes have one row more.

    The rows of each class are shuffled separately, again each time all were used; a batch may have a row twice.

    Args:
        rows: labelled [n].
        strata: their classes [n].
        size: of a batch, and at most n.
        random: draws.
    """
    size = min(size, len(rows))
    streams = [_one_by_one(rows[strata == each], random) for each in np.unique(strata)]
    while True:
        places = np.full(len(streams), size // len(streams))
        places[random.permutation(len(streams))[: size % len(streams)]] += 1
        drawn = [next(stream) for stream, count in zip(streams, places, strict=True) for _ in range(count)]
        yield random.permutation(np.array(drawn))


def _one_by_one(rows: np.ndarray, random: np.random.Generator) -> Iterator[int]:
    while True:
        yield from random.permutation(rows)


@dataclass(frozen=True)
class Part:
    """Rows of a step that go through the student together.

    Attributes:
        rows: [n], the labelled ones first.
        labelled: how many these are.
        views: of each row [n], or None.
        first: of its step.
        task_share, penalty_share: the weights of this part's losses in those of the step.
    """

    rows: np.ndarray
    labelled: int
    views: np.ndarray | None = None
    first: bool = True
    task_share: float = 1.0
    penalty_share: float = 1.0

    def loss(self, task_loss: Float[Tensor, ""], penalties: Iterable[Float[Tensor, ""]] = ()) -> Float[Tensor, ""]:
        """This part's contribution to the loss of the step."""
        if self.task_share == self.penalty_share == 1:  # a step in one part
            return sum(penalties, start=task_loss)
        return sum((self.penalty_share * each for each in penalties), start=self.task_share * task_loss)


def parts(
    task: Task, labels: np.ndarray, rows: np.ndarray, labelled: int, views: np.ndarray | None, count: int
) -> Iterator[Part]:
    """The parts of a step, each with its share of the labelled batch and of the transfer batch.

    The mean losses of the parts, by their shares, add up to the mean loss of all rows.

    Args:
        task: of the labels.
        labels: of all rows of the dataset [rows, ...].
        rows, labelled, views: of the step.
        count: of parts.
    """
    if count == 1:
        yield Part(rows, labelled, views)
        return
    of_task = np.array_split(np.arange(labelled), count)
    # Methods see the rows after the labelled batch; where there are none, the labelled batch itself.
    of_methods = np.array_split(np.arange(labelled, len(rows)), count) if labelled < len(rows) else of_task
    seen = len(rows) - labelled or labelled
    whole = task.loss_weight(labels[rows[:labelled]])
    for number, (own, others) in enumerate(zip(of_task, of_methods, strict=True)):
        at = own if others is own else np.concatenate([own, others])
        yield Part(
            rows[at],
            len(own),
            None if views is None else views[at],
            number == 0,
            task.loss_weight(labels[rows[own]]) / whole,
            len(others) / seen,
        )
