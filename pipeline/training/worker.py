"""Trains the missing trials of a run, in one process or several, and commits them to the ledger."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from functools import partial

import numpy as np
import torch

from pipeline.engines import engine
from pipeline.errors import UserError
from pipeline.machine import cores
from pipeline.params import Params
from pipeline.progress import progress
from pipeline.project import Project
from pipeline.provenance import digest_of
from pipeline.records import TrialRecord
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.choice import advice
from pipeline.training.config import Plan
from pipeline.training.failure import described, find_failure
from pipeline.training.ledger import Ledger, Trial, inputs_of
from pipeline.training.log import Diverged
from pipeline.training.parallel import Group
from pipeline.training.race import Race
from pipeline.training.session import Session
from pipeline.training.tracking import Tracked
from pipeline.training.trial import run_trial


def train_missing(
    session: Session,
    trials: Sequence[Trial],
    missing: Sequence[Trial],
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Train the missing trials of a run, unless their candidates are dropped, and commit them to the ledger."""
    plan = session.plan
    # Trials that share what is read of the data follow one another.
    shared = ("student", "train")
    jobs = sorted(missing, key=lambda trial: (trial.seed, [str(trial.candidate.of(section)) for section in shared]))
    # One process on any accelerator: several would share it, each with a copy of what it keeps there.
    free = max(1, cores() // plan.machine.threads) if session.device.type == "cpu" else 1
    wanted = plan.machine.workers or (free if plan.machine.engine == "local" else None)
    workers = wanted and min(wanted, len(jobs))
    if (group := Group.current()).size > 1:
        workers = 1
        if plan.machine.engine != "local":
            raise UserError(
                f"machine.engine: {plan.machine.engine}, and {group.size} processes train together; set local"
            )
    steps = sum(session.settings(trial.seed, trial.candidate).steps for trial in jobs)
    threads = torch.get_num_threads()
    make = partial(TrialWorker, session, trials)
    try:
        trained = engine(plan.machine.engine)(make, jobs, workers, plan.machine, say)
        with progress(f"train {plan.name}", steps, "step") as advance, closing(trained):
            for done in trained:
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
        self.ledger.check_shared()
        self.race = Race(session.plan, trials, self.ledger, session.task.primary)
        # If the only candidate diverges, there is no other to choose, so nothing more is trained.
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
            left = steps = session.settings(trial.seed, trial.candidate).steps
            # Another run has trained it by now, or its candidate is dropped. Where other workers still train what that
            # depends on, it is trained: to wait would take as long.
            if trial.digest in self.ledger or trial not in self.race.needed():
                yield steps
                continue
            inputs = inputs_of(session, trial.seed, trial.candidate)
            if digest_of(inputs) != trial.digest:
                raise UserError(
                    f"{session.plan.name}: data, features or probes changed after this training began; wait until "
                    "nothing writes them, and run it again"
                )
            # Steps are reported together, about once a second: of a trial in another process all arrive in one moment.
            started = reported = time.perf_counter()
            unreported = 0
            minutes = session.plan.machine.checkpoint_minutes
            checkpoint = Checkpoint(self.ledger.checkpoint(trial.digest), inputs, minutes)
            Group.current().announce(trial)
            tracked = Tracked(session.plan, trial, inputs)
            training = run_trial(session, trial.seed, trial.candidate, checkpoint, tell=tracked)
            result, diverged, sound = None, "", 0
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
                diverged, sound = f"seed {trial.seed}, {error}", error.sound
            except (np.linalg.LinAlgError, torch.linalg.LinAlgError) as error:
                # At the first step nothing has moved yet, so nothing has diverged.
                if left == steps:
                    raise
                diverged = f"seed {trial.seed}, step {steps - left}: {' '.join(str(error).split())[:200]}"
            finally:
                tracked.close()
            session.verified()
            seconds = checkpoint.seconds + time.perf_counter() - started
            if result is None:
                # Several processes train together only once: their steps wait for one another.
                alone = Group.current().size == 1
                failure = find_failure(session, trial.seed, trial.candidate, checkpoint, sound) if alone else None
                if failure and (line := described(session, trial.seed, trial.candidate, failure)):
                    diverged = f"seed {trial.seed}, {line}"
                record = TrialRecord(inputs=inputs, diverged=diverged, seconds=seconds)
                self.ledger.commit(trial.digest, record, failure=failure)
                checkpoint.remove()
                if self.single:
                    raise UserError(advice(session.plan.name, diverged))
                yield unreported + left
                continue
            record = TrialRecord(
                inputs=inputs,
                scores=result.scores,
                parameters=sum(parameter.numel() for parameter in result.student.parameters()),
                width=result.student.width,
                curve=tuple(result.curve),
                diagnostics=result.diagnostics,
                gates={name: tuple(values) for name, values in result.gates.items()},
                seconds=seconds,
            )
            self.ledger.commit(trial.digest, record, result)
            checkpoint.remove()
            yield unreported + left  # early stopping leaves some


def follow(name: str, params: Params, group: Group, project: Project = Project()) -> None:
    """Train along with the first process of a group, which trains the run `name`, and write nothing.

    Raises:
        UserError: as `train` does, or another process ended.
    """
    session = Session(Plan.read(name, params, project))
    ledger = Ledger(session.plan.project)
    for trial in group.announced():
        inputs = inputs_of(session, trial.seed, trial.candidate)
        checkpoint = Checkpoint(ledger.checkpoint(trial.digest), inputs, None)
        # The first process meets the same, and says so.
        with session.threads(), suppress(Diverged, np.linalg.LinAlgError, torch.linalg.LinAlgError):
            deque(run_trial(session, trial.seed, trial.candidate, checkpoint), maxlen=0)
