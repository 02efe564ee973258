"""All trials of a run: what to try, what is found in the ledger, what is missing, and the choice.

A run is trained once per seed and per candidate: a weight for each method, and the settings that the run searches.
Validation rows choose the candidate, and its students become the run's. A candidate that diverges on any seed is
recorded and cannot be chosen; nor can one that was clearly worse on the first seeds and dropped, see `race.py`.
"""

import csv
import io
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch

from pipeline.engines import engine
from pipeline.errors import UserError, count
from pipeline.files import Lock, replace_folder, write_atomically
from pipeline.machine import cores
from pipeline.params import Params, plugin
from pipeline.progress import progress
from pipeline.project import Project
from pipeline.provenance import digest_of
from pipeline.records import (
    CandidateRecord,
    DiagnosticsRecord,
    GatesRecord,
    MethodRecord,
    RunRecord,
    StudentRecord,
    TrialRecord,
)
from pipeline.runs import Candidate
from pipeline.students import Scaled, Student, is_solved
from pipeline.training import auto_weight
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.config import Plan
from pipeline.training.ledger import Ledger, Trial, Unused, inputs_of
from pipeline.training.log import Diverged, WeightedPenalty
from pipeline.training.race import Race
from pipeline.training.session import Session, TrialData
from pipeline.training.trial import batches, build_penalties, losses, run_trial
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
    metric: str
    trials: int
    trained: int
    found: int
    dropped: int
    seconds: float
    device: str
    warnings: list[str]

    def __str__(self) -> str:
        weight = f" with weight {self.chosen.label}" if self.chosen != Candidate(()) else ""
        mean = f"{fmean(self.val_scores):.4f}"
        trials = f"{self.trained} of {count(self.trials, 'trial')} trained, {self.found} found"
        if self.dropped:
            saved = self.trials - self.trained - self.found
            trials += f", {saved} not needed: {count(self.dropped, 'candidate')} dropped"
        lines = [f"{self.run}: validation {self.metric} {mean}{weight}; {trials}"]
        return "\n".join(lines + [f"warning: {warning}" for warning in self.warnings])


def train(
    name: str, params: Params, project: Project = Project(), say: Callable[[str], None] = lambda line: None
) -> Training:
    """Train what is missing of the run `name`; write its students, curves and record to `runs/<name>/`.

    What was there before stays until the new result is whole.

    Args:
        name: a key of `runs`.
        params: all settings.
        project: where data, features and probes are.
        say: takes a line on where each teacher's features are read, and one on the trials, before the work begins.

    Raises:
        UserError: a setting is wrong, a store or probe is missing or belongs to another dataset, another process is
            training the run, or every candidate diverged.
    """
    session = Session(Plan.read(name, params, project))
    trials = trials_of(session)
    for line in session.reading:
        say(f"train {name}: {line}")
    lock = Lock(project.lock("train", name))
    if not lock.acquire():
        raise UserError(f"{lock.path}: {lock.owner()} is training `{name}`; wait for it, or give this run another name")
    ledger = Ledger(project)
    race = Race(session, trials, ledger)
    try:
        with ledger.in_use():
            results = {trial: record for trial in trials if (record := ledger.read(trial.digest))}
            found, missing = set(results), [trial for trial in race.needed() if trial not in results]
            say(f"train {name}: {count(len(trials), 'trial')}, {len(found)} found, {len(missing)} to train")
            if missing:
                session.verify_in_background()
            # Once, as a rule: what is dropped on the way is passed over.
            while missing:
                before = len(results)
                _train_missing(session, trials, missing)
                results |= {trial: record for trial in missing if (record := ledger.read(trial.digest))}
                missing = [trial for trial in race.needed() if trial not in results]
                if missing and len(results) == before:
                    raise UserError(
                        f"{ledger.folder / missing[0].digest}: damaged right after it was written; check the disk"
                    )
            return _write(session, race, results, found)
    finally:
        lock.release()


def count_trials(name: str, params: Params, project: Project = Project()) -> tuple[int, int]:
    """How many trials of a run are in the ledger, and how many are missing, unless their candidates are dropped.

    Raises:
        UserError: as `train` does.
    """
    session = Session(Plan.read(name, params, project))
    ledger = Ledger(project)
    needed = Race(session, trials_of(session), ledger).needed()
    found = sum(trial.digest in ledger for trial in needed)
    return found, len(needed) - found


def unused_trials(params: Params, project: Project = Project(), delete: bool = False) -> Unused:
    """Trials that no run of params.yaml uses; deleted if asked.

    Raises:
        UserError: a run cannot be read, so what it uses is not known; or a training is running.
    """
    sessions = (Session(Plan.read(name, params, project)) for name in params.section("runs"))
    used = {trial.digest for session in sessions for trial in trials_of(session)}
    return Ledger(project).unused(used, delete)


def trials_of(session: Session) -> list[Trial]:
    """All trials of a run: seed by seed, candidates with the smallest weights first.

    Raises:
        UserError: a method misses something, or a candidate's settings are wrong.
    """
    candidates = find_candidates(session)
    return [
        Trial(seed, candidate, digest_of(inputs_of(session, seed, candidate)))
        for seed in session.plan.settings({}).seeds
        for candidate in candidates
    ]


