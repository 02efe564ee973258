"""What the report is made from: the records and logs that are there, and a line for each that is missing."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from pipeline.errors import UserError, listed
from pipeline.functional.statistics import standard_error
from pipeline.params import Params
from pipeline.project import Project
from pipeline.provenance import digest_of
from pipeline.records import (
    AssessmentRecord,
    EvaluationRecord,
    GatesRecord,
    LogRecord,
    ManifestRecord,
    Metric,
    ProbeRecord,
    Record,
    RunRecord,
)
from pipeline.reporting.comparison import Comparison, Outcome, Point, compare
from pipeline.runs import label
from pipeline.sources import Source
from pipeline.verified import VerifiedFiles

R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Stored:
    """A feature store, as far as the report shows it: its teacher, rows, bytes, and numbers a row."""

    name: str
    rows: int
    bytes: int
    width: int


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
        student_files: by run, the files of one student and their bytes; those that are there.
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
        if optional and not path.is_file():
            return None
        try:
            return record.read(path, name)
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
    outcomes = [outcome for name in names if (outcome := _outcome(name, params, reader)) is not None]
    outcomes = _of_one_metric(outcomes, reader)
    if not outcomes:
        first = f" ({reader.missing[0]})" if reader.missing else ""
        raise UserError(f"{project.root / 'runs'}: no run is finished, so there is nothing to report{first}")
    comparisons, unpaired = compare(outcomes)
    reader.missing += unpaired
    sources = list(dict.fromkeys(Source.parse(source).clean for o in outcomes for source in o.run.sources))
    probes = [reader.read(ProbeRecord, project.probe(source) / "probe.json", source.teacher) for source in sources]
    manifest = reader.read(ManifestRecord, project.data / "manifest.json")
    reader.missing += _outdated(outcomes, manifest, {probe.source: probe for probe in probes if probe is not None})
    assessment = reader.read(AssessmentRecord, project.assessment, optional=True)
    if assessment is not None and manifest is not None and assessment.dataset != manifest.digest:
        reader.missing.append(f"{project.assessment}: of another dataset; run `aft assess` again")
        assessment = None
    teachers = list(dict.fromkeys(source.teacher for source in sources))
    if assessment is not None:
        named = (Source.parse(source.name).teacher for source in assessment.sources)
        teachers = list(dict.fromkeys([*teachers, *named]))
    logs = reader.logs("extract", teachers) | reader.logs("probe", teachers) | reader.logs("assess", ["assess"])
    logs |= {("train", outcome.name): outcome.log for outcome in outcomes if outcome.log is not None}
    logs |= reader.logs("evaluate", [outcome.name for outcome in outcomes])
    files = {o.name: _files(project.run(o.name) / "students" / str(o.run.seeds[0])) for o in outcomes}
    return ReportInputs(
        params, project, tuple(comparisons), tuple(reader.missing), tuple(filter(None, probes)), manifest, assessment,
        tuple(stores), logs, {name: found for name, found in files.items() if found},
    )  # fmt: skip


def _outcome(name: str, params: Params, reader: Records) -> Outcome | None:
    """The records of one run; None, and a line, where it is not finished."""
    project = reader.project
    folder, path = project.run(name), project.evaluation(name)
    if not (folder / "run.json").is_file():
        reader.missing.append(f"{name}: not trained; run `aft train {name}`")
        return None
    run = reader.read(RunRecord, folder / "run.json", name)
    if run is None:
        return None
    if not path.is_file():
        reader.missing.append(f"{name}: trained but not evaluated; run `aft evaluate {name}`")
        return None
    evaluation = reader.read(EvaluationRecord, path, name)
    if evaluation is None:
        return None
    try:
        _check(run, evaluation, path)
        shown = {file: checksum for file, checksum in run.files.items() if not file.startswith("students/")}
        VerifiedFiles(folder, shown, f"run `aft train {name}` again").finish()
        curve = _curve(folder / "curves.csv", run)
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


def _outdated(
    outcomes: Iterable[Outcome], manifest: ManifestRecord | None, probes: Mapping[str, ProbeRecord]
) -> list[str]:
    """A line for each run that was tested on other data, or next to other probes, than there are now."""
    now = {source: digest_of(probe.files) for source, probe in probes.items()}
    lines = []
    for outcome in outcomes:
        tested = outcome.evaluation
        others = [f"probes of `{source}`" for source, of in tested.probes.items() if now.get(source, of) != of]
        if manifest is not None and digest_of(manifest.files) != tested.data:
            others.insert(0, "data")
        if others:
            lines.append(
                f"{outcome.name}: tested with other {listed(others)} than there are now; "
                f"run `aft train {outcome.name}` and `aft evaluate {outcome.name}` again"
            )
    return lines


def _curve(path: Path, run: RunRecord) -> tuple[Point, ...]:
    """The validation scores of the chosen candidate, averaged over seeds."""
    chosen, column = label(run.chosen, run.chosen_settings), f"val_{run.metric.name}"
    scores: dict[int, list[float]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for line in csv.DictReader(file):
                if line["weight"] == chosen:
                    scores.setdefault(int(line["step"]), []).append(float(line[column]))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run `aft train {run.run}`") from None
    except (KeyError, ValueError, TypeError, OSError) as error:
        raise UserError(f"{path}: damaged ({error}); run `aft train {run.run}` again") from None
    if not scores:
        raise UserError(f"{path}: no lines for the chosen weight {chosen}; run `aft train {run.run}` again")
    return tuple(Point(s, float(np.mean(at)), standard_error(at), len(at)) for s, at in sorted(scores.items()))


def _gates(path: Path, run: RunRecord) -> dict[str, tuple[tuple[float, ...], ...]]:
    if not path.exists():
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
