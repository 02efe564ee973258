"""A trial that is run in a test, step by step."""

from collections.abc import Generator
from typing import Any


def result_of(training: Generator[int, None, Any], steps: int | None = None) -> Any:
    """The result of `run_trial`; None where it is left after so many steps."""
    done = 0
    while steps is None or done < steps:
        try:
            done += next(training)
        except StopIteration as stop:
            return stop.value
    return None
