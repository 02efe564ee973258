"""What a run is: a student, the teachers it learns from, and the methods.

Needs no torch, so that `join` is quick.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, product
from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field, field_validator

from pipeline.data import Dataset
from pipeline.errors import UserError, count, listed, suggestion
from pipeline.functional.schedules import Schedule
from pipeline.params import Params, Settings
from pipeline.plugins import plugin, plugins
from pipeline.project import Project
from pipeline.runs.points import NAME
from pipeline.sources import ZERO_SHOT, Source
from pipeline.store import FeatureStore, SourceFeatures
from pipeline.views import Views, teacher_views

FOR_ALL = ("train.seeds", "train.race", "train.val")
"""Settings that all candidates of a run share."""

OWN_OUTPUTS = {"head": "logits", ZERO_SHOT: ZERO_SHOT}
"""The teacher's own outputs for the task: by kind, the head of its store that is followed."""

FOLLOWED = {"head": "head", ZERO_SHOT: ZERO_SHOT, "probe_and_zero_shot": ZERO_SHOT}
"""By what `logits` of a method says, the kind of these outputs that it follows."""


class Term(Settings):
    """One method of a run: its weight, and the method's own settings by name.

    Attributes:
        name: the file in pipeline/methods/.
        weight: multiplies the penalty; a list is searched on validation rows; `auto` makes the list, see
            `pipeline.training.auto_weight`.
        schedule: how the weight changes over training; see `pipeline.functional.schedules`.
        options: the method's own settings, checked by the method.
    """

    name: str
    weight: list[float] | Literal["auto"]
    schedule: Schedule = "constant"
    options: dict[str, Any] = Field(default_factory=dict)


class Run(Settings):
    """A section of `runs`.

    Attributes:
        student: a key of `students`.
        teachers: keys of `teachers`, in the order that methods see them; `minilm/layer:4` is a head of one.
        methods: by name, `{weight, schedule, ...the method's own settings}`, such as `{aft: {weight: auto}}`; or a
            list of the same, each with its `name`. Without methods it is plain training.
        teacher: where methods read what teachers say of the rows of a step: `store`, or `live`, a teacher that computes
            it in every step, for views that no store has; see `pipeline.training.live`.
        shuffle_teachers: give every training row the features of another one, as a control: a gain that remains does
            not come from the teacher's knowledge of the row.
        train: settings of the `train` section that this run changes.
        search: settings to search along with the weights: `student.<key>`, `train.<key>` or `methods.<name>.<key>`,
            each with a list of values. Give all runs of a student, plain training too, the same search of student and
            train settings, so that they are tuned equally.
    """

    student: str
    teachers: list[str] = Field(default_factory=list)
    methods: list[Term] = Field(default_factory=list)
    teacher: Literal["store", "live"] = "store"
    shuffle_teachers: bool = False
    train: dict[str, Any] = Field(default_factory=dict)
    search: dict[str, list[Any]] = Field(default_factory=dict)

    @field_validator("methods", mode="before")
    @classmethod
    def _terms(cls, methods: Any) -> Any:
        if isinstance(methods, Mapping) and all(isinstance(term, Mapping) for term in methods.values()):
            if named := [name for name, term in methods.items() if "name" in term]:
                raise ValueError(f"the key `{named[0]}` is the method's name; drop `name` inside of it")
            methods = [{"name": name} | dict(term) for name, term in methods.items()]
        if not isinstance(methods, list) or not all(isinstance(term, Mapping) for term in methods):
            raise ValueError("should be a mapping such as {aft: {weight: 10.0}}")
        return [_term(term) for term in methods]

    @property
    def sources(self) -> tuple[Source, ...]:
        """Its teachers, as sources of features."""
        return tuple(Source.parse(text, "teachers") for text in self.teachers)

    @property
    def own_outputs(self) -> dict[str, tuple[Source, ...]]:
        """By kind, per source its teacher's own outputs, such as `TEACHER/logits`, where a method follows it."""
        asked = [term.options.get("logits") for term in self.methods]
        asked += [value for term in self.methods for value in self.search.get(f"methods.{term.name}.logits", [])]
        kinds = dict.fromkeys(kind for logits, kind in FOLLOWED.items() if logits in asked)
        return {kind: tuple(replace(source, head=OWN_OUTPUTS[kind]) for source in self.sources) for kind in kinds}

    @property
    def reads(self) -> tuple[Source, ...]:
        """All sources that it reads, each once: its teachers, and their own outputs if a method follows them."""
        return tuple(dict.fromkeys((*self.sources, *chain(*self.own_outputs.values()))))

    def combinations(self) -> list["Candidate"]:
        """Every combination of the settings to try, without weights."""
        tried = product(*([(key, value) for value in values] for key, values in self.search.items()))
        return [Candidate((), settings) for settings in tried]

    def candidates(self, weights: Callable[["Candidate"], list[list[float]]] | None = None) -> list["Candidate"]:
        """Every combination of settings and weights to try, each once, smallest weights first.

        A method with weight 0 needs no settings: combinations that differ only in them are one candidate.

        Args:
            weights: per method, the weights to try with a combination of settings; by default those of the run, none
                of which may be `auto`.
        """
        tried: dict[Candidate, None] = {}
        for combination in self.combinations():
            lists = weights(combination) if weights else [term.weight for term in self.methods]
            for chosen in product(*(sorted(set(map(float, each))) for each in lists)):
                idle = {f"methods.{term.name}" for term, weight in zip(self.methods, chosen, strict=True) if not weight}
                settings = [(key, value) for key, value in combination.settings if key.rpartition(".")[0] not in idle]
                tried[Candidate(chosen, tuple(settings))] = None
        # The sort is stable, so candidates with equal weights stay in the order of the search.
        return sorted(tried, key=lambda candidate: candidate.weights)


