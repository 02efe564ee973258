"""Progress for people: a live line on a terminal, a plain line now and then in a log."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.table import Column
from rich.text import Text

from pipeline.terminal import draws

EVERY = 10.0
"""Seconds between two lines in a log. Shorter work prints none."""

WIDE = 140
"""The columns of a terminal that have room for a bar and a note."""

NARROW = 72
"""With fewer, there is room for what is done and the time that is left."""


@runtime_checkable
class Advance(Protocol):
    """Adds finished units to a progress; the note is shown after the rate."""

    def __call__(self, done: int, note: str = "") -> None: ...


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{_rate(task.speed)} {task.fields['unit']}/s" if task.speed else "")


class _Bar(ProgressColumn):
    def __init__(self, narrow: bool):
        super().__init__()
        self._bar, self._narrow = BarColumn(bar_width=28), narrow

    def render(self, task: Task) -> ProgressBar | Text:
        return Text() if self._narrow and task.fields["note"] else self._bar.render(task)


class _Done(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(_of(int(task.completed), None if task.total is None else int(task.total)))


@contextmanager
def progress(what: str, total: int | None, unit: str, start: int = 0) -> Iterator[Advance]:
    """Show the progress of `what` from `start` to `total`; yields a function that adds finished units.

    With an unknown total, None, no remaining time is shown. The function also takes a note, which is shown until the
    next one.

    Writes to stderr: a bar with rate and remaining time on a terminal; otherwise, as for a pipe or a file, a line with
    the same every ten seconds.
    """
    if not draws(sys.stderr):
        yield _lines(what, total, unit, start)
        return
    console, whole = Console(stderr=True), Column(no_wrap=True)  # words wrap where there is no room, numbers never do
    note = TextColumn("{task.fields[note]}", table_column=Column(overflow="fold"))
    left = TextColumn("left", table_column=whole), TimeRemainingColumn(table_column=whole)
    columns: list[ProgressColumn] = [
        TextColumn("{task.description}", table_column=whole), _Bar(console.width < WIDE), _Done(whole), _Rate(whole),
        note, TimeElapsedColumn(whole), *left,
    ]  # fmt: skip
    if console.width < NARROW:
        columns = [TextColumn("{task.description}", table_column=Column(overflow="fold")), _Done(whole), note, *left]
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(what, total=total, completed=start, unit=unit, note="")

        def advance(done: int, note: str = "") -> None:
            bar.update(task, advance=done, note=note)

        yield advance


def _lines(what: str, total: int | None, unit: str, start: int) -> Advance:
    began = printed = monotonic()
    completed = start

    def advance(done: int, note: str = "") -> None:
        nonlocal completed, printed
        completed += done
        now = monotonic()
        if now - printed >= EVERY and completed > start:
            rate = (completed - start) / (now - began)
            left = "" if total is None else f", {duration((total - completed) / rate)} left"
            shown = f" ({note})" if note else ""
            print(f"{what}: {_of(completed, total)}, {_rate(rate)} {unit}/s{shown}{left}", file=sys.stderr, flush=True)
            printed = now

    return advance


def _of(completed: int, total: int | None) -> str:
    return f"{completed:,}" if total is None else f"{completed:,}/{total:,}"


def _rate(speed: float) -> str:
    return f"{speed:,.0f}" if speed >= 10 else f"{speed:.2g}"


def duration(seconds: float) -> str:
    """Seconds as text: `48 s`, `12 min`, `3 h 05 min`."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
