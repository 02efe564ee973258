"""Where work runs, one file per engine: `machine.engine: local` is `local.py`.

An engine offers one function,

    map(make_worker, items, workers, machine=Machine(), say=...) -> Generator of results

which hands out all items, each to one worker, and yields what the workers yield, in any order. Closed before its end,
as by `contextlib.closing` after Ctrl-C, it ends the workers.

- `make_worker()` makes a worker, once for each process. It is called in that process and must be picklable, so it
  carries paths and settings, not open files.
- A worker is a function of an iterable of items that yields results. It may read ahead in the items, so an engine
  passes as many of them to one call as it can.
- Results only show progress. Markers on disk decide what is done: a worker may be lost, restarted, or given an
  item that is already done, and nothing is lost or done twice. Between two calls a worker holds no locks, so that it
  may be ended then.
- `workers` is how many work at the same time; None leaves it to an engine that finds out while it runs.
- `machine` has the engine's own settings, and the number of threads and the device of each worker.
- `say` takes lines for the user about workers that come and go.

Extraction (items are shards) and training (items are trials) both run through an engine.
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, TypeVar

from pipeline.params import plugin

Item = TypeVar("Item")
Result = TypeVar("Result")

Worker = Callable[[Iterable[Item]], Iterator[Result]]


Map = Callable[..., Generator[Any]]
"""The function of an engine; see the module."""


def engine(name: str) -> Map:
    """The engine in `pipeline/engines/<name>.py`.

    Raises:
        UserError: there is no engine of this name.
    """
    found: Map = plugin("engines", name, "machine.engine").map
    return found


__all__ = ["Map", "Worker", "engine"]
