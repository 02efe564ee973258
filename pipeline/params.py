"""Strict settings: params.yaml and `-S section.key=value` overrides, read into frozen records.

Settings classes are next to the code that uses them. This module only finds sections, and refuses what does not belong
there.
"""

import copy
import re
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import to_jsonable_python

from pipeline import specs, strict_yaml
from pipeline.errors import UserError, listed, suggestion
from pipeline.files import TEXT_BYTES, read_regular
from pipeline.plugins import plugin, plugins

S = TypeVar("S", bound="Settings")

SECTIONS = ("dataset", "extract", "teachers", "probe", "assess", "students", "train", "machine", "runs", "sweep")
"""The sections of params.yaml. All except `dataset` may be left out: their keys have defaults, or there are none."""
NEEDED_BY_DVC = ("dataset", "extract", "teachers", "probe", "assess", "students", "train", "runs")
"""Those that dvc.yaml depends on. DVC stops at a section that is not in the file."""
PLACE = "features"
"""The key that says where features are, if not in the project's folder."""
NAMED = ("teachers", "students", "runs", "sweep")
"""Sections with keys that the user chooses."""
SHORT = ("teachers", "students")
"""Those of them whose values have a short form."""
BESIDES = ("views", "reads")
"""Keys of a teacher that are not its family's: the views that it sees of a row, and the side of pairs that it reads."""
SOURCE = ("datasets", "dataset.source")
"""The source of the data: its kind of plug-in, and its section."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
DEVICE = re.compile(r"(?i)con|prn|aux|nul|com[0-9]|lpt[0-9]")
"""Names that no file can have on Windows, where projects may be checked out."""


class Settings(BaseModel):
    """A frozen, strict section of params.yaml: unknown keys, missing keys and wrong types are refused.

    So are .nan and .inf: no setting has a use for them, and records of settings are strict JSON, which lacks them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())


