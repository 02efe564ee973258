"""The missing trials of many points, trained in one process or several. One that fails does not stop the others."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from pipeline.engines import engine
from pipeline.errors import UserError
from pipeline.machine import Machine
from pipeline.sweeping.planning import PlannedPoint
from pipeline.sweeping.slots import devices, slot
from pipeline.training import Session, Trial, TrialWorker


@dataclass(frozen=True)
class Event:
    """What a worker reports of a trial.

    Attributes:
        trial: its name.
        steps: that were done.
        ended: whether it is finished, or has failed.
        failed: why; empty if it did not.
    """

    trial: str
    steps: int = 0
    ended: bool = False
    failed: str = ""


Job = tuple[int, Trial]
"""The position of a point, and one of its trials."""


class SweepWorker:
    """Trains trials of any point, one after the other, in one process. What points read is opened once.

    Args:
        points: of the sweep.
        folder: for the locks of slots.
        jobs: processes that work side by side; None where each sees one device alone.
    """

    def __init__(self, points: Sequence[PlannedPoint], folder: Path, jobs: int | None):
        self.points, self.folder, self.jobs = points, folder, jobs
        self._position: int | None = None
        self._session: Session | None = None
        self._worker: TrialWorker | None = None

    def __call__(self, jobs: Iterable[Job]) -> Iterator[Event]:
        """Train trials; yields what happens."""
        for position, trial in jobs:
            try:
                for steps in self._of(position)([trial]):
                    yield Event(trial.digest, steps)
            except (UserError, OSError, MemoryError, torch.OutOfMemoryError) as error:
                line = " ".join(str(error).split()) or "not enough memory"
                yield Event(trial.digest, ended=True, failed=line)
            else:
                yield Event(trial.digest, ended=True)

    def _of(self, position: int) -> TrialWorker:
        """The worker of a point. Its jobs follow one another, so there is one at a time."""
        if self._worker is None or self._position != position:
            planned = self.points[position]
            plan = replace(planned.plan, machine=self._on_device(planned.plan.machine))
            self._session = Session(plan, like=self._session)
            self._worker, self._position = TrialWorker(self._session, planned.trials), position
        return self._worker

    def _on_device(self, machine: Machine) -> Machine:
        there = devices(machine)
        number = slot(self.folder, self.jobs) if self.jobs and len(there) > 1 else 0
        return machine.model_copy(update={"device": there[number % len(there)]})


def train_jobs(
    points: Sequence[PlannedPoint],
    jobs: Sequence[Job],
    folder: Path,
    workers: int | None,
    say: Callable[[str], None] = lambda line: None,
) -> Generator[Event]:
    """Train jobs, of `points`, in as many processes; where `workers` is None, the engine chooses.

    Raises:
        UserError: a process was killed.
    """
    machine = points[0].plan.machine
    threads = torch.get_num_threads()
    try:
        make = partial(SweepWorker, points, folder, workers)
        yield from engine(machine.engine)(make, jobs, workers and min(workers, len(jobs)), machine, say)
    finally:
        torch.set_num_threads(threads)  # a worker in this process has changed it
