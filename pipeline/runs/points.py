"""The points of a sweep: each is a run, made of values for the keys that the sweep goes over.

    sweep:
      sizes:
        over: {student: [bag, wide], methods: [none, aft, kd], weight: [10.0, 100.0], teachers: minilm}

Keys are those of a run: `student`, `teachers`, `methods`, `shuffle_teachers`; `weight` of its methods; `run`, the run
of params.yaml to start from; and dotted settings, `student.KEY`, `methods.NAME.KEY`, and, as `-S` has them,
`train.KEY`, `students.NAME.KEY` and `runs.NAME.KEY`; and `dataset.labelled`, the number of labels. Needs no torch.
"""

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

from pydantic import Field, field_validator

from pipeline.errors import UserError, count, listed, suggestion
from pipeline.params import Params, Settings

NAME = "point"
"""The name of a point's run, in the settings that are made for it alone."""

KEYS = ("run", "student", "teachers", "methods", "weight", "shuffle_teachers")
"""Keys of a point that are not dotted."""

LABELLED = "dataset.labelled"
"""The number of labels. It needs no data of its own: which rows keep their label follows from their ids."""

SECTIONS = ("train", "student", "methods", "students", "runs")
"""What dotted keys may begin with."""

EARLIER = ("dataset", "extract", "teachers", "probe", "assess")
"""Sections that earlier stages read: a point with another value would need data, features or probes of its own."""

MOST = 10_000
"""Points of a sweep; more are a mistake, or a search."""


