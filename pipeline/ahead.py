"""Items that are made by threads while those before them are used."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


@contextmanager
def ahead(items: Iterator[Item]) -> Iterator[Iterator[Item]]:
    """The items in their order, one of them made ahead. An exception is raised where its item would be.

    On leaving, the thread has ended, and at most one item that was made is dropped.
    """
    with ThreadPoolExecutor(1) as pool:

        def made() -> Iterator[Item]:
            following = pool.submit(next, items, _END)
            while (item := following.result()) is not _END:
                following = pool.submit(next, items, _END)
                yield item  # type: ignore[misc]

        yield made()


def mapped(make: Callable[[Item], Made], items: Iterable[Item], at_once: int) -> Iterator[Made]:
    """What is made of each item, in the order of the items; as many as `at_once` are made ahead, by a thread each.

    One more item waits for its turn, so that a thread that ends before another finds work.

    An exception, also of `items`, is raised where its result would be. With 1, everything is made when it is due, in
    the caller's thread.
    """
    if at_once == 1:
        yield from map(make, items)
        return
    coming: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(at_once) as pool:
        try:
            for future in _submitted(pool, make, items):
                coming.append(future)
                if len(coming) > at_once:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _submitted(pool: ThreadPoolExecutor, make: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Future[Made]]:
    """A future for each item, the last one for an exception of `items`, so that it waits for its turn."""
    try:
        for item in items:
            yield pool.submit(make, item)
    except Exception as error:
        failed: Future[Made] = Future()
        failed.set_exception(error)
        yield failed


_END = object()
