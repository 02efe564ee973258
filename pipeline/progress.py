"""Progress for people: a live line with rate and time left on a terminal, silence anywhere else."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} {task.fields['unit']}/s" if task.speed else "")


@contextmanager
def progress(what: str, total: int, unit: str, start: int = 0) -> Iterator[Callable[[int], None]]:
    """Show `what` going from `start` to `total`; yields a function that says how many more units are done.

    Writes to stderr, and only if that is a terminal, so that logs and pipes stay clean.
    """
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(bar_width=28), TextColumn("{task.completed:,}/{task.total:,}"),
        _Rate(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
        console=Console(stderr=True), disable=not sys.stderr.isatty(),
    )  # fmt: skip
    with bar:
        task = bar.add_task(what, total=total, completed=start, unit=unit)
        yield lambda done: bar.advance(task, done)
