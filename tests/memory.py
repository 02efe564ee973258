"""A limit on memory: what a file of kilobytes claims must not be allocated. And what a row takes of it."""

import gc
import resource
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def at_most(more: int) -> Iterator[None]:
    """Inside, this process may map so many bytes more than it does now."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def bytes_a_row(action: Callable[[int], object], few: int, many: int) -> float:
    """How much the peak of an action's objects and arrays grows with a row.

    Counted by Python, so neither what else the process holds nor how busy the machine is makes a difference.

    Args:
        action: takes the number of rows.
        few, many: two numbers of rows.
    """
    action(few)  # what is made once, such as imports
    peaks = []
    for rows in (few, many):
        gc.collect()
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            action(rows)
            peaks.append(tracemalloc.get_traced_memory()[1] - before)
        finally:
            tracemalloc.stop()
    return (peaks[1] - peaks[0]) / (many - few)
