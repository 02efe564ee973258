"""Copies of this process that share work: their order, their errors, and their ends."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.forks import can_fork, in_turns

from .running import nobody_left, session


def test_one_item_of_each_copy_in_turn_until_one_has_no_more():
    def make(number: int) -> Iterator[tuple[int, int, bool]]:
        for item in range(number, 7, 3):
            yield item, os.getpid(), signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])

    with in_turns(make, 3) as found:
        made = list(found)
    assert [item for item, _, _ in made] == list(range(7))
    assert len({pid for _, pid, _ in made} - {os.getpid()}) == 3
    assert all(deaf for _, _, deaf in made), "Ctrl-C is for their parent"
    assert not multiprocessing.active_children()


def test_what_a_copy_raises_is_raised_where_its_item_would_be():
    def make(number: int) -> Iterator[int]:
        yield number
        if number == 1:
            raise UserError("line 9 is odd")
        yield number + 2

    with in_turns(make, 2) as found:
        assert [next(found), next(found), next(found)] == [0, 1, 2]
        with pytest.raises(UserError, match="line 9 is odd"):
            next(found)
    assert not multiprocessing.active_children()


def test_copies_that_have_more_to_give_end_with_the_block():
    with in_turns(count, 2) as found:
        assert [next(found), next(found)] == [0, 1]
        assert len(multiprocessing.active_children()) == 2
    assert not multiprocessing.active_children()


def test_a_copy_that_is_killed_is_an_error_of_one_line():
    def make(number: int) -> Iterator[int]:
        yield number
        if number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        yield number

    line = "was killed, perhaps for its memory; close other programs, and run again"
    with pytest.raises(UserError, match=line), in_turns(make, 2) as found:
        list(found)


AT_WORK = """
import os, time
from pipeline.forks import in_turns

def make(number):
    yield os.getpid()
    time.sleep(600)

with in_turns(make, 2) as found:
    for pid in found:
        print(pid, flush=True)
"""


def test_copies_that_are_at_work_end_with_a_parent_that_is_killed():
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-c", AT_WORK]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, start_new_session=True) as parent:
        assert parent.stdout is not None
        copies = {int(parent.stdout.readline()) for _ in range(2)}
        assert copies < set(session(parent.pid))
        parent.kill()
        nobody_left(parent.pid)


def test_a_process_with_threads_is_not_copied():
    ends = threading.Event()
    other = threading.Thread(target=ends.wait)
    other.start()
    assert not can_fork()
    ends.set()
    other.join()
