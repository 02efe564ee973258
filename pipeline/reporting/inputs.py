"""What the report is made from: the records and logs that are there, and a line for each that is missing."""

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np

from pipeline.errors import UserError
from pipeline.files import cell, file_exists, open_regular
from pipeline.functional.statistics import standard_error
from pipeline.params import Params
from pipeline.project import Project
from pipeline.records import (
    AssessmentRecord,
    CostRecord,
    EvaluationRecord,
    GatesRecord,
    LogRecord,
    ManifestRecord,
    Metric,
    ProbeRecord,
    Record,
    RunRecord,
    SweepRecord,
)
from pipeline.reporting.comparison import Comparison, CurvePoint, Outcome, compare
from pipeline.reporting.text import counted
from pipeline.runs import label
from pipeline.sources import ZERO_SHOT, Source
from pipeline.verified import VerifiedFiles

R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Stored:
    """A feature store, as far as the report knows it: its teacher, rows, bytes, and numbers per row.

    Attributes:
        digests: of the features of each source that it is, by name; records must have been made with these.
    """

    name: str
    rows: int
    bytes: int
    width: int
    digests: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ReportInputs:
    """Everything that is on the page.

    Attributes:
        params: the settings.
        project: where the files are.
        comparisons: the finished runs, by student.
        missing: one line each: what is not trained, not evaluated, damaged or outdated, with the command to run.
        probes: of the sources that the runs use.
        manifest: of the prepared dataset; None where it is missing.
        assessment: of the teachers; None where `aft assess` was not run.
        stores: the feature stores that are there.
        logs: by stage and name; those that are there.
        student_files: by run, the files of one student and their bytes, as far as they exist.
        sweeps: those of params.yaml that are finished.
        costs: of serving, by run, where `aft cost` measured it; all on one device.
    """

    params: Params
    project: Project
    comparisons: tuple[Comparison, ...]
    missing: tuple[str, ...]
    probes: tuple[ProbeRecord, ...]
    manifest: ManifestRecord | None
    assessment: AssessmentRecord | None
    stores: tuple[Stored, ...]
    logs: dict[tuple[str, str], LogRecord]
    student_files: dict[str, dict[str, int]]
    sweeps: tuple[SweepRecord, ...] = ()
    costs: Mapping[str, CostRecord] = field(default_factory=dict)

    @property
    def outcomes(self) -> list[Outcome]:
        """The finished runs, in the order of the page."""
        return [outcome for comparison in self.comparisons for outcome in comparison.outcomes]

    @property
    def sources(self) -> list[str]:
        """The sources of features that the runs use."""
        return list(dict.fromkeys(source for outcome in self.outcomes for source in outcome.run.sources))

    @property
    def teachers(self) -> list[str]:
        """The teachers of these sources."""
        return list(dict.fromkeys(Source.parse(source).teacher for source in self.sources))

    @property
    def metric(self) -> Metric:
        """The metric that runs are compared by."""
        return self.comparisons[0].metric


class Records:
    """Reads records, and keeps a line for each that cannot be read."""

    def __init__(self, project: Project):
        self.project = project
        self.missing: list[str] = []

    def read(self, record: type[R], path: Path, name: str = "", optional: bool = False) -> R | None:
        """The record at `path`; None, and a line, where it is missing or damaged. No line where it is optional."""
        try:
            return None if optional and not file_exists(path) else record.read(path, name)
        except UserError as error:
            self.missing.append(str(error))
            return None

    def logs(self, stage: str, names: Iterable[str]) -> dict[tuple[str, str], LogRecord]:
        """The logs of one stage, by stage and name."""
        found = {(stage, name): self.read(LogRecord, self.project.log(stage, name), optional=True) for name in names}
        return {key: log for key, log in found.items() if log is not None}


