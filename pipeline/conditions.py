"""Conditions on named values, as `--where "student=small,weight>0"` takes them."""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline import strict_yaml
from pipeline.errors import UserError, listed, suggestion

OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    "=": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}
"""Those of two characters first: `>` is in `>=`."""

_CONDITION = re.compile(rf"\s*([^\s!<>=,]+)\s*({'|'.join(OPERATORS)})\s*([^\s!<>=,][^!<>=,]*?)\s*")


@dataclass(frozen=True)
class Condition:
    """One comparison of the value at a key with a constant."""

    key: str
    sign: str
    constant: Any

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether it holds. Where the key has no value nothing but `!=` does; text is not smaller than a number."""
        value = values.get(self.key)
        if isinstance(value, list | tuple):
            value = "+".join(map(str, value))
        if self.sign in ("=", "!="):
            return OPERATORS[self.sign](value, self.constant)
        try:
            return value is not None and OPERATORS[self.sign](value, self.constant)
        except TypeError:
            return False


def conditions(text: str, keys: Sequence[str]) -> list[Condition]:
    """The conditions in a text, separated by commas; all must hold. An empty text has none.

    Args:
        text: such as `student=small,weight>0`.
        keys: that there are.

    Raises:
        UserError: it is malformed, or names another key.
    """
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = _CONDITION.fullmatch(part)
        if match is None:
            raise UserError(f"--where {part}: write KEY=VALUE, or another of {' '.join(OPERATORS)}, such as weight>0")
        key, sign, value = match.groups()
        if key not in keys:
            raise UserError(f"--where {part}: no `{key}`{suggestion(key, keys)}; there are {listed(keys)}")
        try:
            found.append(Condition(key, sign, strict_yaml.load(value)))
        except ValueError as error:
            raise UserError(f"--where {part}: the value: {error}") from None
    return found


def selected(values: Mapping[str, Any], where: Sequence[Condition]) -> bool:
    """Whether all conditions hold."""
    return all(condition.holds(values) for condition in where)
