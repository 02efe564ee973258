"""The head `logits`, where a model has many classes: all values of a row, or the largest and the sum of the others."""

from collections.abc import Mapping, Sequence

from pipeline.errors import UserError, count

MANY = 1000
"""More classes than this are pointed out, if all of their logits are kept."""


def check_top(top: int | None, heads: Sequence[str]) -> None:
    """Refuse a `top` without the head that it is about, as a validator does.

    Raises:
        ValueError: `heads` has no `logits`.
    """
    if top is not None and "logits" not in heads:
        raise ValueError("top keeps the largest logits, and heads has no `logits`; add it, or drop top")


def largest(
    name: str, heads: Mapping[str, tuple[int, ...]], top: int | None
) -> tuple[Mapping[str, int], tuple[str, ...]]:
    """A teacher's `largest`, and what to note about the room that its logits take.

    Args:
        name: of the model, for messages.
        heads: the shape of a row of each head.
        top: how many of the largest logits to keep; all if None.

    Raises:
        UserError: the largest take no less room than all of them.
    """
    classes = heads.get("logits", (0,))[0]
    if top is None:
        if classes <= MANY:
            return {}, ()
        return {}, (
            f"its {count(classes, 'logit')} are {2 * classes:,} bytes a row; `top: 50` keeps the largest in "
            f"{6 * 50 + 2}",
        )
    if 3 * top >= classes:
        raise UserError(f"{name}: top: {top} of {count(classes, 'logit')} takes no less room than all; drop it")
    return {"logits": top}, ()