def read_inputs(params: Params, project: Project, stores: Sequence[Stored]) -> ReportInputs:
    """Read what the runs of params.yaml left, and note what is missing.

    Raises:
        UserError: there is no finished run.
    """
    names = list(params.section("runs"))
    reader = Records(project)
    outcomes = [outcome for name in names if (outcome := read_outcome(name, params, reader)) is not None]
    outcomes = _of_one_metric(outcomes, reader)
    if not outcomes:
        first = f" ({reader.missing[0]})" if reader.missing else ""
        raise UserError(f"{project.root / 'runs'}: no run is finished, so there is nothing to report{first}")
    comparisons, unpaired = compare(outcomes)
    reader.missing += unpaired
    sources = list(dict.fromkeys(Source.parse(source).clean for o in outcomes for source in o.run.sources))
    manifest = reader.read(ManifestRecord, project.data / "manifest.json")
    now = Now(manifest, {source: digest for store in stores for source, digest in store.digests.items()})
    zero_shot = [Source(teacher, ZERO_SHOT) for teacher in dict.fromkeys(source.teacher for source in sources)]
    probed = [*sources, *(source for source in zero_shot if file_exists(project.probe(source) / "probe.json"))]
    probes = [probe for source in dict.fromkeys(probed) if (probe := _probe(source, now, reader)) is not None]
    now = replace(now, probes={probe.source: probe.digest for probe in probes})
    reader.missing += _outdated(outcomes, now)
    assessment = reader.read(AssessmentRecord, project.assessment, optional=True)
    if assessment is not None and (others := now.others(assessment.data, assessment.stores)):
        reader.missing.append(f"{project.assessment}: of other {others} than there are now; run `aft assess` again")
        assessment = None
    teachers = list(dict.fromkeys(source.teacher for source in sources))
    if assessment is not None:
        named = (Source.parse(source.name).teacher for source in assessment.sources)
        teachers = list(dict.fromkeys([*teachers, *named]))
    logs = reader.logs("extract", teachers) | reader.logs("probe", teachers) | reader.logs("assess", [""])
    logs |= {("train", outcome.name): outcome.log for outcome in outcomes if outcome.log is not None}
    logs |= reader.logs("evaluate", [outcome.name for outcome in outcomes])
    sweeps = _sweeps(params, now, reader)
    costs = _costs(outcomes, reader)
    files = {o.name: _files(project.run(o.name) / "students" / str(o.run.seeds[0])) for o in outcomes}
    return ReportInputs(
        params, project, tuple(comparisons), tuple(reader.missing), tuple(probes), manifest, assessment,
        tuple(stores), logs, {name: found for name, found in files.items() if found}, sweeps, costs,
    )  # fmt: skip


def read_outcome(name: str, params: Params, reader: Records) -> Outcome | None:
    """The records of one run; None, and a line, where it is not finished."""
    project = reader.project
    folder, path = project.run(name), project.evaluation(name)
    try:
        if not file_exists(folder / "run.json"):
            raise UserError(f"{name}: not trained; run `aft train {name}`")
        run = RunRecord.read(folder / "run.json", name)
        if not file_exists(path):
            raise UserError(f"{name}: trained but not evaluated; run `aft evaluate {name}`")
        evaluation = EvaluationRecord.read(path, name)
        _check(run, evaluation, path)
        shown = {file: checksum for file, checksum in run.files.items() if not file.startswith("students/")}
        VerifiedFiles(folder, shown, f"run `aft train {name}` again").finish()
        VerifiedFiles(path.parent, evaluation.files, f"run `aft evaluate {name}` again").finish()
        curve = read_curve(folder / "curves.csv", run, f"val_{run.metric.name}")
        gates = _gates(folder / "gates.json", run)
    except UserError as error:
        reader.missing.append(str(error))
        return None
    if (wanted := _seeds(name, params)) and wanted != list(run.seeds):
        seeds, others = (", ".join(map(str, each)) for each in (run.seeds, wanted))
        reader.missing.append(f"{name}: trained on seeds {seeds} instead of {others}; run `aft train {name}`")
    log = reader.logs("train", [name]).get(("train", name))
    return Outcome(run, evaluation, log, curve, gates)


def _check(run: RunRecord, evaluation: EvaluationRecord, path: Path) -> None:
    """Make sure that an evaluation is of the students that the run has now, with known scores."""
    results = [evaluation.results, evaluation.probe] if evaluation.probe is not None else [evaluation.results]
    of_run = all([result.seed for result in each] == list(run.seeds) for each in results)
    named = (evaluation.student, evaluation.sources) == (run.student.name, run.sources)
    if not of_run or not named or evaluation.students != run.students_digest:
        raise UserError(f"{path}: of other students than {run.run} has now; run `aft evaluate {run.run}` again")
    metric = evaluation.primary
    lost = [str(result.seed) for each in results for result in each if result.scores.get(metric.name) is None]
    if lost:
        raise UserError(
            f"{path}: no finite {metric.label} on seed {lost[0]}, so its training diverged; lower the learning rate "
            f"and run `aft train {run.run}`"
        )


@dataclass(frozen=True)
class Now:
    """Digests of the current data, features and probes, to compare with those in records.

    Attributes:
        manifest: of the prepared dataset; None where it is not known.
        features, probes: by source; those that are known.
    """

    manifest: ManifestRecord | None
    features: Mapping[str, str]
    probes: Mapping[str, str] = field(default_factory=dict)

    def others(self, data: str, features: Mapping[str, str], probes: Mapping[str, str] = MappingProxyType({})) -> str:
        """What a record was made from that has changed since, such as `data, probes of `bert``; empty if nothing."""
        found = ["data"] if self.manifest is not None and self.manifest.files_digest != data else []
        for what, made_of, there in (("features", features, self.features), ("probes", probes, self.probes)):
            for source, digest in made_of.items():
                name = Source.parse(source).clean.name
                if there.get(name, digest) != digest:
                    found.append(f"{what} of `{name}`")
        return ", ".join(found)


def _probe(source: Source, now: Now, reader: Records) -> ProbeRecord | None:
    """The record of a source's probes; None, and a line, where it is missing, or of other features or rows."""
    path, again = reader.project.probe(source) / "probe.json", f"run `aft probe {source.teacher}` again"
    probe = reader.read(ProbeRecord, path, source.teacher)
    if probe is None:
        return None
    if probe.source != source.name:
        reader.missing.append(f"{path}: belongs to `{probe.source}`; {again}")
        return None
    if others := now.others(probe.data, {probe.source: probe.features}):
        reader.missing.append(f"{path}: of other {others} than there are now; {again}")
        return None
    return probe


