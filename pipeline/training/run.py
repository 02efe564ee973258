"""All trials of a run: the candidates, the trials found in the ledger, the missing ones, and the choice.

A run is trained once per seed and per candidate: a weight for each method, and the settings that the run searches.
Validation rows choose the candidate, and its students become the run's. A candidate that diverges on any seed is
recorded and cannot be chosen; nor can one that was clearly worse on the first seeds and dropped, see `race.py`.
"""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from pipeline.errors import UserError, count
from pipeline.locks import Lock
from pipeline.params import Params
from pipeline.project import Project
from pipeline.students import is_solved
from pipeline.trackers import tracker
from pipeline.training.candidates import trials_of
from pipeline.training.config import Plan
from pipeline.training.failure import Replay, replay
from pipeline.training.ledger import Ledger, Trial, Unused
from pipeline.training.race import Race
from pipeline.training.result import Training, write_run
from pipeline.training.session import Session
from pipeline.training.worker import train_missing


def train(
    name: str, params: Params, project: Project = Project(), say: Callable[[str], None] = lambda line: None
) -> Training:
    """Train what is missing of the run `name`; write its students, curves and record to `runs/<name>/`.

    An earlier result stays until the new one is complete.

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
    if track := session.plan.machine.track:
        tracker(track)
    trials = trials_of(session)
    for line in session.reading:
        say(f"train {name}: {line}")
    lock = Lock(project.lock("train", name))
    if not lock.acquire():
        raise UserError(f"{lock.path}: {lock.owner()} is training `{name}`; wait for it, or give this run another name")
    ledger = Ledger(project)
    race = Race(session.plan, trials, ledger, session.task.primary)
    try:
        with ledger.in_use():
            results = {trial: record for trial in trials if (record := ledger.read(trial.digest))}
            found, missing = set(results), [trial for trial in race.needed() if trial not in results]
            steps = _steps(session, trials)
            say(f"train {name}: {count(len(trials), 'trial')}, {len(found)} found, {len(missing)} to train{steps}")
            if missing:
                session.verify_in_background()
            # Usually once: trials of candidates that are dropped on the way are skipped.
            while missing:
                before = len(results)
                train_missing(session, trials, missing, lambda line: say(f"train {name}: {line}"))
                results |= {trial: record for trial in missing if (record := ledger.read(trial.digest))}
                missing = [trial for trial in race.needed() if trial not in results]
                if missing and len(results) == before:
                    raise UserError(
                        f"{ledger.folder / missing[0].digest}: damaged right after it was written; check the disk"
                    )
            return write_run(session, race, results, found)
    finally:
        lock.release()


def replay_trial(name: str, params: Params, project: Project = Project(), trial: str = "") -> Replay:
    """Do the step at which a trial of the run `name` diverged again, and look at everything.

    Args:
        name: of the run.
        params, project: as they were.
        trial: how the digest that names the trial begins; the first one that diverged if empty.

    Raises:
        UserError: no such trial diverged under these settings, data and code.
    """
    session, ledger = Session(Plan.read(name, params, project)), Ledger(project)
    for each in trials_of(session):
        record = ledger.read(each.digest) if each.digest.startswith(trial) else None
        if record is not None and record.diverged:
            with session.threads():
                return replay(session, each.seed, each.candidate, ledger.failure(each.digest))
    raise UserError(
        f"{ledger.folder}: no trial {trial or f'of `{name}`'} that diverged with these settings, data and code; "
        f"to train it, run `aft train {name}`"
    )


class Counted(NamedTuple):
    """Trials of a run that are in the ledger, and that are missing, unless their candidates are dropped.

    Attributes:
        steps: of a training, as the end of a sentence; empty where params.yaml has their number.
    """

    found: int
    missing: int
    steps: str


def count_trials(name: str, params: Params, project: Project = Project()) -> Counted:
    """How many trials of a run there are, and are to train.

    Raises:
        UserError: as `train` does.
    """
    session = Session(Plan.read(name, params, project))
    ledger = Ledger(project)
    needed = Race(session.plan, trials := trials_of(session), ledger, session.task.primary).needed()
    found = sum(trial.digest in ledger for trial in needed)
    return Counted(found, len(needed) - found, _steps(session, trials))


def _steps(session: Session, trials: Sequence[Trial]) -> str:
    """`, of 440 steps`, or `, of 220 to 440 steps`, where that follows from the number of rows, also by epochs."""
    changes = [trial.candidate.of("train") for trial in trials]
    if is_solved(session.plan.params.section(f"students.{session.plan.run.student}")["family"]) or not any(
        session.plan.settings(each).steps == "auto" for each in changes
    ):
        return ""
    each = {session.settings(trial.seed, trial.candidate).steps for trial in trials}
    return f", of {min(each):,}{f' to {max(each):,}' if len(each) > 1 else ''} steps"


def unused_trials(
    params: Params, project: Project = Project(), delete: bool = False, kept: Collection[str] = ()
) -> Unused:
    """Trials that no run of params.yaml uses, nor anything else; deleted if asked.

    Args:
        params: all settings.
        project: where the ledger is.
        delete: them.
        kept: the names of trials that something other than a run uses.

    Raises:
        UserError: a run cannot be read, so what it uses is not known; or a training is running.
    """
    sessions = (Session(Plan.read(name, params, project)) for name in params.section("runs"))
    used = {trial.digest for session in sessions for trial in trials_of(session)}
    return Ledger(project).unused(used | set(kept), delete)
