"""Rows of a user's own, as the family `python` takes them."""

from collections.abc import Iterator
from typing import Any

from pipeline.datasets import Row


def rows(number: int) -> Iterator[Row]:
    """Texts of two classes."""
    for n in range(number):
        yield Row(f"r{n}", f"text {n}", "ab"[n % 2])


def wrong() -> Iterator[object]:
    """No rows."""
    yield {"text": "a"}


def labelled(label: Any) -> Iterator[Row]:
    """One row, whose label is any object."""
    row = Row("1", "text")
    object.__setattr__(row, "label", label)  # Python checks no types, but the tests do where a row is made
    yield row
