"""Rows of a user's own, as the family `python` takes them."""

from collections.abc import Iterator

from pipeline.datasets import Row


def rows(number: int) -> Iterator[Row]:
    """Texts of two classes."""
    for n in range(number):
        yield Row(f"r{n}", f"text {n}", "ab"[n % 2])


def wrong() -> Iterator[object]:
    """No rows."""
    yield {"text": "a"}
