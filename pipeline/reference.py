"""Every key of params.yaml: its type, its default and its meaning, read from the settings classes and their docstrings.

`python -m pipeline.reference > docs/params.md` writes the page.
"""

import inspect
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen, MultipleOf
from pydantic.fields import FieldInfo

from pipeline.params import Settings
from pipeline.plugins import describe, plugin

WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false", NoneType: "null", Any: "anything"}
"""Names of types for users of YAML."""


@dataclass(frozen=True)
class Key:
    """A key of a section of params.yaml.

    Attributes:
        name: in the YAML file.
        type: of its value, as text.
        default: as YAML, or `required`.
        meaning: from the docstring of its class.
    """

    name: str
    type: str
    default: str
    meaning: str

    def __str__(self) -> str:
        return f"{self.name}: {self.type}; {_default_in_words(self.default)}\n    {self.meaning}"


def keys(settings: type[Settings], without: Sequence[str] = ()) -> list[Key]:
    """The keys of a settings class, with those of its base classes first.

    Args:
        settings: the class.
        without: keys to leave out.
    """
    meanings: dict[str, str] = {}
    for cls in reversed(settings.__mro__):
        meanings |= _attributes(cls.__dict__.get("__doc__") or "")
    return [
        Key(name, _type(field), _default(field), meanings.get(name, ""))
        for name, field in settings.model_fields.items()
        if name not in without
    ]


def plugin_keys(kind: str, name: str) -> list[Key]:
    """The keys of one plug-in, such as `plugin_keys("students", "timm")`.

    Raises:
        UserError: there is no such plug-in.
    """
    settings = getattr(plugin(kind, name), "Settings", None)
    return keys(settings) if settings else []


def page() -> str:
    """docs/params.md."""
    return "\n".join(_page()) + "\n"


def _page() -> Iterator[str]:
    # Imported here, so that the keys of one plug-in are found without all of them.
    from pipeline.data import PrepareSettings
    from pipeline.extraction import ExtractSettings
    from pipeline.machine import Machine
    from pipeline.probing import AssessSettings, ProbeSettings
    from pipeline.runs import Run, Search, Sweep, Term
    from pipeline.training import TrainSettings
    from pipeline.views import ViewSettings

    yield "# params.yaml"
    yield ""
    yield (
        "Every key of every section, written by `python -m pipeline.reference` from the docstrings. A section that is "
        "left out has its defaults, except `dataset`; `dvc repro` needs each of them, if only as `probe: {}`. "
        "`aft list KIND NAME` prints the keys of one plug-in. A number with an exponent needs a point and a sign, as "
        "in `1.0e-4`: YAML reads `1e-4` as text."
    )
    yield from _section("dataset", keys(PrepareSettings))
    yield from _plugins("dataset.source", "datasets", "family")
    yield from _section("extract", keys(ExtractSettings))
    yield from _plugins("teachers.NAME", "teachers", "family")
    yield from _plugins("teachers.NAME.views", "views", "family", keys(ViewSettings))
    yield from _section("probe", keys(ProbeSettings))
    yield from _section("assess", keys(AssessSettings))
    yield from _plugins("students.NAME", "students", "family")
    yield from _section("train", keys(TrainSettings))
    yield from _plugins("train.augment", "augmentations", "")
    yield from _section("machine", keys(Machine))
    yield from _section("runs.NAME", keys(Run))
    yield from _section("runs.NAME.methods.METHOD", keys(Term, without=["name", "options"]))
    yield from _plugins("runs.NAME.methods", "methods", "")
    yield from _section("sweep.NAME", keys(Sweep))
    yield from _section("sweep.NAME.search", keys(Search))


def _section(name: str, found: list[Key]) -> Iterator[str]:
    yield from ("", f"## {name}", "")
    yield from _table(found)


def _plugins(section: str, kind: str, key: str, common: Sequence[Key] = ()) -> Iterator[str]:
    if key:
        yield from ("", f"## {section}", "", f"`{key}` names one of these; the other keys are its own.")
    if common:
        yield from ("", "All of them have these keys as well.", "")
        yield from _table(list(common))
    for name, line in describe(kind).items():
        yield from ("", f"### {section}.{name}" if not key else f"### `{key}: {name}`", "", line, "")
        found = plugin_keys(kind, name)
        yield from _table(found) if found else ["It has no keys of its own."]


def _table(found: list[Key]) -> Iterator[str]:
    yield "| key | type | default | meaning |"
    yield "|---|---|---|---|"
    for key in found:
        default = key.default if key.default == "required" else f"`{key.default}`"
        yield f"| `{key.name}` | {key.type} | {default} | {key.meaning.replace('|', chr(92) + '|')} |"


def _attributes(docstring: str) -> dict[str, str]:
    """The `Attributes` of a docstring, by name; `val, test: ...` is the meaning of both."""
    _, _, section = inspect.cleandoc(docstring).partition("Attributes:\n")
    found: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        if line and not line.startswith(" "):
            break
        if start := re.fullmatch(r" {4}(\w+(?:, \w+)*): (.*)", line):
            names = start[1].split(", ")
            found |= dict.fromkeys(names, start[2])
        elif line.strip():
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    # Docstrings are written for Python, and the page for YAML.
    return {name: re.sub(r"\bNone\b", "null", meaning) for name, meaning in found.items()}


def _type(field: FieldInfo) -> str:
    words = _words(field.annotation)
    limits = ", ".join(filter(None, map(_limit, field.metadata)))
    # A limit is for the number, and null is always allowed.
    number, separator, null = words.partition(" or null")
    return f"{number} {limits}{separator}{null}" if limits else words


def _words(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _words(inner[0])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(map(_words, inner)))
    if origin in (list, tuple):
        if isinstance(inner[0], type) and issubclass(inner[0], Settings):
            return "mapping or list of mappings"
        words = _words(inner[0])
        return f"list of {words}s" if words.endswith(("number", "text")) else f"list of {words}"
    if origin is dict or (isinstance(annotation, type) and issubclass(annotation, Settings)):
        return "mapping"
    return WORDS[annotation]


def _limit(limit: Any) -> str:
    match limit:
        case Ge(ge):
            return f">= {ge}"
        case Gt(gt):
            return f"> {gt}"
        case Le(le):
            return f"<= {le}"
        case Lt(lt):
            return f"< {lt}"
        case MultipleOf(multiple_of):
            return f"multiple of {multiple_of}"
        case MinLen(1):
            return "(at least one)"
    return ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    return value if isinstance(value, str) else json.dumps(value)


def _default_in_words(default: str) -> str:
    return default if default == "required" else f"default {default}"


if __name__ == "__main__":
    print(page(), end="")
