"""How far a sweep is: a live table on a terminal, a line now and then in a log, and a file for who watches it."""

import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from pipeline.errors import UserError, count, printable
from pipeline.locks import Lock
from pipeline.progress import EVERY, duration
from pipeline.project import Project
from pipeline.records import Metric, SweepStatus
from pipeline.sweeping.planning import PlannedPoint
from pipeline.terminal import draws

SHOWN = 5
"""The best points and the latest failures that are shown."""

WRITTEN = 1.0
"""Seconds between two writings of the file."""


@dataclass
class Board:
    """What is known of a sweep while it runs.

    Attributes:
        name: of the sweep.
        metric: that its points are compared by.
        project: where the file for watchers is.
        points: planned so far.
        done: the names of the trials that are finished.
        found: how many of them were in the ledger before.
        dropped: the names of those that are not needed any more, because their point diverged or is clearly worse.
        means: by label, the mean validation scores of the points that are finished.
        failures: by name of the trial, why it diverged, or could not be trained.
    """

    name: str
    metric: Metric
    project: Project
    points: list[PlannedPoint] = field(default_factory=list)
    done: set[str] = field(default_factory=set)
    found: int = 0
    dropped: set[str] = field(default_factory=set)
    means: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    steps: int = 0
    _began: float = field(default_factory=time.monotonic)
    _printed: float = field(default_factory=time.monotonic)
    _written: float = 0.0
    _live: Live | None = None

    def __enter__(self) -> "Board":
        if draws(sys.stderr):
            self._live = Live(console=Console(stderr=True), auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.show(last=True)
        if self._live:
            self._live.stop()

    @property
    def status(self) -> SweepStatus:
        """All of it, as a record."""
        steps = {
            digest: planned.steps for planned in self.points for digest in planned.digests if digest not in self.dropped
        }
        left = steps.keys() - self.done - self.failures.keys()
        rate = self.steps / max(time.monotonic() - self._began, 1e-9)
        best = sorted(self.means.items(), key=lambda pair: -pair[1] if self.metric.higher_is_better else pair[1])
        return SweepStatus(
            sweep=self.name,
            metric=self.metric,
            points=len(self.points),
            trials=len(steps),
            done=len(self.done - self.failures.keys()),
            found=self.found,
            failed=len(self.failures),
            seconds_left=sum(steps[digest] for digest in left) / rate if self.steps else None,
            best=tuple(best[:SHOWN]),
            lines=tuple(dict.fromkeys(f"{self.label(digest)}: {line}" for digest, line in self.failures.items())),
        )

    def finish(self, trial: str, diverged: str = "") -> None:
        """A trial is in the ledger."""
        self.done.add(trial)
        if diverged:
            self.failures[trial] = diverged

    def label(self, digest: str) -> str:
        """The point that a trial belongs to."""
        return next((planned.point.label for planned in self.points if digest in planned.digests), digest)

    def show(self, last: bool = False) -> None:
        """Show what there is to show, if it is time to."""
        now = time.monotonic()
        if last or now - self._written >= WRITTEN:
            # Who watches sees no more, and the sweep goes on.
            with suppress(UserError):
                self.status.write(self.project.sweep_status(self.name))
            self._written = now
            if self._live:
                self._live.update(rendered(self.status), refresh=True)
        if not self._live and now - self._printed >= EVERY:
            print(printable(line_of(self.status)), file=sys.stderr, flush=True)
            self._printed = now


def line_of(status: SweepStatus) -> str:
    """How far a sweep is, in a line."""
    left = status.trials - status.done - status.failed
    parts = [f"{status.done:,}/{count(status.trials, 'trial')} done", f"{status.failed:,} failed", f"{left:,} left"]
    if status.seconds_left is not None and left:
        parts.append(f"{duration(status.seconds_left)} left")
    best = f"; best so far {status.best[0][1]:.4f} ({status.best[0][0]})" if status.best else ""
    return f"sweep {status.sweep}: {', '.join(parts)}{best}"


def rendered(status: SweepStatus) -> Group:
    """How far a sweep is, as a table for a terminal."""
    table = Table(Column("best so far", overflow="fold"), box=box.SIMPLE)
    table.add_column(f"validation {status.metric.label}", justify="right", no_wrap=True)
    for label, mean in status.best:
        table.add_row(Text(printable(label)), f"{mean:.4f}")
    failures = [Text(printable(f"failed: {line}"), style="red") for line in status.lines[-SHOWN:]]
    return Group(*([table] if status.best else []), *failures, Text(printable(line_of(status))))


def watch(name: str, project: Project = Project()) -> Iterator[SweepStatus]:
    """How far a sweep is that another process runs: now, and each second until it ends.

    Raises:
        UserError: none has run yet.
    """
    lock = Lock(project.lock("sweep", name))
    while True:
        running = not lock.acquire()
        lock.release()
        try:
            status = SweepStatus.read(project.sweep_status(name), name)
        except UserError:
            if not running:
                raise
            # It is still checking its points.
            time.sleep(WRITTEN)
            continue
        yield status
        if not running:
            return
        time.sleep(WRITTEN)