def find_candidates(session: Session) -> list[Candidate]:
    """What to try. Every method is built once, so that what is wrong is found now, and each `auto` becomes a list.

    Raises:
        UserError: a method misses something, or a candidate's settings are wrong.
    """
    session.check_own_outputs()
    run, seed = session.run, session.plan.settings({}).seeds[0]
    # In reverse, and so ending with the data of the first one, which training needs first.
    for combination in reversed(run.combinations()):
        data = session.trial_data(seed, combination)
    known: dict[tuple[Any, ...], list[list[float]]] = {}

    def weights(combination: Candidate) -> list[list[float]]:
        """The weights of each method; where one is `auto`, measured once for each way to set the methods."""
        key = tuple(session.method(term, combination).model_dump_json() for term in run.methods)
        if key not in known:
            known[key] = _weights(session, data, combination)
        return known[key]

    return run.candidates(weights)


def _weights(session: Session, data: TrialData, combination: Candidate) -> list[list[float]]:
    """The weights to try of each method, with a combination of settings."""
    methods = session.run.methods
    torch.manual_seed(data.seed)
    student = data.blueprint.build().to(session.device)
    candidate = replace(combination, weights=tuple(1.0 for _ in methods))
    penalties = build_penalties(session, data, student, candidate)
    automatic = any(term.weight == "auto" for term in methods)
    measured = _equal_weights(session, data, student, penalties) if automatic else {}
    return [
        auto_weight.weights_to_try(measured[term.name], session.where(term)) if term.weight == "auto" else term.weight
        for term in methods
    ]


def _equal_weights(
    session: Session, data: TrialData, student: Student, penalties: dict[str, WeightedPenalty]
) -> dict[str, list[float]]:
    """Per method and batch, the weight at which its gradient on the untrained student is as strong as the task's."""
    student.train()

    def measure() -> tuple[dict[str, list[float]], float]:
        """Those weights, and the task's gradient as a share of that through an ordinary last layer."""
        weights: dict[str, list[float]] = {name: [] for name in penalties}
        shares = []
        steps = batches(data.split, data.seed, data.settings, bool(penalties))
        for step, (rows, labelled) in enumerate(islice(steps, auto_weight.BATCHES)):
            views = data.draw_views(rows, labelled, step, bool(penalties))
            task_loss, unweighted, features, _ = losses(data, student, penalties, rows, labelled, 0.0, views)
            at_outputs = data.task.initial_gradient(data.labels[rows[:labelled]])
            ordinary = auto_weight.ordinary_gradient(at_outputs)
            shares.append(auto_weight.gradient_norm(task_loss, features) / ordinary)
            for name, penalty in unweighted.items():
                weights[name].append(auto_weight.equal_weight(task_loss, penalty, features))
        return weights, median(shares)

    weights, share = measure()
    if share < auto_weight.SMALL:
        head = torch.nn.Linear(student.width, len(session.task.outputs)).to(session.device)
        # A student whose outputs are in the labels' unit has another inside, which ends with its last layer.
        with auto_weight.ordinary_head(student.student if isinstance(student, Scaled) else student, head):
            weights, _ = measure()
    return weights