@dataclass(frozen=True)
class Candidate:
    """What one training of a run tries.

    Attributes:
        weights: one per method.
        settings: `student.<key>`, `train.<key>` and `methods.<name>.<key>`, and their values.
    """

    weights: tuple[float, ...]
    settings: tuple[tuple[str, Any], ...] = ()

    def of(self, section: str) -> dict[str, Any]:
        """The settings of one section, `student`, `train` or `methods.<name>`."""
        split = ((key.rpartition("."), value) for key, value in self.settings)
        return {key: value for (owner, _, key), value in split if owner == section}

    @property
    def label(self) -> str:
        """Its name in tables; see `label`."""
        return label(self.weights, dict(self.settings))


def label(weights: Sequence[float], settings: Mapping[str, Any] = MappingProxyType({})) -> str:
    """A candidate's name in tables: `10`, `10+1`, or `none` without methods; then settings: `10, dropout 0.5`."""
    named = "+".join(f"{weight:g}" for weight in weights) or "none"
    return ", ".join(filter(None, [named, settings_label(settings)]))


def settings_label(settings: Mapping[str, Any]) -> str:
    """A candidate's settings in tables: `dropout 0.5, steps 400`; empty if there are none."""
    return ", ".join(f"{key.partition('.')[2]} {value}" for key, value in settings.items())


def read_run(params: Params, name: str) -> Run:
    """The run `name`, checked against the students, teachers and methods that exist.

    Raises:
        UserError: it names something that does not exist, or its parts do not fit together.
    """
    run = params.read(Run, f"runs.{name}")
    # The source of a point says of which sweep it is.
    where = params.source if name == NAME else f"{params.source}: runs.{name}"
    for text in run.teachers:
        _check_named(params, "teachers", Source.parse(text, f"{where}.teachers").teacher, where)
    _check_named(params, "students", run.student, where)
    for term in run.methods:
        if term.name not in plugins("methods"):
            plugin("methods", term.name, f"{where}.methods")
        if term.weight != "auto" and (not term.weight or any(weight < 0 for weight in term.weight)):
            raise UserError(
                f"{where}: the weight of `{term.name}` is {term.weight}; give one or more numbers >= 0, or auto"
            )
    for key, values in run.search.items():
        owner, _, setting = key.rpartition(".")
        owners = ["student", "train", *(f"methods.{term.name}" for term in run.methods)]
        nested = any(isinstance(value, list | dict) for value in values)
        if owner not in owners or not setting or key in FOR_ALL or not values or nested:
            raise UserError(
                f"{where}.search: {key}: {values}; write student.<key>, train.<key> (not seeds, race or val) or "
                "methods.<name of one of the run's methods>.<key>, and a list of numbers or words, such as "
                "student.dropout: [0.3, 0.6]"
            )
    if run.methods and not run.teachers:
        raise UserError(f"{where}: methods without teachers; add `teachers: [...]`, or drop `methods` to train plainly")
    if run.teacher == "live" and not run.methods:
        raise UserError(f"{where}: teacher: live, and no methods that listen to it; drop it, or add `methods`")
    names = [term.name for term in run.methods]
    if len(set(names)) != len(names) or len(set(run.sources)) != len(run.teachers):
        raise UserError(f"{where}: a teacher or a method is listed twice")
    return run


