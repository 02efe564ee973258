"""Items that are made by a thread while those before them are used."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")


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


_END = object()
