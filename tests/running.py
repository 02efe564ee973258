"""Commands in processes of their own, forked where everything is imported: a new process would import for seconds."""

import atexit
import multiprocessing
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

import cli

LONG = 600.0
"""Seconds that a busy machine may need to begin, or to end."""

# In a server of its own, which has no threads of earlier tests: a copy of a process with threads may hang.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.torture.__main__", "tests.running"])


def nothing() -> None:
    """Done in a command's process before the command, if nothing else is."""


def start(line: str, folder: Path, said: Path, before: Callable[[], None] = nothing) -> BaseProcess:
    """Start `aft LINE` in a folder, in a session of its own, as a terminal does.

    Args:
        line: the command, without `aft`.
        folder: of the project.
        said: the file for what it prints to stderr.
        before: called in its process first; it is pickled.
    """
    process = FORKS.Process(target=_aft, args=(line, folder, said, dict(os.environ), before))
    process.start()
    return process


def session(leader: int | None) -> list[int]:
    """The processes of a session that are at work."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, of, *_ = path.read_text().rpartition(")")[2].split()
            if int(of) == leader and state != "Z":
                found.append(int(path.parent.name))
    return found


def nobody_left(leader: int | None) -> None:
    """Wait until no process of a session is at work."""
    deadline = time.monotonic() + LONG
    while left := session(leader):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def _aft(line: str, folder: Path, said: Path, environment: dict[str, str], before: Callable[[], None]) -> None:
    os.setsid()
    for number in (signal.SIGINT, signal.SIGHUP):  # a parent that ignores one, as `nohup` does, hands that down
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), 2)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # as the environment has it
    os.chdir(folder)
    sys.argv = ["aft", *shlex.split(line)]
    before()
    try:
        cli.main()
    finally:
        atexit._run_exitfuncs()  # as at the end of any process; multiprocessing leaves them out
