"""The result of a run: the choice, and the students, curves and record that are written to `runs/<run>/`."""

import csv
import io
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from pipeline.errors import count
from pipeline.files import cell, replace_folder, write_atomically
from pipeline.records import (
    CandidateRecord,
    DiagnosticsRecord,
    GatesRecord,
    MethodRecord,
    Metric,
    RunRecord,
    StudentRecord,
    TrialRecord,
)
from pipeline.runs import Candidate, settings_label
from pipeline.students import is_solved
from pipeline.training.choice import choose, mean_over_seeds, scores_of
from pipeline.training.ledger import Trial
from pipeline.training.race import Race
from pipeline.training.session import Session
from pipeline.verified import checksums


@dataclass(frozen=True)
class Training:
    """What `train` returns.

    Attributes:
        run: its name.
        chosen: the candidate that did best on validation rows.
        val_scores: per seed, of the chosen candidate.
        candidates: mean validation score of every candidate; None where it diverged on any seed, or was dropped.
        metric: what the score is.
        trials: of the run, all candidates on all seeds.
        trained: how many of them were trained now.
        found: how many were in the ledger.
        dropped: candidates that were clearly worse, or diverged, and not trained on all seeds.
        seconds: of all the run's trials, whenever they were trained, added up.
        device: where they were trained.
        warnings: what should be looked at, such as a candidate that diverged or a student that collapsed.
    """

    run: str
    chosen: Candidate
    val_scores: list[float]
    candidates: dict[str, float | None]
    metric: Metric
    trials: int
    trained: int
    found: int
    dropped: int
    seconds: float
    device: str
    warnings: list[str]

    def __str__(self) -> str:
        chosen = f"weight {self.chosen.label}" if self.chosen.weights else settings_label(dict(self.chosen.settings))
        mean = self.metric.written(fmean(self.val_scores))
        trials = f"{self.trained} of {count(self.trials, 'trial')} trained, {self.found} found"
        if self.dropped:
            saved = self.trials - self.trained - self.found
            trials += f", {saved} not needed: {count(self.dropped, 'candidate')} dropped"
        lines = [f"{self.run}: validation {self.metric.label} {mean}{f' with {chosen}' if chosen else ''}; {trials}"]
        return "\n".join(lines + [f"warning: {warning}" for warning in self.warnings])


def write_run(session: Session, race: Race, known: Mapping[Trial, TrialRecord], found: set[Trial]) -> Training:
    """Choose, and write the run. The same trials give the same bytes; other trials in the ledger do not matter.

    Raises:
        UserError: every candidate diverged.
    """
    plan, data = session.plan, session.data
    results, dropped = {trial: known[trial] for trial in race.needed()}, race.dropped()
    chosen = choose(results, plan.name, session.metric)
    kept = {trial: record for trial, record in results.items() if trial.candidate == chosen}
    candidates = list(dict.fromkeys(trial.candidate for trial in results))
    settings = plan.settings(chosen.of("train"))
    split = data.split(settings.seeds[0] % data.splits)
    out = plan.project.run(plan.name)
    partial_out = out.with_name(f".{plan.name}.partial")
    shutil.rmtree(partial_out, ignore_errors=True)
    for trial in kept:
        race.ledger.copy_student(trial.digest, partial_out / "students" / str(trial.seed))
    _write_curves(partial_out / "curves.csv", results)
    diagnostics = tuple(record.diagnostics for record in kept.values() if record.diagnostics)
    first = next(iter(kept.values()))
    if first.gates:
        gates = {name: tuple(record.gates[name] for record in kept.values()) for name in first.gates}
        GatesRecord(gates=gates).write(partial_out / "gates.json")
    family = plan.params.section(f"students.{plan.run.student}")["family"]
    RunRecord(
        run=plan.name,
        student=StudentRecord(
            name=plan.run.student,
            family=family,
            reads=session.blueprint(settings.seeds[0] % data.splits, chosen).reads,
            solved=is_solved(family),
            parameters=first.parameters or 0,
            width=first.width or 0,
        ),
        data=data.manifest.files_digest,
        sources=tuple(source.name for source in plan.run.sources),
        features={source.name: session.features[source].digest for source in plan.run.sources},
        probes={source.name: session.probe_digest(source) for source in plan.run.sources},
        methods=tuple(MethodRecord(name=term.name, settings=term.options) for term in plan.run.methods),
        shuffled_teacher=plan.run.shuffle_teachers,
        seeds=tuple(settings.seeds),
        splits={str(seed): data.split_digest(seed % data.splits) for seed in settings.seeds},
        labelled=len(split.labelled),
        unlabelled=len(split.unlabelled),
        steps=0 if is_solved(family) else session.settings(settings.seeds[0], chosen).steps,
        settings=settings.model_dump(),
        augmented=() if is_solved(family) else tuple(each.name for each in plan.augmentations(settings)),
        transfer_rows=("views" if session.views else "clean") if plan.run.methods else None,
        metric=session.metric,
        candidates=tuple(
            CandidateRecord(
                weights=candidate.weights,
                settings=dict(candidate.settings),
                val_scores=scores_of(results, candidate, session.metric),
                dropped=candidate in dropped,
            )
            for candidate in candidates
        ),
        chosen=chosen.weights,
        chosen_settings=dict(chosen.settings),
        trainings=len(results),
        diagnostics=diagnostics,
        files=checksums(partial_out),
    ).write(partial_out / "run.json")
    replace_folder(partial_out, out)
    return Training(
        run=plan.name,
        chosen=chosen,
        val_scores=[score for score in scores_of(results, chosen, session.metric) if score is not None],
        candidates={
            each.label: mean_over_seeds(scores_of(results, each, session.metric), len(settings.seeds))
            for each in candidates
        },
        metric=session.metric,
        trials=len(race.trials),
        trained=len(results.keys() - found),
        found=len(results.keys() & found),
        dropped=len(dropped),
        seconds=sum(record.seconds for record in results.values()),
        device=str(session.device),
        warnings=_warnings(diagnostics, results),
    )


def _write_curves(path: Path, results: Mapping[Trial, TrialRecord]) -> None:
    lines = [
        {"seed": trial.seed, "weight": cell(trial.candidate.label)} | line
        for trial, record in results.items()
        for line in record.curve
    ]
    columns = list(dict.fromkeys(key for line in lines for key in line))
    file = io.StringIO()
    writer = csv.DictWriter(file, columns)
    writer.writeheader()
    writer.writerows(lines)
    write_atomically(path, file.getvalue())


def _warnings(diagnostics: Iterable[DiagnosticsRecord], results: Mapping[Trial, TrialRecord]) -> list[str]:
    warnings = [
        f"seed {each.seed} predicts the same for every row: lower the weight, or train longer"
        for each in diagnostics
        if each.collapsed
    ]
    diverged: dict[Candidate, str] = {}
    for trial, record in results.items():
        if record.diverged:
            diverged.setdefault(trial.candidate, record.diverged)
    return warnings + [
        f"candidate `{candidate.label}` diverged and cannot be chosen: {why}; lower train.learning_rate or the "
        "method's weight"
        for candidate, why in diverged.items()
    ]