class Range(Settings):
    """Numbers from `low` to `high`, both included, for a search; whole ones if both are whole.

    Attributes:
        log: search their logarithms.
    """

    low: float
    high: float
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are meant."""
        return isinstance(self.low, int) and isinstance(self.high, int)


class Search(Settings):
    """How a sweep is searched instead of trying every point.

    Attributes:
        points: to try.
        together: points proposed at a time, from what is known of those before. They are trained side by side, and the
            number decides how the search goes; the number of processes does not.
        seed: of the search.
    """

    points: int = Field(ge=1)
    together: int = Field(default=4, ge=1)
    seed: int = Field(default=0, ge=0)


class Sweep(Settings):
    """A section of `sweep`.

    Attributes:
        over: by key, a value or a list of values; every combination is a point. A list of such mappings is tried one
            after the other. With `search` one mapping, whose values may be ranges, `{low: 0.01, high: 1.0, log: true}`.
        seeds: of every point; those of `train` if None.
        search: propose points one after the other, instead of trying every combination.
    """

    over: list[dict[str, list[Any]]]
    seeds: list[int] | None = None
    search: Search | None = None

    @field_validator("over", mode="before")
    @classmethod
    def _lists(cls, over: Any) -> Any:
        grids = over if isinstance(over, list) else [over]
        if not grids or not all(isinstance(grid, Mapping) and grid for grid in grids):
            raise ValueError("should be a mapping of keys to lists, such as {student: [bag], weight: [1.0, 10.0]}")
        return [
            {key: values if isinstance(values, list) else [values] for key, values in grid.items()} for grid in grids
        ]


@dataclass(frozen=True)
class Point:
    """One point of a sweep.

    Attributes:
        values: by key of the sweep.
        section: the run that it is, as a section of `runs`.
        params: all settings, with that run alone, called `NAME`.
    """

    values: dict[str, Any]
    section: dict[str, Any]
    params: Params

    @property
    def labelled(self) -> int | float | None:
        """The number of labels, or their share of the training rows; None: as the dataset was prepared."""
        found: int | float | None = self.values.get(LABELLED)
        return found

    @property
    def label(self) -> str:
        """Its name in tables: `student=bag, weight=10`."""
        return point_label(self.values)


def point_label(values: Mapping[str, Any]) -> str:
    """Values by key as text: `student=bag, weight=10`."""
    return ", ".join(f"{key}={value_label(value)}" for key, value in values.items())


def value_label(value: Any) -> str:
    """A value of a point as text, as params.yaml has it: `bag`, `minilm+e5`, `0.01`, `true`; `none` for nothing."""
    if value is None or value in ([], {}, ""):
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "+".join(map(value_label, value))
    return f"{value:g}" if isinstance(value, float) else json.dumps(value) if isinstance(value, dict) else str(value)


def read_sweep(params: Params, name: str) -> Sweep:
    """The sweep `name`, with nothing in it that could not be tried.

    Raises:
        UserError: there is no such sweep, or it has a key that it cannot go over, no or equal values, too many points,
            or a wrong range.
    """
    where = f"{params.source}: sweep.{name}"
    sweep = params.read(Sweep, f"sweep.{name}")
    if sweep.search and len(sweep.over) > 1:
        raise UserError(f"{where}: a search has one mapping `over`, and there are {len(sweep.over)}; make them sweeps")
    number = sum(prod(map(len, grid.values())) for grid in sweep.over)
    if number > MOST:
        raise UserError(f"{where}: {count(number, 'point')}, more than {MOST:,}; list fewer values, or use `search`")
    for grid in sweep.over:
        for key, values in grid.items():
            _check_key(key, f"{where}.over")
            if not values:
                raise UserError(f"{where}.over: {key}: no values, so there is nothing to train; list some")
            for position, value in enumerate(values):
                if key == LABELLED and not _is_amount(value) and not range_of(value):
                    raise UserError(
                        f"{where}.over: {key}: {value!r}; write numbers of rows from 1, or shares between 0 and 1"
                    )
                if value in values[:position]:
                    raise UserError(f"{where}.over: {key}: {value!r} is listed twice; drop one")
                if (found := range_of(value)) and not sweep.search:
                    raise UserError(f"{where}.over: {key}: a range needs `search: {{points: 40}}`; or list values")
                if found and (len(values) > 1 or found.low >= found.high or (found.log and found.low <= 0)):
                    raise UserError(
                        f"{where}.over: {key}: {value}: one range for a key, with low < high, and low > 0 with log"
                    )
    return sweep


def _is_amount(value: Any) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool) and value > 0
    return whole or (isinstance(value, float) and 0 < value < 1)


def range_of(value: Any) -> Range | None:
    """The range that a value of a sweep is; None if it is an ordinary value."""
    given = isinstance(value, Mapping) and {"low", "high"} <= value.keys() <= {"low", "high", "log"}
    numbers = given and all(isinstance(value[key], int | float) for key in ("low", "high"))
    return Range.model_construct(**value) if numbers else None


def points(params: Params, name: str) -> list[list[Point]]:
    """The points of a sweep, by mapping of `over`; of a search, those at the ends of its ranges.

    Raises:
        UserError: as `read_sweep`; or one has no student, or starts from a run that is not there.
    """
    sweep = read_sweep(params, name)
    ends = [{key: [end for value in values for end in _ends(value)] for key, values in g.items()} for g in sweep.over]
    return [_grid(params, name, sweep, grid) for grid in ends]


def _grid(params: Params, name: str, sweep: Sweep, grid: Mapping[str, list[Any]]) -> list[Point]:
    """Every combination of values. Those that come to the same run, as all weights of plain training, are one.

    Raises:
        UserError: a key changes no point.
    """
    found: dict[str, Point] = {}
    for values in product(*grid.values()):
        point = make_point(params, name, sweep, dict(zip(grid, values, strict=True)))
        key = json.dumps([point.section, point.labelled], sort_keys=True, default=str)
        found.setdefault(key, point)
    if idle := grid.keys() - {key for point in found.values() for key in point.values}:
        key = min(idle)
        raise UserError(f"{params.source}: sweep.{name}.over: {key}: changes no point; check its names, or drop it")
    return list(found.values())


def _ends(value: Any) -> list[Any]:
    found = range_of(value)
    return [found.low, found.high] if found else [value]


def make_point(params: Params, name: str, sweep: Sweep, values: Mapping[str, Any]) -> Point:
    """The point of a sweep, called `name`, with these values.

    Raises:
        UserError: it has no student, or names a run that is not there.
    """
    where = f"{params.source}: sweep.{name}"
    base = values.get("run")
    section = copy.deepcopy(params.section(f"runs.{base}")) if base is not None else {}
    for key in ("student", "teachers", "shuffle_teachers"):
        if key in values:
            section[key] = values[key]
    if isinstance(section.get("teachers"), str):
        section["teachers"] = [section["teachers"]]
    methods = _methods(values["methods"] if "methods" in values else section.get("methods"), where)
    search, train = dict(section.get("search", {})), dict(section.get("train", {}))
    used = {key: value for key, value in values.items() if key != "weight" or methods}
    if "weight" in values:
        methods = {method: options | {"weight": values["weight"]} for method, options in methods.items()}
    for key, value in values.items():
        match _inside(key, base, section.get("student")):
            case ["train", setting]:
                train[setting] = value
            case ["student", setting]:
                search[f"student.{setting}"] = [value]
            case ["methods", method, setting] if method in methods:
                search.pop(f"methods.{method}.{setting}", None)
                methods[method] = methods[method] | {setting: value}
            case [setting] if setting in KEYS:
                pass
            case _ if key == LABELLED:
                pass
            case _:
                del used[key]
    if sweep.seeds is not None:
        train["seeds"] = sweep.seeds
    if section.get("student") is None:
        raise UserError(f"{where}.over: no student; add `student: [...]`, or start from runs with `run: [...]`")
    if not isinstance(section["student"], str):
        raise UserError(f"{where}.over: student: {section['student']!r}; write keys of `students`")
    section |= {"methods": methods, "train": train, "search": search}
    section = {key: value for key, value in section.items() if value not in ({}, [], None)}
    source = f"{where}: {point_label(used)}"
    own: dict[str, Any] = {"runs": {NAME: section}}
    if LABELLED in values:
        own["dataset"] = params.section("dataset") | {"labelled": values[LABELLED]}
    return Point(used, section, Params(params.values | own, source))


def _inside(key: str, run: Any, student: Any) -> list[str]:
    """The parts of a key, from the point of view of a run and its student; empty if it is of another one."""
    match key.split("."):
        case ["runs", owner, *rest]:
            return _inside(".".join(rest), run, student) if owner == run else []
        case ["students", owner, setting]:
            return ["student", setting] if owner == student else []
        case parts:
            return parts


def _methods(given: Any, where: str) -> dict[str, dict[str, Any]]:
    """Methods and their options by name, in every way in which they may be written."""
    match given:
        case None | "none":
            return {}
        case str():
            return {given: {}}
        case list():
            return {name: options for each in given for name, options in _methods(each, where).items()}
        case {"name": str(name), **options}:
            return {name: {str(key): value for key, value in options.items()}}
        case dict() if all(isinstance(options, dict) for options in given.values()):
            return copy.deepcopy(given)
    raise UserError(f"{where}.over: methods: {given!r}; write a method's name, {{NAME: {{KEY: VALUE}}}}, or none")


def _check_key(key: Any, where: str) -> None:
    """Refuse what a sweep cannot go over.

    Raises:
        UserError: the line says what to do instead.
    """
    first, *rest = str(key).split(".")
    if key == LABELLED:
        return
    if first in EARLIER and rest:
        raise UserError(
            f"{where}: {key}: stages before the training read it; queue an experiment for each value: "
            f"dvc exp run --queue -S {key}=VALUE"
        )
    if first == "machine":
        raise UserError(f"{where}: {key}: it changes no result; set it in `machine`")
    if key in ("train.seeds", "train.race"):
        raise UserError(f"{where}: {key}: seeds are not compared; write `seeds: [...]` next to `over`")
    depth = {"train": 1, "student": 1, "methods": 2, "students": 2}.get(first, len(rest) or 1)
    if key not in KEYS and (first not in SECTIONS or len(rest) != depth or not all(rest)):
        known = [*KEYS, LABELLED, "train.KEY", "student.KEY", "methods.NAME.KEY", "students.NAME.KEY", "runs.NAME.KEY"]
        raise UserError(f"{where}: unknown key `{key}`{suggestion(str(key), KEYS)}; allowed are {listed(known)}")


def every_point(params: Params, name: str) -> Iterator[Point]:
    """All points of a sweep, one after the other; see `points`."""
    for grid in points(params, name):
        yield from grid


def sweep_names(params: Params) -> Sequence[str]:
    """The sweeps of params.yaml, if it has any."""
    return list(params.section("sweep")) if params.values.get("sweep") is not None else []
