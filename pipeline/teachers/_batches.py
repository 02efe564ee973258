"""Whether a row's features depend on the rows that share its batch."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from pipeline.errors import UserError

T = TypeVar("T")

ROUNDING = {"float32": 1e-5, "float16": 1e-4, "bfloat16": 2e-3}
"""By precision, features count as equal if 1 - cosine is at most this."""


def depends_on_batch(
    name: str, run: Callable[[Sequence[T]], Mapping[str, Tensor]], examples: Sequence[T], rounding: float
) -> bool:
    """Compare the features of rows alone with those in one batch of all of them.

    Args:
        name: of the model, for messages.
        run: gives the features of a batch by head, [n, *shape].
        examples: two or more different rows.
        rounding: see `ROUNDING`.

    Raises:
        UserError: the features of one row differ from call to call.
    """
    alone, again = ([run([example]) for example in examples] for _ in range(2))
    for head in alone[0]:
        if any(differ(one[head], other[head], rounding) for one, other in zip(alone, again, strict=True)):
            raise UserError(
                f"{name}: head `{head}`: the features of a row change from call to call, so it cannot be a teacher; "
                "switch off what is random in it, such as dropout"
            )
    together = run(examples)
    return any(
        differ(values[0], together[head][number], rounding)
        for number, features in enumerate(alone)
        for head, values in features.items()
    )


def differ(one: Tensor, other: Tensor, rounding: float) -> bool:
    """Whether the features of one row [*shape] differ by more than rounding."""
    one, other = one.flatten().double(), other.flatten().double()
    if torch.equal(one, other):
        return False
    return not bool(1 - nn.functional.cosine_similarity(one, other, dim=0) <= rounding)
