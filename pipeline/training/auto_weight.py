"""`weight: auto`: a range of weights for a method, from the size of its gradient compared with that of the task.

Before training, the norms of both gradients with respect to the student's features are measured. The weights to try
are multiples of the one at which the two are equal. 0 is among them, so a method that does not help is left out.

The task's gradient passes through the student's last layer. If that layer starts at or near zero, the gradient is too
small to represent the rest of training; then both are measured through a new layer of ordinary size.
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
"""The candidates: the norm of the penalty's gradient over that of the task's, at the first step."""

BATCHES = 5
"""The number of batches that are measured."""

SMALL = 0.1
"""Below this share of the gradient through an ordinary last layer, the layer is taken to have started at zero. Usual
initial weights, such as a normal distribution with standard deviation 0.02, are above it at any usual width."""


def gradient_norm(loss: Float[Tensor, ""], features: Float[Tensor, "n d"]) -> float:
    """The norm of a loss's gradient with respect to the student's features; 0 if it does not depend on them."""
    (gradient,) = torch.autograd.grad(loss, features, retain_graph=True, allow_unused=True)
    return 0.0 if gradient is None else float(gradient.norm())


def equal_weight(task: Float[Tensor, ""], penalty: Float[Tensor, ""], features: Float[Tensor, "n d"]) -> float:
    """The weight at which the penalty's gradient has the norm of the task's.

    A map that starts at zero, as factor transfer's does, hides the features from its penalty; then it is the weight at
    which the losses are equal.
    """
    norm = gradient_norm(penalty, features)
    if norm > 1e-9 * penalty.item():
        return gradient_norm(task, features) / norm
    return task.item() / penalty.item() if penalty.item() > 1e-12 else math.inf


def ordinary_gradient(at_outputs: float) -> float:
    """The norm of the gradient at the features, through an untrained last layer of ordinary size.

    The weights of `nn.Linear` have variance 1 / (3 width), so they pass 1 / sqrt(3) of the norm on to the features.

    Args:
        at_outputs: the norm of the gradient at the outputs.
    """
    return at_outputs / math.sqrt(3)


@contextmanager
def ordinary_head(student: nn.Module, head: nn.Linear) -> Iterator[None]:
    """Inside, the student's outputs are those of `head`, a new last layer, on its features."""

    def through_head(module: nn.Module, inputs: Any, result: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return result[0], head(result[0])

    handle = student.register_forward_hook(through_head)
    try:
        yield
    finally:
        handle.remove()


def weights_to_try(ratios: Sequence[float], where: str) -> list[float]:
    """The weights that `auto` tries, to two digits, smallest first.

    Args:
        ratios: per batch, the weight at which both gradients have the same norm; their median is used.
        where: the method, for messages.

    Raises:
        UserError: the median is not a positive number, so there is nothing to try.
    """
    equal = math.nan if any(map(math.isnan, ratios)) else median(ratios)
    weights = [float(f"{ratio * equal:.2g}") for ratio in RATIOS] if math.isfinite(equal) else []
    if len(set(weights)) < len(RATIOS) or not all(map(math.isfinite, weights)):
        raise UserError(
            f"{where}: weight: auto cannot be measured, because the task or the penalty has no finite gradient with "
            "respect to the untrained student's features; list the weights, such as weight: [0.0, 1.0, 10.0]"
        )
    return weights
