"""This machine: worker processes, or the calling process where there is one worker."""

import pickle
from collections.abc import Callable, Generator, Iterable
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from typing import Any, TypeVar
from uuid import uuid4

from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky.backend import resource_tracker as loky_tracker

from pipeline.engines import Worker
from pipeline.errors import UserError
from pipeline.machine import Machine, cores
from pipeline.processes import as_parent, end_with, starting_children

Item = TypeVar("Item")
Result = TypeVar("Result")


def map(
    make_worker: Callable[[], Worker[Item, Result]],
    items: Iterable[Item],
    workers: int = 1,
    machine: Machine = Machine(),
    say: Callable[[str], None] = lambda line: None,
) -> Generator[Result]:
    """Run all items; see `pipeline.engines`. The worker processes share the cores, and end when this process ends.

    Raises:
        UserError: a worker process was killed, as the system does when memory runs out.
    """
    if workers == 1:
        yield from make_worker()(items)
        return
    # loky rather than multiprocessing: it does not import the caller's script again, guarded or not. Its processes
    # outlive this call and are used again by the next, so torch is imported once in each.
    threads = max(1, cores() // workers)
    with parallel_config("loky", inner_max_num_threads=threads, initializer=end_with, initargs=as_parent()):
        pool = Parallel(n_jobs=workers, return_as="generator_unordered")
        # Pickled once: unpickling may open files, which a worker process should do for its first item only.
        call, maker = uuid4().hex, pickle.dumps(make_worker)
        done = None
        try:
            with starting_children(loky_tracker.ensure_running):
                done = pool(delayed(_work)(call, maker, item) for item in items)
            for results in done:
                yield from results
        except (KeyboardInterrupt, GeneratorExit):
            if done is not None:  # told so, it ends the workers; it only raises if it has ended
                with suppress(KeyboardInterrupt):
                    done.throw(KeyboardInterrupt())
            raise
        except BrokenProcessPool:
            raise UserError(
                f"one of {workers} worker processes was killed, likely because memory ran out; what was finished is "
                f"kept; lower machine.workers (such as -S machine.workers={workers // 2}) and run it again"
            ) from None


_WORKERS: dict[str, Any] = {}
"""In a worker process: the worker of the current call of `map`."""


def _work(call: str, maker: bytes, item: Any) -> list[Any]:
    """One item in a worker process, which makes its worker for the first item and keeps it for the rest."""
    if call not in _WORKERS:
        # The worker of an earlier call: files that it opened may have changed since.
        _WORKERS.clear()
        _WORKERS[call] = pickle.loads(maker)()
    return list(_WORKERS[call]([item]))
