"""Results that were made with other settings than params.yaml has now.

DVC runs the stages whose settings changed. A stage that is called by itself takes what earlier ones left, which may be
of the settings of yesterday: that is allowed, and said.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import product
from typing import Any

from pipeline.data import Dataset, PrepareSettings
from pipeline.errors import UserError
from pipeline.params import SOURCE, Params, Settings, defaults
from pipeline.plugins import plugin
from pipeline.project import Project
from pipeline.records import LogRecord, SweepRecord
from pipeline.runs import Sweep, read_run, read_sweep
from pipeline.views import ViewSettings, teacher_views

PRECISION = "precision", "dtype"
"""The settings in `extract` that change features; the others are of batches and files."""

SHOWN = 3
"""Settings that a line names."""


def settings_of(stage: str, name: str, params: Params) -> dict[str, Any]:
    """The settings that the result of a stage depends on.

    Args:
        stage: `prepare`, `extract`, `probe`, `train` or `sweep`.
        name: of the teacher, or of the run or sweep to train.
        params: all settings.
    """
    if stage == "prepare":
        return params.read(PrepareSettings, "dataset").model_dump(mode="json")
    if stage == "extract":  # as written, because no later stage imports what reads it
        shared = params.section("extract")
        return params.section(f"teachers.{name}") | {key: shared[key] for key in PRECISION if key in shared}
    if stage == "train":
        run = read_run(params, name)
        shared = {key: value for key, value in params.section("train").items() if key not in run.train}
        student = params.section(f"students.{run.student}")
        return {"train": shared, f"students.{run.student}": student, f"runs.{name}": run.model_dump(mode="json")}
    if stage == "sweep":
        sweep = read_sweep(params, name)
        shared = {key: value for key, value in params.section("train").items() if key != "seeds" or not sweep.seeds}
        of_points = {section: params.section(section) for section in _sections(params, sweep)}
        return {"train": shared, **of_points, f"sweep.{name}": sweep.model_dump(mode="json")}
    return params.section("probe")


def _sections(params: Params, sweep: Sweep) -> list[str]:
    """The sections of runs and students that the points of a sweep start from."""
    runs = {str(run) for grid in sweep.over for run in grid.get("run", ()) if run is not None}
    students = {str(student) for grid in sweep.over for student in grid.get("student", ())}
    students |= {str(params.section(f"runs.{run}").get("student")) for run in runs} - {"None"}
    return [*(f"runs.{run}" for run in sorted(runs)), *(f"students.{student}" for student in sorted(students))]


def defaults_of_teacher(params: Params, name: str, family: type[Settings], extract: type[Settings]) -> dict[str, Any]:
    """The values that keys of `settings_of("extract", ...)` have where they are not written.

    Args:
        params: all settings.
        name: of the teacher.
        family: what reads its section.
        extract: what reads the section `extract`.
    """
    found = defaults(family) | {key: defaults(extract)[key] for key in PRECISION}
    if views := teacher_views(params, name):
        found["views"] = defaults(ViewSettings) | defaults(plugin("views", views.family).Settings)
    return found


def defaults_of_run(params: Params, name: str, train: type[Settings]) -> dict[str, Any]:
    """The values that keys of `settings_of("train", ...)` have where they are not written.

    Args:
        params: all settings.
        name: of the run.
        train: what reads the section `train`.
    """
    run = read_run(params, name)
    methods = {term.name: defaults(plugin("methods", term.name).Settings) for term in run.methods}
    student = defaults(params.plugin("students", f"students.{run.student}")[0].Settings)
    shared = {key: value for key, value in defaults(train).items() if key not in run.train}
    return {"train": shared, f"students.{run.student}": student, f"runs.{name}": {"methods": methods}}


def defaults_of_sweep(params: Params, name: str, train: type[Settings]) -> dict[str, Any]:
    """The values that keys of `settings_of("sweep", ...)` have where they are not written; see `defaults_of_run`."""
    students = [section for section in _sections(params, read_sweep(params, name)) if section.startswith("students.")]
    of_students = {section: defaults(params.plugin("students", section)[0].Settings) for section in students}
    return {"train": defaults(train), **of_students}


def changed(params: Params, project: Project, teachers: Iterable[str], before: str = "") -> Iterator[str]:
    """A line for each result of an earlier stage that was made with other settings than those of `params`.

    Args:
        params: all settings.
        project: with results of earlier stages.
        teachers: whose features and probes are used.
        before: the stage that asks, `extract` or `probe`; any later one if empty.
    """
    with suppress(UserError):  # what is missing or damaged is said by what reads it
        prepared = Dataset.open(project.data).manifest.settings
        unwritten = {"source": defaults(params.plugin(*SOURCE)[0].Settings)}
        yield from _line("data/ was prepared", "aft prepare", prepared, settings_of("prepare", "", params), unwritten)
    words = {"extract": "features of {} were extracted", "probe": "probes of {} were fitted"}
    earlier = () if before == "extract" else ("extract",) if before == "probe" else ("extract", "probe")
    for teacher, stage in product(teachers, earlier):
        with suppress(UserError):
            made, now = LogRecord.read(project.log(stage, teacher)), settings_of(stage, teacher, params)
            yield from _line(words[stage].format(teacher), f"aft {stage} {teacher}", made.settings, now, made.defaults)


def changed_run(params: Params, project: Project, name: str) -> str:
    """The same for a run that was trained with other settings; empty if it was not."""
    with suppress(UserError):
        made, now = LogRecord.read(project.log("train", name)), settings_of("train", name, params)
        return next(_line(f"run {name} was trained", f"aft train {name}", made.settings, now, made.defaults), "")
    return ""


def changed_sweep(params: Params, project: Project, name: str) -> str:
    """The same for a sweep, which may also be of other data than there are now."""
    what, command = f"sweep {name} was trained", f"aft sweep {name}"
    with suppress(UserError):
        made, now = SweepRecord.read(project.sweep(name), name), settings_of("sweep", name, params)
        if line := next(_line(what, command, made.settings, now, made.defaults), ""):
            return line
        if made.data != Dataset.open(project.data).manifest.files_digest:
            return f"{what} on other data; run `{command}`"
    return ""


def _line(
    what: str, command: str, made: Mapping[str, Any] | None, now: Mapping[str, Any], unwritten: Mapping[str, Any]
) -> Iterator[str]:
    """Nothing if there is no difference, or if it is not known what the result was made with.

    Args:
        what: the result.
        command: makes it again.
        made, now: its settings, and those of params.yaml.
        unwritten: the values of keys that are in neither or one of them.
    """
    if made is None:
        return
    before, after = (dict(_flat(unwritten)) | dict(_flat(settings)) for settings in (made, now))
    differences = [
        f"`{key}` {_shown(before.get(key))}, now {_shown(after.get(key))}"
        for key in dict.fromkeys([*after, *before])
        if before.get(key) != after.get(key)
    ]
    if differences:
        more = f" and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
        yield f"{what} with other settings ({'; '.join(differences[:SHOWN])}{more}); run `{command}`"


def _flat(settings: Mapping[str, Any], under: str = "") -> Iterator[tuple[str, Any]]:
    """Settings of settings, such as `source.path` and `methods.aft.weight`, each by itself."""
    for key, value in settings.items():
        if key == "methods" and isinstance(value, list):
            value = {term["name"]: {**term, **term["options"], "options": {}} for term in value}
        if isinstance(value, Mapping):
            yield from _flat(value, f"{under}{key}.")
        else:
            yield f"{under}{key}", value


def _shown(value: Any) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
