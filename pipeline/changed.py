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
from pipeline.params import Params
from pipeline.project import Project
from pipeline.records import LogRecord
from pipeline.runs import read_run

PRECISION = "precision", "dtype"
"""The settings in `extract` that change features; the others are of batches and files."""

SHOWN = 3
"""Settings that a line names."""


def settings_of(stage: str, name: str, params: Params) -> dict[str, Any]:
    """The settings that the result of a stage depends on.

    Args:
        stage: `prepare`, `extract`, `probe` or `train`.
        name: of the teacher, or of the run to train.
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
    return params.section("probe")


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
        yield from _line("data/ was prepared", "aft prepare", prepared, settings_of("prepare", "", params))
    words = {"extract": "features of {} were extracted", "probe": "probes of {} were fitted"}
    earlier = () if before == "extract" else ("extract",) if before == "probe" else ("extract", "probe")
    for teacher, stage in product(teachers, earlier):
        with suppress(UserError):
            made, now = LogRecord.read(project.log(stage, teacher)).settings, settings_of(stage, teacher, params)
            yield from _line(words[stage].format(teacher), f"aft {stage} {teacher}", made, now)


def changed_run(params: Params, project: Project, name: str) -> str:
    """The same for a run that was trained with other settings; empty if it was not."""
    with suppress(UserError):
        made, now = LogRecord.read(project.log("train", name)).settings, settings_of("train", name, params)
        return next(_line(f"run {name} was trained", f"aft train {name}", made, now), "")
    return ""


def _line(what: str, command: str, made: Mapping[str, Any] | None, now: Mapping[str, Any]) -> Iterator[str]:
    """Nothing if there is no difference, or if it is not known what the result was made with."""
    if made is None:
        return
    before, after = dict(_flat(made)), dict(_flat(now))
    differences = [
        f"`{key}` {_shown(before.get(key))}, now {_shown(after.get(key))}"
        for key in dict.fromkeys([*after, *before])
        if before.get(key) != after.get(key)
    ]
    if differences:
        more = f" and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
        yield f"{what} with other settings ({'; '.join(differences[:SHOWN])}{more}); run `{command}`"


def _flat(settings: Mapping[str, Any], under: str = "") -> Iterator[tuple[str, Any]]:
    """Settings of settings, such as `source.path`, each by itself."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{under}{key}.")
        else:
            yield f"{under}{key}", value


def _shown(value: Any) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
