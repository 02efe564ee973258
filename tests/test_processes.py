"""Child processes and Ctrl-C; `tests/engines/test_local.py` has whole processes."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.processes import made_by_forks, starting_children

from .running import nobody_left, session

BLOCKED = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"


def test_a_ctrl_c_while_children_start_arrives_after_that_and_is_not_lost_to_another_thread():
    ends, reached = threading.Event(), False
    other = threading.Thread(target=ends.wait)  # it does not block the signal
    other.start()
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt), starting_children():
            os.kill(os.getpid(), signal.SIGINT)
            ends.wait(0.1)
            reached = True
    finally:
        ends.set()
        other.join()
    assert reached
    assert signal.getsignal(signal.SIGINT) is before
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_children_never_see_it():
    with starting_children():
        inside = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True)
    after = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True)
    assert (inside.stdout, after.stdout) == ("True\n", "False\n")


def test_helpers_that_unblock_the_signal_are_started_before():
    def helper() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    with starting_children(helper):
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_another_thread_starts_children_as_it_is():
    found: list[bool] = []

    def start() -> None:
        with starting_children():
            found.append(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert found == [False]


def test_copies_make_items_in_order_know_what_this_process_knows_and_end_with_their_items():
    here = {os.getpid()}

    def make(number: int) -> tuple[int, int, bool]:
        return number * number, os.getpid(), signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])

    made = list(made_by_forks(make, range(7), 3))
    assert [square for square, _, _ in made] == [0, 1, 4, 9, 16, 25, 36]
    assert len({pid for _, pid, _ in made} - here) == 3
    assert all(deaf for _, _, deaf in made), "Ctrl-C is for their parent"
    assert list(made_by_forks(make, [], 2)) == [] and not multiprocessing.active_children()


def test_what_a_copy_or_the_items_raise_arrives_and_no_copy_is_left():
    def make(number: int) -> float:
        return 1 / number

    def items():
        yield 1
        raise UserError("no more")

    with pytest.raises(ZeroDivisionError):
        list(made_by_forks(make, [2, 1, 0, 1], 2))
    with pytest.raises(UserError, match="no more"):
        list(made_by_forks(make, items(), 2))
    left = made_by_forks(make, [1, 2, 3, 4], 2)
    assert next(left) == 1
    assert len(multiprocessing.active_children()) == 2
    left.close()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("when", ["at work", "idle"])
def test_a_copy_that_is_killed_is_an_error_of_one_line(when: str):
    def make(number: int) -> int:
        if when == "at work" and number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return os.getpid()

    def items():
        yield 0
        yield 1
        for child in multiprocessing.active_children() if when == "idle" else ():
            os.kill(child.pid or 0, signal.SIGKILL)
            child.join()
        yield from range(2, 9)

    with pytest.raises(UserError, match="was killed, perhaps for its memory; run it again"):
        list(made_by_forks(make, items(), 2))


ASLEEP = """
import os, time
from pipeline.processes import made_by_forks

def make(number):
    print(os.getpid(), flush=True)
    time.sleep(600)

list(made_by_forks(make, range(4), 2))
"""


def test_copies_that_are_at_work_end_with_a_parent_that_is_killed():
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-c", ASLEEP]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, start_new_session=True) as parent:
        assert parent.stdout is not None
        copies = {int(parent.stdout.readline()) for _ in range(2)}
        assert copies < set(session(parent.pid))
        parent.kill()
        nobody_left(parent.pid)