def _check_named(params: Params, section: str, name: str, where: str) -> None:
    """Refuse the name of a teacher or student that has no section."""
    if name not in (there := sorted(params.section(section))):
        raise UserError(
            f"{where}: no section `{section}.{name}`{suggestion(name, there)}; `{section}` has {listed(there)}"
        )


def run_views(params: Params, name: str, run: Run) -> Views | None:
    """The views that a run learns from: those that its teachers are written with, after `@`.

    Raises:
        UserError: teachers of the run differ in their views, or one does not have the views that the run names.
    """
    where = f"{params.source}: runs.{name}.teachers"
    families = {source.view for source in run.sources}
    if len(families) > 1:
        raise UserError(
            f"{where}: {listed(run.teachers)} see different views of a row; write the same @VIEW after all of them, "
            "or after none"
        )
    found: dict[Source, Views] = {}
    for source in run.sources if families != {""} else ():
        views = teacher_views(params, source.teacher)
        if views is None or views.family != source.view:
            kept = "no views" if views is None else f"views by `{views.family}`"
            raise UserError(
                f"{where}: `{source}`: teachers.{source.teacher} has {kept}; write `views: {{family: {source.view}, "
                f"count: 4}}` there, and run `aft extract {source.teacher}` and `aft probe {source.teacher}`"
            )
        found[source] = views
    if len(set(found.values())) > 1:
        raise UserError(f"{where}: the views of {listed(run.teachers)} differ; give them the same settings and count")
    return next(iter(found.values()), None)


def open_features(run: Run, project: Project, data: Dataset) -> dict[Source, SourceFeatures]:
    """The features of all sources that a run reads, by source.

    Raises:
        UserError: a store is missing or of another dataset, has no such head, or a teacher has other outputs than the
            task.
    """
    found = {}
    for source in chain(*run.own_outputs.values()):
        _check_own_outputs(project, source, data.task.outputs)
    for source in run.reads:
        found[source] = SourceFeatures.open(project, source)
        found[source].store.check(dataset=data.digest, ids=data.ids)
    return found


def _check_own_outputs(project: Project, source: Source, outputs: Sequence[str]) -> None:
    store = FeatureStore.open(project.store(source.teacher))
    if source.head not in store.heads and source.head not in store.incomplete:
        raise UserError(
            f"{store.path}: no head `{source.head}`, which `logits` of a method asks for; set "
            f"`heads: [pooled, {source.head}]` at teachers.{source.teacher} in params.yaml and run "
            f"`aft extract {source.teacher}`, or set `logits: probe`"
        )
    shape = store.heads[store.head_name(source.head)].shape
    SourceFeatures.open(project, source).check_classes(outputs)
    if shape != (len(outputs),):
        raise UserError(
            f"{store.path}: head `{source.head}` has {' x '.join(map(str, shape))} columns and the task "
            f"{count(len(outputs), 'output')}; take a teacher that was trained for this task, or set `logits: probe`"
        )


def _term(values: Mapping[str, Any]) -> dict[str, Any]:
    """Separate a method's own settings from the name, weight and schedule that every method has."""
    own = {key: value for key, value in values.items() if key in ("name", "schedule")}
    options = {key: value for key, value in values.items() if key not in ("name", "weight", "schedule")}
    weight = values.get("weight")
    if "name" not in values:
        raise ValueError("every method of a list needs its name, such as [{name: aft, weight: 10.0}]")
    if weight is None:
        raise ValueError("every method needs a weight, such as {aft: {weight: [0.0, 3.0, 10.0]}}")
    return own | {"weight": weight if isinstance(weight, list) or weight == "auto" else [weight], "options": options}
