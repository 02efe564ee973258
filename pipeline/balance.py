"""Weights for those who have none: a penalty's pull on the student's features, measured against the task's.

`weight: auto` measures, before training, by how much a penalty must be multiplied to pull as hard as the task does, and
searches multiples of that. 0 is among them: a method that does not help stands aside.
"""

from collections.abc import Sequence
from statistics import median

import torch
from jaxtyping import Float
from torch import Tensor

RATIOS = (0.0, 1.0, 10.0, 100.0, 1000.0)
"""What `auto` tries: the norm of the penalty's gradient over that of the task's, at the first step."""

BATCHES = 5
"""How many batches are measured."""


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
    return task.item() / max(penalty.item(), 1e-12)


def candidates(ratios: Sequence[float]) -> list[float]:
    """The weights that `auto` tries, to two digits, smallest first.

    Args:
        ratios: of the task's pull to the penalty's at weight 1, one per batch; their median is what counts.
    """
    at_one = median(ratios)
    return [float(f"{ratio * at_one:.2g}") for ratio in RATIOS]
