"""The engine of this machine: all items, in one process or in several that end with it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from pipeline.engines import engine
from pipeline.errors import UserError

from ..waiting import wait_until

ROOT = Path(__file__).parent.parent.parent


class Squares:
    """A worker that notes where it was made."""

    def __init__(self, folder: Path):
        (folder / f"{os.getpid()}").touch()

    def __call__(self, items: Iterable[int]) -> Iterator[int]:
        for item in items:
            if item == 13:
                raise UserError("no thirteen")
            yield item**2


@pytest.mark.parametrize("workers", [1, 2])
def test_every_item_is_done_by_workers_made_once_a_process(tmp_path: Path, workers: int):
    found = engine("local")(partial(Squares, tmp_path), range(12), workers)
    assert sorted(found) == [n**2 for n in range(12)]
    processes = {int(path.name) for path in tmp_path.iterdir()}
    assert processes == {os.getpid()} if workers == 1 else os.getpid() not in processes
    assert len(processes) <= workers


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_a_worker_is_the_callers(tmp_path: Path, workers: int):
    with pytest.raises(UserError, match="no thirteen"):
        list(engine("local")(partial(Squares, tmp_path), [1, 13], workers))


class Killed(Squares):
    """A worker that is killed at 13, as the system does when memory runs out."""

    def __call__(self, items: Iterable[int]) -> Iterator[int]:
        for item in items:
            if item == 13:
                os.kill(os.getpid(), signal.SIGKILL)
            yield item


def test_a_killed_worker_is_one_line_and_the_next_call_works(tmp_path: Path):
    with pytest.raises(UserError, match=r"was killed, .*; what was finished is kept; .*-S machine.workers=1\) and run"):
        list(engine("local")(partial(Killed, tmp_path), [1, 13], 2))
    assert sorted(engine("local")(partial(Killed, tmp_path), range(12), 2)) == list(range(12))


class Napping(Squares):
    """A worker that sleeps for a day at 13."""

    def __call__(self, items: Iterable[int]) -> Iterator[int]:
        for item in items:
            if item == 13:
                time.sleep(86_400)
            yield item


def test_closed_before_its_end_it_ends_the_workers(tmp_path: Path):
    with closing(engine("local")(partial(Napping, tmp_path), [1, 13], 2)) as results:
        assert next(results) == 1
    wait_until(lambda: not any(Path("/proc", path.name).exists() for path in tmp_path.iterdir()))


def test_a_second_call_has_workers_of_its_own(tmp_path: Path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        list(engine("local")(partial(Squares, tmp_path / name), range(4), 2))
        assert list((tmp_path / name).iterdir())


def test_an_engine_that_does_not_exist_is_refused():
    with pytest.raises(UserError, match=r"machine.engine: no 'locl' in pipeline/engines/ \(did you mean `local`\?\)"):
        engine("locl")


SLEEPER = """
import ctypes, os, time

class Sleeper:
    def __init__(self, folder, native):
        self.folder = folder
        # `PyDLL` does not let other threads of Python run meanwhile.
        self.sleep = ctypes.PyDLL(None).sleep if native else time.sleep
    def __call__(self, items):
        for item in items:
            (self.folder / str(os.getpid())).touch()
            self.sleep(86_400)
            yield item
"""
SCRIPT = """
import sys
from functools import partial
from pathlib import Path
from pipeline.engines import engine
from sleeper import Sleeper

list(engine("local")(partial(Sleeper, Path(sys.argv[1]), "native" in sys.argv), range(2), 2))
"""


@pytest.mark.parametrize(
    ("number", "send", "at_work"),
    [
        *((number, send, True) for number in (signal.SIGTERM, signal.SIGINT) for send in (os.kill, os.killpg)),
        (signal.SIGKILL, os.kill, True),
        (signal.SIGKILL, os.kill, False),
        (signal.SIGINT, os.killpg, False),
    ],
)
def test_no_process_is_left_when_the_parent_ends_however_it_ends(
    tmp_path: Path, number: signal.Signals, send: Callable[[int, int], None], at_work: bool
):
    """Ctrl-C in a terminal reaches the whole group, `kill` one process; workers may be only starting."""
    with sleeping(tmp_path) as parent:
        folder = tmp_path / "workers"
        wait_until(lambda: len(list(folder.iterdir()) if at_work else workers(parent.pid)) == 2, parent)
        assert len(alive(parent.pid)) > 2
        send(parent.pid, number)
    wait_until(lambda: not alive(parent.pid))
    tracebacks = (tmp_path / "said").read_text().count("Traceback")
    # The script's own, in which Ctrl-C ends it. A group that is killed as a whole says nothing of use.
    assert tracebacks == (number == signal.SIGINT)
    assert "resource_tracker" not in (tmp_path / "said").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="only the kernel can end them")
def test_workers_end_with_their_parent_while_native_code_keeps_python_from_running(tmp_path: Path):
    with sleeping(tmp_path, "native") as parent:
        wait_until(lambda: len(list((tmp_path / "workers").iterdir())) == 2, parent)
        parent.kill()
    wait_until(lambda: not alive(parent.pid))


@contextmanager
def sleeping(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose two workers sleep for a day; each has left a file in `workers` then."""
    (folder / "sleeper.py").write_text(SLEEPER)
    (folder / "workers").mkdir()
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{folder}"}
    command = [sys.executable, "-c", SCRIPT, str(folder / "workers"), *arguments]
    with (
        (folder / "said").open("w+") as said,
        subprocess.Popen(command, env=environment, start_new_session=True, stderr=said) as parent,
    ):
        yield parent


def workers(session: int) -> list[str]:
    """The workers of a session, from the moment they are started."""
    return [pid for pid in alive(session) if "LokyProcess" in command_line(pid)]


def command_line(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def alive(session: int) -> list[str]:
    """The processes of a session that have not ended: workers, and what loky starts next to them."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # After the name, which may hold anything: state, parent, group, session.
            state, _, _, of, *_ = stat.read_text().rpartition(")")[2].split()
            if int(of) == session and state != "Z":
                found.append(stat.parent.name)
    return found
