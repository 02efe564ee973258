"""Work that Python cannot share between threads, shared by copies of this process."""

import multiprocessing
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import cycle
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from pipeline.errors import UserError
from pipeline.processes import as_parent, end_with, starting_children

Made = TypeVar("Made")


def can_fork() -> bool:
    """Whether a copy of this process works: it has none of the other threads, and would wait for their locks."""
    return sys.platform == "linux" and threading.active_count() == 1


@contextmanager
def in_turns(make: Callable[[int], Iterable[Made]], count: int) -> Iterator[Iterator[Made]]:
    """What copies of this process make, one item of each in turn, until one has no more; on leaving, they have ended.

    A copy knows what this process knows and starts at once. It runs ahead as far as a pipe holds what it makes.

    Args:
        make: called in each copy with its number, from 0. What it raises is raised where its item would be.
        count: of copies.

    Raises:
        UserError: a copy was killed.
    """
    fork = multiprocessing.get_context("fork")
    copies: list[tuple[Any, Connection]] = []
    try:
        with starting_children(), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which are native and idle
            for number in range(count):
                here, there = fork.Pipe(duplex=False)
                process = fork.Process(target=_copy, args=(make, number, there, *as_parent()), daemon=True)
                process.start()
                copies.append((process, here))
                there.close()  # or the end of the copy would not be seen here
        yield _received([here for _, here in copies])
    finally:
        for process, here in copies:
            process.kill()
            process.join()
            here.close()


def _copy(make: Callable[[int], Iterable[Any]], number: int, parent: Connection, *identity: Any) -> None:
    end_with(*identity)
    with suppress(BrokenPipeError):  # nobody asks any more
        try:
            for item in make(number):
                parent.send(("item", item))
            parent.send(("end", None))
        except Exception as error:
            parent.send(("error", error))


def _received(copies: list[Connection]) -> Iterator[Any]:
    for copy in cycle(copies):
        try:
            what, found = copy.recv()
        except EOFError:
            raise UserError(
                "a process that shared the work was killed, perhaps for its memory; close other programs, and run again"
            ) from None
        if what == "error":
            raise found
        if what == "end":
            return
        yield found