def _train_missing(session: Session, trials: Sequence[Trial], missing: Sequence[Trial]) -> None:
    """Train the missing trials of a run, unless their candidates are dropped, and commit them to the ledger."""
    plan = session.plan
    # Trials that share what is read of the data follow one another.
    shared = ("student", "train")
    jobs = sorted(missing, key=lambda trial: (trial.seed, [str(trial.candidate.of(section)) for section in shared]))
    # One process on any accelerator: several would share it, each with a copy of what it keeps there.
    free = max(1, cores() // plan.machine.threads) if session.device.type == "cpu" else 1
    workers = min(plan.machine.workers or free, len(jobs))
    steps = sum(plan.settings(trial.candidate.of("train")).steps for trial in jobs)
    threads = torch.get_num_threads()
    try:
        with progress(f"train {plan.name}", steps, "step") as advance:
            for done in engine(plan.machine.engine)(partial(TrialWorker, session, trials), jobs, workers):
                advance(done)
    finally:
        torch.set_num_threads(threads)  # a worker in this process has changed it


class TrialWorker:
    """Trains trials one after the other, in one process, and commits each to the ledger.

    Args:
        session: of the run.
        trials: all of the run.
    """

    def __init__(self, session: Session, trials: Sequence[Trial]):
        self.session = session
        self.ledger = Ledger(session.plan.project)
        self.race = Race(session, trials, self.ledger)
        # If the only candidate diverges, there is no other to choose, and no need to go on.
        self.single = len({trial.candidate for trial in trials}) == 1

    def __call__(self, trials: Iterable[Trial]) -> Iterator[int]:
        """Train trials; yields steps that are done.

        Raises:
            UserError: the run's only candidate diverged.
        """
        session = self.session
        if session.device.type == "cpu":
            # The same in the calling process and in any number of workers, because it decides how sums round.
            torch.set_num_threads(session.plan.machine.threads)
        for trial in trials:
            left = steps = session.plan.settings(trial.candidate.of("train")).steps
            # Another run has trained it by now, or its candidate is dropped. Where other workers still train what that
            # depends on, it is trained: to wait would take as long.
            if trial.digest in self.ledger or trial not in self.race.needed():
                yield steps
                continue
            # Steps are reported together, about once a second: of a trial in another process all arrive in one moment.
            started = reported = time.perf_counter()
            unreported = 0
            minutes = session.plan.machine.checkpoint_minutes
            checkpoint = Checkpoint(self.ledger.checkpoint(trial.digest), trial.digest, minutes)
            training = run_trial(session, trial.seed, trial.candidate, checkpoint)
            result, diverged = None, ""
            try:
                while result is None:
                    try:
                        done = next(training)
                        left, unreported = left - done, unreported + done
                        if time.perf_counter() - reported >= 1:
                            yield unreported
                            reported, unreported = time.perf_counter(), 0
                    except StopIteration as stop:
                        result = stop.value
            except Diverged as error:
                diverged = f"seed {trial.seed}, {error}"
            except (np.linalg.LinAlgError, torch.linalg.LinAlgError) as error:
                # At the first step nothing has moved yet, so nothing has diverged.
                if left == steps:
                    raise
                diverged = f"seed {trial.seed}, step {steps - left}: {' '.join(str(error).split())[:200]}"
            session.verified()
            inputs = inputs_of(session, trial.seed, trial.candidate)
            seconds = checkpoint.seconds + time.perf_counter() - started
            if result is None:
                self.ledger.commit(trial.digest, TrialRecord(inputs=inputs, diverged=diverged, seconds=seconds), None)
                checkpoint.remove()
                if self.single:
                    raise UserError(_advice(session.plan.name, diverged))
                yield unreported + left
                continue
            record = TrialRecord(
                inputs=inputs,
                score=result.score,
                parameters=sum(parameter.numel() for parameter in result.student.parameters()),
                width=result.student.width,
                curve=tuple(result.curve),
                diagnostics=result.diagnostics,
                gates={name: tuple(values) for name, values in result.gates.items()},
                seconds=seconds,
            )
            self.ledger.commit(trial.digest, record, result)
            checkpoint.remove()
            yield unreported


def choose(results: Mapping[Trial, TrialRecord], run: str, higher_is_better: bool = True) -> Candidate:
    """The candidate with the best mean validation score over seeds; of those that tie, the smallest weights.

    Candidates that lack seeds, because they were dropped, are left out.

    Raises:
        UserError: every candidate diverged.
    """
    candidates = dict.fromkeys(trial.candidate for trial in results)
    scores = {candidate: _scores(results, candidate) for candidate in candidates}
    seeds = max(map(len, scores.values()))
    means = {candidate: mean for candidate, of in scores.items() if (mean := _mean(of, seeds)) is not None}
    if not means:
        raise UserError(_advice(run, next(record.diverged for record in results.values() if record.diverged)))
    sign = 1 if higher_is_better else -1
    # Rounded, because the same predictions distributed over seeds in another way differ in the last digit of their
    # mean. max keeps the first, and candidates are sorted by weight.
    return max(means, key=lambda candidate: sign * round(means[candidate], 9))


def _scores(results: Mapping[Trial, TrialRecord], candidate: Candidate) -> tuple[float | None, ...]:
    """The validation score on every seed; None where the training diverged."""
    return tuple(record.score for trial, record in results.items() if trial.candidate == candidate)


def _mean(scores: Sequence[float | None], seeds: int) -> float | None:
    """The mean score over all seeds; None where there are fewer, or one diverged."""
    known = [score for score in scores if score is not None]
    return float(np.mean(known)) if len(known) == seeds else None


def _advice(run: str, diverged: str) -> str:
    return f"{run}: {diverged}; lower train.learning_rate or the method's weight"


def _write(session: Session, race: Race, known: Mapping[Trial, TrialRecord], found: set[Trial]) -> Training:
    """Choose, and write the run: the same trials give the same bytes, whatever more the ledger has.

    Raises:
        UserError: every candidate diverged.
    """
    plan, data = session.plan, session.data
    results, dropped = {trial: known[trial] for trial in race.needed()}, race.dropped()
    chosen = choose(results, plan.name, session.task.primary.higher_is_better)
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
            reads=plugin("students", family).KIND,
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
        steps=0 if is_solved(family) else settings.steps,
        settings=settings.model_dump(),
        metric=session.task.primary,
        candidates=tuple(
            CandidateRecord(
                weights=candidate.weights,
                settings=dict(candidate.settings),
                val_scores=_scores(results, candidate),
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
        val_scores=[score for score in _scores(results, chosen) if score is not None],
        candidates={each.label: _mean(_scores(results, each), len(settings.seeds)) for each in candidates},
        metric=session.task.primary.label,
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
        {"seed": trial.seed, "weight": trial.candidate.label} | line
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
