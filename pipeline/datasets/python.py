"""Rows of your own: a function `package.module:name` that yields a `pipeline.datasets.Row` for each example.

The function is called twice, and must yield the same rows in the same order. DVC does not see what it does: after a
change of its code, or of data outside `raw/`, run `dvc repro -f prepare`.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from typing import Any

from pydantic import Field

from pipeline.datasets import Kind, Row, parts_of
from pipeline.errors import UserError, suggestion
from pipeline.params import Settings as Section

KIND = None


class Settings(Section):
    """Keys of a function of your own.

    Attributes:
        factory: `package.module:name`; the module may be in the project's folder.
        kind: what its rows hold.
        options: passed to the function, by name.
    """

    factory: str
    kind: Kind
    options: dict[str, Any] = Field(default_factory=dict)


def rows(settings: Settings) -> Iterator[Row]:
    """The rows that the function yields."""
    expected = [str if part == "text" else bytes for part in parts_of(settings.kind)]
    named = " and ".join(part.__name__ for part in expected)
    for number, row in enumerate(_function(settings.factory)(**settings.options), start=1):
        content = getattr(row, "content", None)
        parts = content if isinstance(content, tuple) else (content,)
        fits = len(parts) == len(expected) and all(map(isinstance, parts, expected))
        if not isinstance(row, Row) or not fits:
            raise UserError(
                f"{settings.factory}: item {number} is {type(row).__name__}, not a pipeline.datasets.Row whose content "
                f"is {named}, as kind: {settings.kind} says"
            )
        if not isinstance(row.id, str) or not row.id:
            raise UserError(
                f"{settings.factory}: item {number} has the id {row.id!r}; every row needs a text as its id"
            )
        yield row


def _function(factory: str) -> Callable[..., Iterable[Row]]:
    module, _, name = factory.partition(":")
    if not module or not name:
        raise UserError(f"dataset.source.factory: {factory!r}: write it as package.module:function")
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(
            f"dataset.source.factory: no module {error.name!r}; put it into the project's folder, or install its "
            "package"
        ) from None
    finally:
        sys.path.remove(here)
    function = getattr(found, name, None)
    if not callable(function):
        raise UserError(f"dataset.source.factory: {module} has no function {name!r}{suggestion(name, dir(found))}")
    found_function: Callable[..., Iterable[Row]] = function
    return found_function