def _sweeps(params: Params, now: Now, reader: Records) -> tuple[SweepRecord, ...]:
    """The finished sweeps of params.yaml, and a line for each that is not finished or of other data."""
    found = []
    for name in params.values.get("sweep") or {}:
        path = reader.project.sweep(name)
        if not file_exists(path):
            reader.missing.append(f"{name}: this sweep is not finished; run `aft sweep {name}`")
        elif (record := reader.read(SweepRecord, path, name)) is not None:
            if others := now.others(record.data, {}):
                reader.missing.append(f"{path}: of other {others} than there are now; run `aft sweep {name}` again")
            else:
                found.append(record)
    return tuple(found)


def _costs(outcomes: Sequence[Outcome], reader: Records) -> dict[str, CostRecord]:
    """The cost of serving each run, and a line for each that is of other students, or from another device."""
    found: dict[str, CostRecord] = {}
    for outcome in outcomes:
        path = reader.project.log("cost", outcome.name)
        record = reader.read(CostRecord, path, outcome.name, optional=True)
        if record is None:
            continue
        again = f"run `aft cost {outcome.name}` again"
        first = next(iter(found.values()), record)
        if record.students != outcome.run.students_digest:
            reader.missing.append(f"{path}: of other students than {outcome.name} has now; {again}")
        elif (record.device, record.threads) != (first.device, first.threads):
            there, here = (f"{each.device}, {counted(each.threads, 'thread')}" for each in (record, first))
            reader.missing.append(f"{path}: measured on {there}, and {first.run} on {here}; {again}")
        else:
            found[outcome.name] = record
    return found


def _outdated(outcomes: Iterable[Outcome], now: Now) -> list[str]:
    """A line for each run that was trained or tested with other data, features or probes than there are now."""
    lines = []
    for outcome in outcomes:
        run, tested, name = outcome.run, outcome.evaluation, outcome.name
        than, test = "than there are now; run", f"`aft evaluate {name}` again"
        if others := now.others(run.data, run.features, run.probes):
            lines.append(f"{name}: trained with other {others} {than} `aft train {name}` and {test}")
        elif others := now.others(tested.data, {}, tested.probes):
            lines.append(f"{name}: tested with other {others} {than} {test}")
    return lines


def read_curve(path: Path, run: RunRecord, column: str) -> tuple[CurvePoint, ...]:
    """One column of the curves of the chosen candidate, averaged over seeds.

    Raises:
        UserError: the file is missing or damaged.
    """
    chosen = cell(label(run.chosen, run.chosen_settings))
    scores: dict[int, list[float]] = {}
    try:
        with os.fdopen(open_regular(path), newline="", encoding="utf-8") as file:
            for line in csv.DictReader(file):
                # The line after the last step has no losses.
                if line["weight"] == chosen and line[column]:
                    scores.setdefault(int(line["step"]), []).append(float(line[column]))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run `aft train {run.run}`") from None
    except (KeyError, ValueError, TypeError, OSError) as error:
        raise UserError(f"{path}: damaged ({error}); run `aft train {run.run}` again") from None
    if not scores:
        raise UserError(f"{path}: no lines for the chosen weight {chosen}; run `aft train {run.run}` again")
    return tuple(CurvePoint(s, float(np.mean(at)), standard_error(at), len(at)) for s, at in sorted(scores.items()))


def _gates(path: Path, run: RunRecord) -> dict[str, tuple[tuple[float, ...], ...]]:
    if not file_exists(path):
        # Most methods have none.
        return {}
    gates = GatesRecord.read(path, run.run).gates
    if any(len(seeds) != len(run.seeds) or len({len(seed) for seed in seeds} - {0}) != 1 for seeds in gates.values()):
        raise UserError(
            f"{path}: not the same number of gates for each of the run's seeds; run `aft train {run.run}` again"
        )
    return gates


def _of_one_metric(outcomes: Sequence[Outcome], reader: Records) -> list[Outcome]:
    """The runs that were evaluated by the same metrics as the first one."""
    same = []
    for outcome in outcomes:
        if outcome.evaluation.metrics == outcomes[0].evaluation.metrics:
            same.append(outcome)
        else:
            reader.missing.append(
                f"{outcome.name}: evaluated by other metrics than {outcomes[0].name}; run `aft evaluate {outcome.name}`"
            )
    return same


def _seeds(name: str, params: Params) -> list[int]:
    """The seeds that params.yaml asks for; empty where it does not say."""
    own: Any = params.values["runs"][name]
    train = own.get("train") if isinstance(own, dict) else None
    shared = params.values.get("train")
    for section in (train, shared):
        if isinstance(section, dict) and isinstance(section.get("seeds"), list):
            return list(section["seeds"])
    return []


def _files(folder: Path) -> dict[str, int]:
    if not folder.is_dir():
        return {}
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}
