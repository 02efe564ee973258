"""Differences between two records, such as recipes, as text."""

import json
from collections.abc import Iterator
from typing import Any


def differences(old: Any, new: Any, name: str = "") -> Iterator[str]:
    """The differences between two JSON records: one `name: old -> new` per leaf."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from differences(old.get(key), new.get(key), f"{name}.{key}" if name else str(key))
    elif old != new:
        yield f"{name}: {_short(old)} -> {_short(new)}"


def _short(value: Any) -> str:
    text = "none" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
