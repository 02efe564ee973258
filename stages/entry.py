"""The entry point of commands: how a process starts, and how it ends after an error or Ctrl-C."""

import atexit
import gc
import os
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import typer

from pipeline.errors import UserError, behind
from pipeline.verified import NO_VERIFY
from stages.command import refuse, say
from stages.overrides import Command

INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells have it."""

KEPT = {
    "extract": "finished shards",
    "features import": "finished shards",
    "run": "finished stages, shards and trainings",
    "sweep": "finished trainings and the last checkpoints",
    "train": "finished trainings and the last checkpoints",
}
"""What a command keeps when it is interrupted; the others keep nothing, and change nothing."""

USAGE: type[Any] = typer.BadParameter.__mro__[1]
"""`UsageError`, which typer does not name: a command line that cannot be parsed."""


def run(app: Callable[..., Any], name: str | None = None) -> None:
    """Run a command line. An error that the user can fix becomes one line and exit code 2.

    These are `UserError`s, and all errors of the operating system, which are only handled here. `--debug` keeps the
    traceback. `--no-verify` skips the comparison with checksums, in this process and its children.

    Args:
        app: the commands.
        name: of the program in its help; the name of its file if None.
    """
    # Between two operations, GNU OpenMP's threads spin for milliseconds. With a core short, because others use the
    # machine or because rows are read alongside the model, they spin against each other: texts took 10 times as long on
    # two busy cores. Spinning for microseconds is as fast on idle ones. To be set before torch is imported.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # At its end Python looks for unused objects among all that torch and others have made, for a second or more.
    atexit.register(gc.freeze)
    typed = [name or Path(sys.argv[0]).name, *sys.argv[1:]]
    debug = "--debug" in sys.argv
    if "--no-verify" in sys.argv:
        os.environ[NO_VERIFY] = "1"
    sys.argv = [argument for argument in sys.argv if argument not in ("--debug", "--no-verify")]
    with _interrupts() as interrupts:
        try:
            try:
                code = app(prog_name=name, standalone_mode=False)
            finally:
                sys.stdout.flush()  # a full disk behind it shows here, and not while Python ends
            sys.exit(code or 0)
        except BaseException as error:
            # typer turns a `KeyboardInterrupt` into an exit code. Others catch it, as imports do, and raise errors.
            code = error.code if isinstance(error, SystemExit) else 1
            if isinstance(error, KeyboardInterrupt) or code == INTERRUPTED or (interrupts and code):
                _end_interrupted(typed, debug)
            _end(error, debug)
            raise


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Inside, each Ctrl-C is added to the list, and raises `KeyboardInterrupt`, or does more where that was set."""
    seen: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    raised = signal.default_int_handler if before is signal.SIG_DFL else before

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        if callable(raised):
            raised(number, frame)

    if not callable(raised) or threading.current_thread() is not threading.main_thread():
        yield seen
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)


def _end_interrupted(typed: list[str], debug: bool) -> NoReturn:
    """End after Ctrl-C; say what is kept, and how to go on."""
    if debug:
        traceback.print_exc()
    words = " ".join(typed[1:])
    kept = [what for command, what in KEPT.items() if f"{words} ".startswith(f"{command} ")]
    found = f"{kept[0]} are kept, other results are as before" if kept else "results are as before"
    say(f"interrupted; {found}; run `{shlex.join(typed)}` {'to continue' if kept else 'again'}")
    # Python ends by SIGINT, whatever the exit code, if the interrupt came through an `exec` of a string, as while
    # dataclasses are imported. The next such `exec` clears that.
    exec("")
    sys.exit(INTERRUPTED)


def _end(error: BaseException, debug: bool) -> None:
    """End in one line if the user can fix the error. Returns if it is another one, or with `--debug`."""
    if isinstance(error, BrokenPipeError):  # the reader has closed the pipe, as with `| head`
        _close_stdout()
        sys.exit(1)
    if isinstance(error, USAGE):
        if type(error).__name__ == "NoArgsIsHelpError":
            say(error.format_message())
        else:
            refuse(UserError(_usage(error)))
        sys.exit(2)
    if debug:
        return
    # torch's, which is not imported: on a GPU an error of its own, on a CPU one that names the allocator.
    torchs = type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error)
    if isinstance(error, MemoryError) or torchs:
        error = UserError("not enough memory; close other programs, or lower machine.workers and the batch size")
    error = behind(error) or error
    # An OSError without a number is not from the operating system: a download that failed, say.
    if isinstance(error, UserError) or (isinstance(error, OSError) and error.errno):
        _close_stdout()
        refuse(error)
        sys.exit(2)


def _usage(error: Any) -> str:
    """What is wrong with a command line, in the words of typer: `aft train: missing argument 'RUN'; see ...`."""
    command = error.ctx.command_path if error.ctx else "aft"
    message = error.format_message().replace("Value error, ", "").rstrip(".")
    return f"{command}: {message[:1].lower()}{message[1:]}; see `{command} --help`"


def _close_stdout() -> None:
    """Leave nothing for Python to write when it ends, if it would fail again, with a traceback."""
    try:
        sys.stdout.flush()
    except OSError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def single(main: Any) -> None:
    """Run one stage as `python -m stages.NAME`."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(Path(sys.argv[0]).stem, cls=Command)(main)
    run(app)
