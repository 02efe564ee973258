"""What a run is: a student, the teachers it learns from, and the methods by which it does.

Read without torch, because `join` needs it often and quickly.
"""

import re
from collections.abc import Mapping
from itertools import product
from typing import Any

from pydantic import Field, field_validator

from pipeline.errors import UserError
from pipeline.params import Params, Settings, part, parts
from pipeline.schedules import Schedule


class Term(Settings):
    """One method of a run, its weight, and the method's own settings under their own names.

    Attributes:
        name: the file in pipeline/methods/.
        weight: multiplies the penalty; a list is searched on validation rows.
        schedule: how the weight changes over training; see `pipeline.schedules`.
        options: the method's own settings, read by the method.
    """

    name: str
    weight: list[float]
    schedule: Schedule = "constant"
    options: dict[str, Any] = Field(default_factory=dict)


class Run(Settings):
    """A section of `runs`.

    Attributes:
        student: a key of `students`.
        teachers: keys of `teachers`, in the order that methods see them.
        methods: each `{name, weight, schedule, ...the method's own settings}`; none of them is plain training.
        shuffle_teachers: give every training row the features of another one, as a control: what is left of a
            method's gain then has nothing to do with what the teacher knows.
        train: settings of the `train` section that this run changes.
    """

    student: str
    teachers: list[str] = Field(default_factory=list)
    methods: list[Term] = Field(default_factory=list)
    shuffle_teachers: bool = False
    train: dict[str, Any] = Field(default_factory=dict)

    @field_validator("methods", mode="before")
    @classmethod
    def _terms(cls, methods: Any) -> Any:
        if not isinstance(methods, list) or not all(isinstance(term, Mapping) for term in methods):
            raise ValueError("should be a list such as [{name: aft, weight: 10.0}]")
        return [_term(term) for term in methods]

    def candidates(self) -> list[tuple[float, ...]]:
        """Every combination of weights to try, one weight per method, smallest first."""
        return sorted(product(*(sorted(set(term.weight)) for term in self.methods)))


def read(params: Params, name: str) -> Run:
    """The run `name`, checked against the students, teachers and methods that exist.

    Raises:
        UserError: it names something that does not exist, or its parts do not fit together.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise UserError(f"{params.source}: a run cannot be called {name!r}; use letters, digits, _ and -")
    run = params.read(Run, f"runs.{name}")
    where = f"{params.source}: runs.{name}"
    for teacher in run.teachers:
        params.section(f"teachers.{teacher}")
    params.section(f"students.{run.student}")
    for term in run.methods:
        if term.name not in parts("methods"):
            part("methods", term.name, f"{where}.methods")
        if any(weight < 0 for weight in term.weight) or not term.weight:
            raise UserError(f"{where}: the weight of `{term.name}` is {term.weight}; give one or more numbers >= 0")
    if run.methods and not run.teachers:
        raise UserError(f"{where}: methods without teachers; add `teachers: [...]`, or drop `methods` to train plainly")
    names = [term.name for term in run.methods]
    if len(set(names)) != len(names) or len(set(run.teachers)) != len(run.teachers):
        raise UserError(f"{where}: a teacher or a method is listed twice")
    return run


def _term(values: Mapping[str, Any]) -> dict[str, Any]:
    """Set a method's own settings apart from its name, weight and schedule, which every method has."""
    own = {key: value for key, value in values.items() if key in ("name", "schedule")}
    options = {key: value for key, value in values.items() if key not in ("name", "weight", "schedule")}
    weight = values.get("weight")
    if weight is None:
        raise ValueError("every method needs a `name` and a `weight`, such as {name: aft, weight: [0.0, 3.0, 10.0]}")
    return own | {"weight": weight if isinstance(weight, list) else [weight], "options": options}
