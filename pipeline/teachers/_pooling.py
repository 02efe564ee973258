"""Pooling of a text's token states into one vector. Names and formulas are those of sentence-transformers."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Pooling = Literal["mean", "cls", "last", "max", "weighted", "mean_sqrt_len"]
"""The mean over the tokens; the first or the last token; the maximum of each feature; the mean weighted by the
positions 1, 2, ... of the tokens; the sum divided by the square root of the number of tokens."""


def pool(
    states: Float[Tensor, "n l d"], mask: Int[Tensor, "n l"], modes: Sequence[Pooling]
) -> Float[Tensor, "n pooled"]:
    """The states of tokens, pooled in each mode and concatenated.

    Args:
        states: the state of every token; those of padding must be finite.
        mask: 1 for tokens that count, 0 for padding, on either side; at least one 1 per row.
        modes: at least one.
    """
    return (
        torch.cat([_pool(states, mask, mode) for mode in modes], 1) if len(modes) > 1 else _pool(states, mask, modes[0])
    )


def _pool(states: Tensor, mask: Tensor, mode: Pooling) -> Tensor:
    rows, counts = torch.arange(len(states), device=states.device), mask.sum(1, keepdim=True)
    match mode:
        case "mean":
            return (states * mask[..., None]).sum(1) / counts
        case "mean_sqrt_len":
            return (states * mask[..., None]).sum(1) / counts.sqrt()
        case "weighted":
            # Positions count from a text's first token that is not padding.
            places = torch.arange(1, mask.shape[1] + 1, device=mask.device) - mask.argmax(1, keepdim=True)
            weights = mask * places
            return (states * weights[..., None]).sum(1) / weights.sum(1, keepdim=True)
        case "max":
            return states.masked_fill(mask[..., None] == 0, -torch.inf).amax(1)
        case "cls":
            return states[rows, mask.argmax(1)]
        case "last":
            return states[rows, mask.shape[1] - 1 - mask.flip(1).argmax(1)]