class Params:
    """All of params.yaml, as plain data; `read` turns a section into its settings class.

    Args:
        values: the parsed file.
        source: its name in messages, usually the file's path.

    Attributes:
        short: by section, such as `teachers.dino`, the short form that was written there.
    """

    def __init__(self, values: Mapping[str, Any], source: str = "params.yaml"):
        self.values = dict(values)
        self.source = source
        self.short: dict[str, str] = {}

    @classmethod
    def load(cls, path: str | Path = "params.yaml", overrides: Sequence[str] = ()) -> "Params":
        """Read a params file and apply `section.key=value` overrides, whose values are YAML.

        Raises:
            UserError: the file is missing or is not a YAML mapping (see `strict_yaml.load`), or an override is
                malformed or names a section that does not exist.
        """
        path = Path(path)
        try:
            values = strict_yaml.load(read_regular(path, TEXT_BYTES).decode("utf-8"))
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; run from the project's folder, or pass --params FILE") from None
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 from byte {error.start} on; save it as UTF-8") from None
        except ValueError as error:
            raise UserError(f"{path}: {error}") from None
        if not isinstance(values, dict):
            raise UserError(f"{path}: expected sections such as `train:`, found {type(values).__name__}")
        values = copy.deepcopy(values)
        params = cls(values, str(path))
        params.expand()
        for override in overrides:
            _override(params.values, override)
        params.expand()
        params.check_names()
        return params

    def expand(self) -> None:
        """Replace the short forms of teachers and students, such as `timm:resnet18`, by mappings; see `specs`."""
        for section in SHORT:
            named = self.values.get(section)
            for name, value in named.items() if isinstance(named, dict) else ():
                if isinstance(value, str):
                    where = f"{self.source}: {section}.{name}"
                    self.short[f"{section}.{name}"] = value
                    kind = "" if value.startswith("timm:") else self._kind()
                    self.values[section] = self.values[section] | {name: specs.expand(value, section, kind, where)}

    def _kind(self) -> str:
        """What the rows of the dataset hold, text or image."""
        family, settings = self.plugin(*SOURCE)
        return str(family.KIND or settings.kind)

    def check_names(self) -> None:
        """Refuse names that would not be safe as files, as keys of DVC and `-S`, or in commands."""
        for section in NAMED:
            named = self.values.get(section)
            for name in named if isinstance(named, dict) else ():
                if not isinstance(name, str) or not NAME.fullmatch(name) or DEVICE.fullmatch(name):
                    shown = ascii(name) if len(ascii(name)) <= 60 else f"{ascii(name)[:60]}..."
                    raise UserError(
                        f"{self.source}: {section}: {shown} is not a valid name; use up to 100 letters, digits, _ and "
                        "-, the first a letter or digit"
                    )

    def check_sections(self) -> None:
        """Refuse sections that no command reads, which would be taken for left out."""
        for name in self.values:
            if name not in (*SECTIONS, PLACE):
                raise UserError(
                    f"{self.source}: unknown section `{name}`{suggestion(str(name), (*SECTIONS, PLACE))}; allowed "
                    f"are {listed([*SECTIONS, PLACE])}"
                )

    def check_for_dvc(self) -> None:
        """Refuse a file without a section that dvc.yaml depends on.

        Raises:
            UserError: it leaves out one or more; the message has the lines to add.
        """
        if missing := [name for name in NEEDED_BY_DVC if name not in self.values]:
            raise UserError(
                f"{self.source}: DVC needs the {'section' if len(missing) == 1 else 'sections'} {listed(missing)}, if "
                f"only as {listed([f'`{name}: {{}}`' for name in missing])}; add that, or use `aft run --direct`"
            )

    def section(self, name: str) -> dict[str, Any]:
        """The mapping at a dotted name such as `teachers.minilm`; an empty one for a section that is left out.

        Raises:
            UserError: there is no such section, or it is not a mapping; the message lists what there is.
        """
        here: Any = {section: {} for section in SECTIONS[1:]} | self.values
        walked = ""
        for key in name.split("."):
            if not isinstance(here, dict) or key not in here:
                there = sorted(map(str, here)) if isinstance(here, dict) else []
                inside = f"`{walked}` has" if walked else "there are"
                raise UserError(f"{self.source}: no section `{name}`{suggestion(key, there)}; {inside} {listed(there)}")
            here = here[key]
            walked = f"{walked}.{key}" if walked else key
        if not isinstance(here, dict):
            raise UserError(f"{self.source}: `{name}` must be a mapping of settings, found {here!r}")
        return here

    def read(self, cls: type[S], name: str) -> S:
        """The section `name` as a settings class. Raises `UserError` as `section` and `parse` do."""
        return parse(cls, self.section(name), f"{self.source}: {name}")

    def plugin(self, kind: str, name: str, key: str = "family", also: Sequence[str] = ()) -> tuple[ModuleType, Any]:
        """The plug-in module that section `name` asks for, and its `Settings` read from the other keys.

        `plugin("teachers", "teachers.minilm")` with `family: transformers` gives `pipeline/teachers/transformers.py`
        and its settings. Keys in `also` are left out.
        """
        values = {key: value for key, value in self.section(name).items() if key not in also}
        return read_plugin(kind, values, f"{self.source}: {name}", key)


def parse(cls: type[S], values: Mapping[str, Any], where: str) -> S:
    """Read `values` into `cls`, strictly; `where` names their place in messages.

    Raises:
        UserError: one line for the first problem: an unknown key (with the allowed ones), a missing key, or a value of
            the wrong type (for `1e-4`, which YAML 1.1 reads as text, the spelling that works).
    """
    try:
        return cls.model_validate(dict(values))
    except ValidationError as error:
        problems = error.errors()
        first = problems[0]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UserError(f"{where}{_explain(cls, first)}{more}") from None


def defaults(cls: type[Settings]) -> dict[str, Any]:
    """The keys of a section that need not be written, with the values that they then have, JSON-like."""
    optional = {key: field for key, field in cls.model_fields.items() if not field.is_required()}
    return {key: to_jsonable_python(field.get_default(call_default_factory=True)) for key, field in optional.items()}


