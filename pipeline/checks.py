"""Checks before anything expensive: whether params.yaml can be run, and what there is to do.

Nothing here changes a result.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import inf
from types import ModuleType
from typing import Any

import numpy as np
import yaml

from pipeline import tasks
from pipeline.augmentations import check_kind, read_augmentations
from pipeline.changed import changed, changed_run, changed_sweep
from pipeline.data import Dataset, PrepareSettings, Sources, read_sources
from pipeline.datasets import SIDES, Passed, parts_of, rows_called
from pipeline.errors import UserError, count, listed
from pipeline.extraction import ExtractSettings, place_of_features
from pipeline.machine import Machine
from pipeline.params import BESIDES, Params, parse, read_plugin
from pipeline.plugins import plugin
from pipeline.probing import AssessSettings, ProbeSettings
from pipeline.progress import duration
from pipeline.project import Project
from pipeline.records import LogRecord
from pipeline.runs import NAME, Run, every_point, read_run, run_views, sweep_names
from pipeline.sources import POOLED, check_heads, view_head
from pipeline.store import FeatureStore
from pipeline.students import kind_of
from pipeline.training import TrainSettings, check_student, count_trials, train_settings
from pipeline.views import Views, teacher_views


def check_params(params: Params) -> None:
    """Read every section of params.yaml with its settings class, and every run with all settings that it searches.

    Raises:
        UserError: the first problem, as one line.
    """
    params.check_names()
    params.check_sections()
    place_of_features(params)
    dataset = params.read(PrepareSettings, "dataset")
    sources = read_sources(dataset.source, dataset.unlabelled, f"{params.source}: dataset")
    kind = sources.kind
    params.read(ExtractSettings, "extract")
    params.read(ProbeSettings, "probe")
    params.read(AssessSettings, "assess")
    machine = params.read(Machine, "machine")
    plugin("engines", machine.engine, f"{params.source}: machine.engine")
    if machine.track is not None:
        plugin("trackers", machine.track, f"{params.source}: machine.track")
    params.read(TrainSettings, "train")
    teachers = {name: _teacher(params, name)[1] for name in params.section("teachers")}
    for name, settings in teachers.items():
        if views := teacher_views(params, name):
            views.check(kind, f"{params.source}: teachers.{name}.views")
        check_heads(getattr(settings, "heads", (POOLED,)), f"{params.source}: teachers.{name}.heads")
    for name in params.section("students"):
        student, own = params.plugin("students", f"students.{name}")
        reads = kind_of(student, own)
        if reads not in (kind if len(parts_of(kind)) == 1 else "pair", "features"):
            raise UserError(
                f"{params.source}: students.{name}: this family reads {reads}, and the dataset holds "
                f"{kind}; choose another family"
            )
    # What each teacher is, whatever its name.
    equal = {
        name: json.dumps([params.section(f"teachers.{name}"), own.model_dump(mode="json")], sort_keys=True, default=str)
        for name, own in teachers.items()
    }
    seen: dict[str, str] = {}
    points: dict[str, tuple[Params, list[str]]] = {}
    for settings, name in _every_run(params):
        run = read_run(settings, name)
        _check_heads(settings, name, run, teachers)
        tried = _check_candidates(settings, name, run, equal)
        # A point of a sweep may be one of `runs`, and is then trained once.
        if name != NAME and (same := seen.setdefault(tried, name)) != name:
            raise UserError(
                f"{params.source}: runs.{same} and runs.{name} are the same run, under two names; drop one, or change "
                "what should differ"
            )
        if name == NAME:
            # Only sources of the same names share trainings: what is learned of each is recorded by its name.
            other, teachers_there = points.setdefault(tried, (settings, run.teachers))
            if teachers_there != run.teachers:
                raise UserError(
                    f"{settings.source}: the same trainings as {other.source}, with a teacher that has two names; drop "
                    "one of the points"
                )
    if task := dataset.task or sources.task:
        _, outputs = tasks.encode(task, [], dataset.classes)
        tasks.build(task, outputs, dataset.unit)
        check_task(params, task)


def _every_run(params: Params) -> Iterator[tuple[Params, str]]:
    """Every run, with its settings and its name in them: those of `runs`, and the points of all sweeps."""
    for name in params.section("runs"):
        yield params, name
    for sweep in sweep_names(params):
        for point in every_point(params, sweep):
            yield point.params, NAME


def check_task(params: Params, task: str) -> None:
    """Make sure that the runs make sense for a task, which may be known only when the labels are.

    Raises:
        UserError: a method or an option of training is for other tasks, or a score does not exist.
    """
    for settings, name in _every_run(params):
        run = read_run(settings, name)
        where = f"{settings.source}: runs.{name}.methods"
        for term in run.methods:
            meant_for = getattr(plugin("methods", term.name), "TASKS", (task,))
            if task not in meant_for:
                raise UserError(
                    f"{where}: `{term.name}` is for {listed(meant_for)}, and the task is {task}; drop "
                    "it, or take another method, such as logit_kd"
                )
        for candidate in run.combinations():
            where = f"{settings.source}: train (for {name})"
            of_run = train_settings(where, settings.section("train"), run.train, candidate.of("train"))
            of_run.check_task(where, tasks.build(task, ()))


def _teacher(params: Params, name: str) -> tuple[ModuleType, Any]:
    """The family of a teacher and its settings, without those of what it sees of a row."""
    reads = params.section(f"teachers.{name}").get("reads")
    if reads not in (None, *SIDES):
        raise UserError(f"{params.source}: teachers.{name}.reads: {reads!r}; write first or second, of a pair")
    return params.plugin("teachers", f"teachers.{name}", also=BESIDES)


def _check_heads(params: Params, name: str, run: Run, teachers: dict[str, Any]) -> None:
    """Make sure that extraction writes the heads and views that a run reads."""
    run_views(params, name, run)
    for source in run.reads:
        kept = getattr(teachers[source.teacher], "heads", None)
        if kept is not None and source.head not in kept:
            raise UserError(
                f"{params.source}: runs.{name} reads head `{source.head}` of `{source.teacher}`, and teachers."
                f"{source.teacher}.heads has {listed(kept)}; add it there, or "
                f"write another head, such as {source.teacher}/{kept[0]}"
            )


def _check_candidates(params: Params, name: str, run: Run, equal: Mapping[str, str]) -> str:
    """Read the settings of every combination that a run tries.

    Args:
        params, name, run: the run.
        equal: by name of a teacher, what is the same for another one with equal settings.

    Returns:
        All that decides what is trained; equal for runs that differ in their names, or in how they are written.
    """
    section = params.section(f"students.{run.student}")
    check_student(run, section["family"], f"{params.source}: runs.{name}")
    tried: set[str] = set()
    for candidate in run.combinations():
        place = f" (with runs.{name}.search)" if candidate.settings else ""
        family, student = read_plugin(
            "students", section | candidate.of("student"), f"{params.source}: students.{run.student}{place}"
        )
        reads = kind_of(family, student)
        where = f"{params.source}: train (for {name})"
        settings = train_settings(where, params.section("train"), run.train, candidate.of("train"))
        settings.check(where, reads, student.model_dump(), bool(run.methods))
        settings.check_views(where, run_views(params, name, run))
        where = f"{params.source}: train.augment (for {name})"
        check_kind(read_augmentations(settings.augment, where), reads, where)
        train = settings.model_dump(mode="json") | {"seeds": sorted(settings.seeds)}
        read: list[Any] = [section["family"], student.model_dump(mode="json"), train]
        for term in sorted(run.methods, key=lambda term: term.name):
            where = f"{params.source}: runs.{name}.methods.{term.name}"
            options = term.options | candidate.of(f"methods.{term.name}")
            own = parse(plugin("methods", term.name).Settings, options, where)
            weights = term.weight if term.weight == "auto" else sorted(set(term.weight))
            read.append([term.name, weights, term.schedule, own.model_dump(mode="json")])
        tried.add(json.dumps(read, sort_keys=True))
    sources = [[equal[source.teacher], source.head, source.view] for source in run.sources]
    return json.dumps([sources, run.teacher, run.shuffle_teachers, sorted(tried)])


@dataclass(frozen=True)
class Check:
    """What `check` found.

    Attributes:
        found: what exists and what there is to do, in lines.
        problems: what must be fixed first, in lines.
    """

    found: list[str]
    problems: list[str]

    def __str__(self) -> str:
        return "\n".join(self.found)


def check(params: Params, project: Project = Project()) -> Check:
    """Check params.yaml, and list what exists and what there is to do, in a second.

    No teacher is loaded and no data read: that is what `aft doctor` does.

    Raises:
        UserError: params.yaml cannot be run as it is.
    """
    check_params(params)
    found: list[str] = [f"{params.source}: {count(len(params.section('runs')), 'run')}, all settings are valid"]
    found += [
        f"{section}: {text} stands for {_flow(params.section(section))}" for section, text in params.short.items()
    ]
    problems: list[str] = []

    def attempt(lines: Callable[[], Iterator[str]]) -> None:
        try:
            found.extend(lines())
        except UserError as error:
            if str(error) not in problems:  # features that cannot be read are in the way of every run that reads them
                problems.append(str(error))

    attempt(lambda: _data(params, project))
    attempt(lambda: changed(params, project, params.section("teachers")))
    attempt(lambda: filter(None, (changed_run(params, project, name) for name in params.section("runs"))))
    attempt(lambda: filter(None, (changed_sweep(params, project, name) for name in sweep_names(params))))
    for name in params.section("teachers"):
        attempt(lambda name=name: _features(params, project, name))  # type: ignore[misc]
    for name in params.section("runs"):
        attempt(lambda name=name: _trials(params, project, name))  # type: ignore[misc]
    return Check(found, problems)


def _flow(section: dict[str, Any]) -> str:
    """A section in one line, as it could be written in params.yaml."""
    return yaml.safe_dump(section, default_flow_style=True, sort_keys=False, width=inf).strip()


def _sources(params: Params) -> Sources:
    dataset = params.section("dataset")
    return read_sources(dataset["source"], dataset.get("unlabelled", ()), f"{params.source}: dataset")


def _prepared(project: Project) -> Dataset | None:
    return Dataset.open(project.data) if project.data.exists() else None


def _data(params: Params, project: Project) -> Iterator[str]:
    sources = _sources(params)
    for number, read in enumerate(sources.each):
        if next(read(Passed()), None) is None:
            raise UserError(f"{params.source}: dataset.{'unlabelled' if number else 'source'}: it has no rows")
    data = _prepared(project)
    if data is None:
        yield "data: the source can be read; `aft prepare` has not run yet"
        return
    yield f"data: {len(data):,} {rows_called(data.kind)} prepared"
    labels = data.labels[data.split(0).labelled]
    if len(strata := data.task.strata(labels)):
        found = enumerate(np.bincount(strata).tolist())
        rows = ", ".join(f"{data.task.stratum(stratum)} {number:,}" for stratum, number in found)
        yield f"data: labelled training rows of split 0: {rows}"


def _features(params: Params, project: Project, name: str) -> Iterator[str]:
    """Whether a teacher's features exist."""
    data, path, views = _prepared(project), project.store(name), teacher_views(params, name)
    missing = 1 if data is None else missing_views(project, name, data, views)
    if not missing:
        store = FeatureStore.open(path)
        yield f"teacher {name}: features of all {count(len(store), 'row')} are there, {size(store.nbytes)}"
        return
    of_each = f", {missing} times (clean, or one of {views})" if views and data is not None else ""
    rows = "all rows" if data is None else f"all {count(len(data), 'row')}{of_each}"
    yield (
        f"teacher {name}: features of {rows} are to be extracted; `aft doctor` loads it, and "
        f"`aft extract {name} --dry-run` measures what that costs"
    )


