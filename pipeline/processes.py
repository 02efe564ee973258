"""Child processes that end with their parent, however it ends."""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any, TypeVar

from pipeline.errors import UserError

Item = TypeVar("Item")
Made = TypeVar("Made")

PAUSE = 0.5
"""Seconds between two checks that the parent process is still there."""

PR_SET_PDEATHSIG = 1
"""Of `prctl`: the signal that the kernel sends when the parent ends."""

QUIET = "ignore:resource_tracker:UserWarning"
"""An option of Python for the processes that it starts."""

_WATCHED: set[int] = set()


def as_parent() -> tuple[int, bool]:
    """This process, as `end_with` takes it: its id, and whether the calling thread lives as long as the process."""
    return os.getpid(), threading.current_thread() is threading.main_thread()


def end_with(parent: int, started_by_main: bool) -> None:
    """End this process with its parent: a parent that is killed cannot end its children.

    Linux does it at once, also while native code keeps Python from running. What it waits for is the thread that
    started this process: where that may end earlier, and on other systems, this process looks from time to time.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PAUSE)
        os._exit(1)

    if parent not in _WATCHED:
        _WATCHED.add(parent)
        if started_by_main and sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        threading.Thread(target=watch, daemon=True, name="aft-parent").start()


@contextmanager
def starting_children(*helpers: Callable[[], object]) -> Iterator[None]:
    """Processes that are started inside never see Ctrl-C, which a terminal sends to them too; this process ends them.

    A child that is still starting would print a traceback. A Ctrl-C that comes inside reaches this process at the end.
    After a kill, Python's own helpers remove what is left in shared memory, and do not warn that they had to.

    Args:
        helpers: start other helpers, such as loky's, if they do not run yet.
    """
    if QUIET not in sys.warnoptions:
        sys.warnoptions.append(QUIET)
    before = signal.getsignal(signal.SIGINT)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield
        return
    # They protect themselves, but some unblock the signal in this process once they run.
    for start in (resource_tracker.ensure_running, *helpers):
        start()
    seen: list[tuple[int, FrameType | None]] = []
    # The children inherit what is blocked. It must not be ignored here as well: other threads do not block it, and one
    # of them would take a signal to this process and drop it.
    signal.signal(signal.SIGINT, lambda number, frame: seen.append((number, frame)))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)  # one that waits is seen here
        signal.signal(signal.SIGINT, before)
        if seen:
            before(*seen[0])


def made_by_forks(make: Callable[[Item], Made], items: Iterable[Item], count: int) -> Generator[Made]:
    """What is made of each item, in their order, by copies of this process.

    A copy knows what this process knows, and starts at once. It has none of its threads, so `make` must not wait for
    one: Python and numpy may be used, and torch for nothing that it computes. Each copy has one item at a time.

    Args:
        make: its results and exceptions are sent back.
        items: are sent to the copies.
        count: of copies.

    Raises:
        UserError: a copy was killed.
    """
    context = multiprocessing.get_context("fork")
    copies: list[Any] = []
    idle, busy = deque[Connection](), deque[Connection]()
    try:
        with starting_children(), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which no copy waits for
            for _ in range(count):
                here, there = context.Pipe()
                copies.append(context.Process(target=_serve, args=(make, there, *as_parent()), daemon=True))
                copies[-1].start()
                there.close()  # or the end of the copy would not be seen here
                idle.append(here)
        for item in items:
            if idle:
                copy, made = idle.popleft(), []
            else:
                copy = busy.popleft()
                made = [_received(copy)]
            _send(copy, item)
            busy.append(copy)
            yield from made
        while busy:
            yield _received(busy.popleft())
    finally:
        for process in copies:
            process.kill()
            process.join()


def _serve(make: Callable[[Item], Made], parent: Connection, *identity: Any) -> None:
    """Make what the parent asks for, until it ends."""
    end_with(*identity)
    while True:
        item = parent.recv()
        try:
            found: tuple[Any, Exception | None] = make(item), None
        except Exception as error:
            found = None, error
        parent.send(found)


def _send(copy: Connection, item: Any) -> None:
    try:
        copy.send(item)
    except OSError:
        raise _killed() from None


def _received(copy: Connection) -> Any:
    """What a copy has made. Raises what it has raised."""
    try:
        made, error = copy.recv()
    except (EOFError, OSError):
        raise _killed() from None
    if error is not None:
        raise error
    return made


def _killed() -> UserError:
    return UserError("a process that this one had started was killed, perhaps for its memory; run it again")