def read_plugin(kind: str, values: Mapping[str, Any], where: str, key: str = "family") -> tuple[ModuleType, Any]:
    """The plug-in that `values[key]` names, and its `Settings` read from the remaining values."""
    if not isinstance(values, Mapping):
        raise UserError(f"{where}: expected a mapping with `{key}`, found {values!r}")
    if key not in values:
        raise UserError(f"{where}: missing key `{key}`; one of {listed(plugins(kind))}")
    module = plugin(kind, values[key], f"{where}.{key}")
    return module, parse(module.Settings, {k: v for k, v in values.items() if k != key}, where)


def _override(values: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    *sections, key = name.strip().split(".")
    if not equals or not sections or not all([*sections, key]):
        raise UserError(f"-S {override}: write it as section.key=value, such as -S train.steps=500")
    here: Any = values
    if sections[0] in SECTIONS:
        here.setdefault(sections[0], {})
    for depth, section in enumerate(sections):
        if not isinstance(here, dict) or not isinstance(here.get(section), dict):
            there = sorted(map(str, here)) if isinstance(here, dict) else []
            missing = ".".join(sections[: depth + 1])
            if isinstance(here, dict) and section in here:
                raise UserError(
                    f"-S {override}: `{missing}` is {here[section]!r}, not a mapping; set all of it, or write it as a "
                    "mapping in the file"
                )
            raise UserError(
                f"-S {override}: no section `{missing}`{suggestion(section, there)}; there are {listed(there)}"
            )
        here = here[section]
    try:
        here[key] = strict_yaml.load(text)
    except ValueError as error:
        raise UserError(f"-S {override}: the value: {error}") from None


def _explain(cls: type[Settings], problem: Any) -> str:
    # If a value may have several types, pydantic adds the type to the place: `weight.list[float][0]`, `path.str`.
    loc = [part for part in problem["loc"] if not (isinstance(part, str) and "[" in part)]
    if len(loc) > 1 and loc[-1] in ("str", "int", "float", "bool"):
        loc.pop()
    place = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in loc)
    found = problem["input"]
    match problem["type"]:
        case "extra_forbidden":
            allowed = sorted(_owner(cls, problem["loc"][:-1]).model_fields)
            key = str(problem["loc"][-1])
            return f": unknown key `{place.lstrip('.')}`{suggestion(key, allowed)}; allowed are {listed(allowed)}"
        case "missing":
            return f": missing key `{place.lstrip('.')}`"
    message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
    message = re.sub(
        r"^(?:List|Tuple|String|Dictionary) should (.*?)(?: after validation, not \d+)?$", r"should \1", message
    )
    message = message.replace("a valid dictionary", "a mapping").replace("a valid tuple", "a valid list")
    if isinstance(found, str) and (spelling := _spelling(found)):
        return f"{place}: {found!r} is text to YAML; write {spelling}"
    return f"{place}: {message}, found {found!r}" if place else f": {message}"


def _owner(cls: type[Settings], loc: Sequence[Any]) -> type[BaseModel]:
    """The nested settings class at a location, for listing the keys it allows."""
    owner: type[BaseModel] = cls
    for name in loc:
        field = owner.model_fields.get(name) if isinstance(name, str) else None
        if field is not None and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            owner = field.annotation
    return owner


def _spelling(text: str) -> str | None:
    """The YAML 1.1 spelling of a number that was read as text: a point in the mantissa, a sign in the exponent."""
    if parts := re.fullmatch(r"([+-]?\d+)(\.\d*)?[eE]([+-]?)(\d+)", text.strip()):
        whole, fraction, sign, exponent = parts.groups()
        return f"{whole}{fraction or '.0'}e{sign or '+'}{exponent}"
    try:
        return repr(float(text)) if isfinite(float(text)) else None
    except ValueError:
        return None
