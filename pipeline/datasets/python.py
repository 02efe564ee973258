"""Rows of your own: a function `package.module:name` that yields a `pipeline.datasets.Row` for each example.

The function is called twice, and must yield the same rows in the same order. DVC does not see what it does: after a
change of its code, or of data outside `raw/`, run `dvc repro -f prepare`.
"""

from collections.abc import Iterator
from typing import Any

from pydantic import Field

from pipeline.datasets import Kind, Row, parts_of
from pipeline.errors import UserError
from pipeline.params import Settings as Section
from pipeline.plugins import function, in_user_code

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
    """The rows that the function yields.

    Raises:
        UserError: there is no such function, it fails, or what it yields are no such rows.
    """
    expected = [str if part == "text" else bytes for part in parts_of(settings.kind)]
    named = " and ".join(part.__name__ for part in expected)
    for number, row in enumerate(_yielded(settings), start=1):
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
        label = (row.label,) if row.label is None or isinstance(row.label, str) else row.label
        texts = [*label, row.split, row.group] if isinstance(label, tuple | list) else [label]
        if wrong := [text for text in texts if not (text is None or isinstance(text, str))]:
            raise UserError(
                f"{settings.factory}: item {number} has {wrong[0]!r} as its label, split or group; these are texts, "
                "such as str(label), a tuple of texts for several labels, or None"
            )
        yield row


def _yielded(settings: Settings) -> Iterator[Any]:
    make = function(settings.factory, "dataset.source.factory")
    try:
        yield from make(**settings.options)
    except Exception as error:  # it may be any code
        line = in_user_code(error, settings.factory.partition(":")[0])
        raise UserError(f"{settings.factory}: {line}") from error
