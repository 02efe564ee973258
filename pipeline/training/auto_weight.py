"""Weights for those who have none: a penalty's pull on the student's features, measured against the task's.

`weight: auto` measures, before training, by how much a penalty must be multiplied to pull as hard as the task does, and
searches multiples of that. 0 is among them: a method that does not help stands aside.

The task pulls through the student's last layer. One that starts at zero, or nearly, says nothing of how hard the task
will pull once that layer has grown; then both are measured through a new layer of ordinary size.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.errors import UserError

RATIOS = (0.0, 1.0, 10.0, 100.0, 1000.0)
"""What `auto` tries: the norm of the penalty's gradient over that of the task's, at the first step."""

BATCHES = 5
"""How many batches are measured."""

SMALL = 0.1
"""Below this share of an ordinary last layer's pull, the layer is taken to have started at zero. Usual first weights,
such as a normal distribution's at 0.02, are above it at any usual width."""


def pull(loss: Float[Tensor, ""], features: Float[Tensor, "n d"]) -> float:
    """The norm of a loss's gradient with respect to the student's features; 0 where it does not depend on them."""
    (gradient,) = torch.autograd.grad(loss, features, retain_graph=True, allow_unused=True)
    return 0.0 if gradient is None else float(gradient.norm())


def even(task: Float[Tensor, ""], penalty: Float[Tensor, ""], features: Float[Tensor, "n d"]) -> float:
    """The weight at which a penalty pulls as hard at the features as the task does.

    A map that starts at zero, as factor transfer's does, hides the features from its penalty; then it is the weight at
    which the losses are equal.
    """
    strength = pull(penalty, features)
    if strength > 1e-9 * penalty.item():
        return pull(task, features) / strength
    return task.item() / penalty.item() if penalty.item() > 1e-12 else math.inf


def ordinary_pull(rows: int, classes: int) -> float:
    """How hard cross-entropy pulls at the features of labelled rows through an untrained last layer of ordinary size.

    Before training all C classes are as likely, so the gradient at the logits has norm sqrt((1 - 1/C) / rows); weights
    as `nn.Linear` draws them, of variance 1 / (3 width), pass 1 / sqrt(3) of it on to the features.
    """
    return math.sqrt((1 - 1 / classes) / (3 * rows))


@contextmanager
def ordinary_head(student: nn.Module, head: nn.Linear) -> Iterator[None]:
    """Inside, the student's logits are those that `head`, a new last layer, makes of its features."""

    def instead(module: nn.Module, inputs: Any, said: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return said[0], head(said[0])

    handle = student.register_forward_hook(instead)
    try:
        yield
    finally:
        handle.remove()


def candidates(ratios: Sequence[float], where: str) -> list[float]:
    """The weights that `auto` tries, to two digits, smallest first.

    Args:
        ratios: of the task's pull to the penalty's at weight 1, one per batch; their median is what counts.
        where: the method, for messages.

    Raises:
        UserError: the ratio is not a positive number, so nothing could be tried.
    """
    at_one = math.nan if any(map(math.isnan, ratios)) else median(ratios)
    weights = [float(f"{ratio * at_one:.2g}") for ratio in RATIOS] if math.isfinite(at_one) else []
    if len(set(weights)) < len(RATIOS) or not all(map(math.isfinite, weights)):
        raise UserError(
            f"{where}: weight: auto cannot be measured, because the task or the penalty does not pull at the untrained "
            "student's features, or not by a finite number; give weights by hand, such as weight: [0.0, 1.0, 10.0]"
        )
    return weights
