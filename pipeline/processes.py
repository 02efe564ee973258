"""Child processes that end with their parent, however it ends."""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType

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