def missing_views(project: Project, name: str, data: Dataset, views: Views | None) -> int:
    """How many times the rows of a dataset are to be computed by a teacher: clean, and for each of its views."""
    all_of_them = 1 + (views.count if views else 0)
    if not project.store(name).exists():
        return all_of_them
    try:
        store = FeatureStore.open(project.store(name))
        store.check(dataset=data.digest, ids=data.ids)
    except UserError:
        return all_of_them
    return _lacking(store, data, views)


def _lacking(store: FeatureStore, data: Dataset, views: Views | None) -> int:
    """How many views a store that has the clean rows lacks."""
    clean = [head for head, kept in store.heads.items() if kept.view is None]
    records = [views.record(number, data) for number in range(1, views.count + 1)] if views else []

    def there(head: str, record: dict[str, Any]) -> bool:
        name = view_head(head, record["family"], record["number"])
        return name in store.heads and store.heads[name].view == record

    return sum(not all(there(head, record) for head in clean) for record in records)


def _trials(params: Params, project: Project, name: str) -> Iterator[str]:
    """How many trials of a run are found, how many there are to train, and how long that took before."""
    run = read_run(params, name)
    probed = all(project.store(source.teacher).exists() and project.probe(source).exists() for source in run.sources)
    if not project.data.exists() or not probed:
        seeds = len(train_settings(f"{params.source}: train", params.section("train"), run.train).seeds)
        if any(term.weight == "auto" for term in run.methods):
            yield f"run {name}: the weights to try are measured before training, for {count(seeds, 'seed')}"
        else:
            yield f"run {name}: {count(len(run.candidates()) * seeds, 'trial')}"
        return
    there, missing, steps = count_trials(name, params, project)
    time = ""
    if missing and (log := _log(project, name)) and log.trainings:
        time = f", about {duration(missing * log.seconds / log.trainings)} at the rate of the last time"
    yield f"run {name}: {count(there + missing, 'trial')}, {there:,} found, {missing:,} to train{steps}{time}"


def _log(project: Project, run: str) -> LogRecord | None:
    try:
        return LogRecord.read(project.log("train", run))
    except UserError:
        return None


def size(number: int | float) -> str:
    """Bytes as text: `1.2 MB`, `34.0 GB`."""
    return f"{number / 1e9:,.1f} GB" if number >= 1e9 else f"{number / 1e6:,.1f} MB"
