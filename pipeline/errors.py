"""The one exception that means: the user can fix this; and how messages name the alternatives."""

import difflib
from collections.abc import Sequence


class UserError(Exception):
    """Something outside the program is wrong, and the user can fix it.

    The message is one line: what is wrong, where, and what to do. Every command prints it without a traceback and
    exits with code 2; anything else that is raised is a bug of ours and keeps its traceback.
    """


def listed(names: Sequence[str]) -> str:
    """Names with commas; `none` if there are none."""
    return ", ".join(names) if names else "none"


def suggestion(name: str, names: Sequence[str]) -> str:
    """The words that ask for the closest of `names`, such as ` (did you mean `aft`?)`; empty if none is close."""
    close = difflib.get_close_matches(name, names, n=1)
    return f" (did you mean `{close[0]}`?)" if close else ""


def count(number: int, noun: str) -> str:
    """A number and its noun, in the singular or plural: `1 seed`, `12,000 rows`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
