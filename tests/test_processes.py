"""Child processes and Ctrl-C; `tests/engines/test_local.py` has whole processes."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from pipeline.processes import starting_children

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
