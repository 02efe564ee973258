"""This machine: worker processes, or the calling process where there is one worker."""

import os
import pickle
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar
from uuid import uuid4

from joblib import Parallel, delayed, parallel_config

from pipeline.engines import Worker
from pipeline.errors import UserError
from pipeline.machine import cores

Item = TypeVar("Item")
Result = TypeVar("Result")

PAUSE = 0.5
"""Seconds between two checks that the parent process is still there."""


def map(make_worker: Callable[[], Worker[Item, Result]], items: Iterable[Item], workers: int = 1) -> Iterator[Result]:
    """Run all items; see `pipeline.engines`. The worker processes share the cores, and end when this process ends.

    Raises:
        UserError: a worker process was killed, as the system does when memory runs out.
    """
    if workers == 1:
        yield from make_worker()(items)
        return
    # loky rather than multiprocessing: it does not import the caller's script again, guarded or not. Its processes
    # outlive this call and are used again by the next, so torch is imported once in each.
    with parallel_config("loky", inner_max_num_threads=max(1, cores() // workers)):
        pool = Parallel(n_jobs=workers, return_as="generator_unordered")
        # Pickled once: unpickling may open files, which a worker process should do for its first item only.
        call, maker = uuid4().hex, pickle.dumps(make_worker)
        try:
            for results in pool(delayed(_work)(os.getpid(), call, maker, item) for item in items):
                yield from results
        except BrokenProcessPool:
            raise UserError(
                f"one of {workers} worker processes was killed, likely because memory ran out; what was finished is "
                f"kept; lower machine.workers (such as -S machine.workers={workers // 2}) and run it again"
            ) from None


_WORKERS: dict[str, Any] = {}
"""In a worker process: the worker of the current call of `map`."""


def _work(parent: int, call: str, maker: bytes, item: Any) -> list[Any]:
    """One item in a worker process, which makes its worker for the first item and keeps it for the rest."""
    _end_with(parent)
    if call not in _WORKERS:
        # The worker of an earlier call: files that it opened may have changed since.
        _WORKERS.clear()
        _WORKERS[call] = pickle.loads(maker)()
    return list(_WORKERS[call]([item]))


_WATCHES: set[int] = set()


def _end_with(parent: int) -> None:
    """End this process soon after its parent, whatever ended that: a killed parent cannot tell its children."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PAUSE)
        os._exit(1)

    if parent not in _WATCHES:
        _WATCHES.add(parent)
        threading.Thread(target=watch, daemon=True, name="aft-parent").start()
