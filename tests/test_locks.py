"""Locks that end with their holder."""

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

from pipeline.locks import Lock


def test_one_at_a_time_holds_a_lock_alone_and_many_share_it(tmp_path: Path):
    first, second, third = (Lock(tmp_path / "locks" / "a") for _ in range(3))
    assert first.acquire()
    assert not second.acquire() and not second.acquire(exclusive=False)
    assert str(os.getpid()) in second.owner()
    assert first.acquire(exclusive=False)
    assert second.acquire(exclusive=False) and not third.acquire()
    first.release()
    second.release()
    assert third.acquire()
    third.release()


def test_a_lock_on_a_deleted_file_protects_nothing_and_is_taken_anew(tmp_path: Path):
    first, second = Lock(tmp_path / "a"), Lock(tmp_path / "a")
    assert first.acquire()
    (tmp_path / "a").unlink()
    assert second.acquire()
    assert not Lock(tmp_path / "a").acquire()
    first.release()
    second.release()


def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path: Path):
    code = (
        "import sys\nfrom pathlib import Path\nfrom pipeline.locks import Lock\n"
        "lock = Lock(Path(sys.argv[1])); print(lock.acquire(), flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "a")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "True\n"
    lock = Lock(tmp_path / "a")
    assert not lock.acquire()
    assert lock.owner().startswith(f"process {holder.pid} on ")
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert lock.acquire()
    lock.release()


def _try_often(path: Path, log: Path) -> None:
    for _ in range(60):
        lock = Lock(path)
        if lock.acquire(patience=float("inf")):
            with log.open("a") as file:
                file.write("in\n")
                file.flush()
                file.write("out\n")
            path.unlink()
            lock.release()


def test_no_two_processes_are_ever_inside_even_if_the_file_is_deleted_each_time(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_try_often, args=(tmp_path / "a", tmp_path / "log")) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert (tmp_path / "log").read_text() == "in\nout\n" * 180
