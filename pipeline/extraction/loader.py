"""Reading, preprocessing and batching of rows in threads, ahead of a teacher."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import chain, groupby, islice
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from pipeline.data import Dataset
from pipeline.errors import UserError
from pipeline.store import Shard
from pipeline.teachers import Teacher
from pipeline.views import Views

T = TypeVar("T")

CHUNK = 1024
"""Rows whose lengths are found by one task, where rows are sorted by length."""

Batch = tuple[np.ndarray, Mapping[str, Tensor]]
"""Places of rows among those of their shard, and the rows as the teacher's `forward` takes them."""


class Loader:
    """Reads, preprocesses and batches rows in threads, ahead of the model.

    Rows of uneven length are sorted by it within their shard, so that little of a batch is padding; the longest come
    first, so that a batch too large for the memory fails at once.
    """

    def __init__(
        self,
        data: Dataset,
        teacher: Teacher,
        batch_size: int,
        workers: int | None = None,
        views: Views | None = None,
    ):
        self.data = data
        self.teacher = teacher
        self.views = views
        self.batch_size = batch_size
        self.workers = workers or min(16, torch.get_num_threads())
        self.on_gpu = teacher.device.type == "cuda"
        self.pool = ThreadPoolExecutor(self.workers, thread_name_prefix="aft-read")
        # Sorted batches have a thread of their own: in the pool they would queue behind the reading of the next shard.
        self.batcher = self.pool if teacher.uniform else ThreadPoolExecutor(1, thread_name_prefix="aft-batch")

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: object) -> None:
        self.batcher.shutdown(cancel_futures=True)
        self.pool.shutdown(cancel_futures=True)

    def shards(self, shards: Iterable[Shard], view: int = 0) -> Iterator[tuple[Shard, Iterator[Batch]]]:
        """Each shard with its batches, which must be used up before the next shard is asked for.

        Shards are taken from the iterable only a little before their turn, because taking one claims it.

        Args:
            shards: of the store.
            view: the number of the view of their rows.
        """
        tasks = self._in_order(shards, view) if self.teacher.uniform else self._by_cost(shards, view)
        for _, group in groupby(self._ahead(tasks), key=lambda item: item[0].index):
            first = next(group)
            yield first[0], ((places, batch) for _, places, batch in chain([first], group))

    def _in_order(self, shards: Iterable[Shard], view: int) -> Iterator[tuple[Shard, np.ndarray, Callable[[], Any]]]:
        for shard in shards:
            for places in slices(np.arange(len(shard.rows)), self.batch_size):
                yield shard, places, partial(self._load, shard.rows[places], view)

    def _by_cost(self, shards: Iterable[Shard], view: int) -> Iterator[tuple[Shard, np.ndarray, Callable[[], Any]]]:
        def reading() -> Iterator[tuple[Shard, list[Future[list[Any]]]]]:
            for shard in shards:
                yield shard, [self.pool.submit(self._read, rows, view) for rows in slices(shard.rows, CHUNK)]

        for shard, chunks in _one_ahead(reading()):
            examples = [example for chunk in chunks for example in chunk.result()]
            costs = np.array([self.teacher.cost(example) for example in examples])
            for places in slices(np.argsort(-costs, kind="stable"), self.batch_size):
                yield shard, places, partial(self._collate, [examples[place] for place in places])

    def _ahead(
        self, tasks: Iterable[tuple[Shard, np.ndarray, Callable[[], Any]]]
    ) -> Iterator[tuple[Shard, np.ndarray, Mapping[str, Tensor]]]:
        """Batches in order, while the next few are under way."""
        pending: deque[tuple[Shard, np.ndarray, Future[Any]]] = deque()
        for shard, places, task in tasks:
            pending.append((shard, places, self.batcher.submit(task)))
            if len(pending) > self.workers + 1:
                shard, places, batch = pending.popleft()
                yield shard, places, batch.result()
        for shard, places, batch in pending:
            yield shard, places, batch.result()

    def _read(self, rows: np.ndarray, view: int) -> list[Any]:
        examples = []
        by_id = self.teacher.kind == "id"
        contents: Iterable[Any] = rows if view else self.data.ids[rows].tolist() if by_id else self.data.content(rows)
        for row, content in zip(rows, contents, strict=True):
            try:
                seen = self.views.content(self.data, int(row), view) if self.views and view else content
                examples.append(self.teacher.transform(seen))
            except ValueError as error:
                which = f"view {view} of row" if view else "row"
                raise UserError(f"{self.data.path}: {which} {self.data.ids[row]} cannot be read: {error}") from None
        return examples

    def _collate(self, examples: Sequence[Any]) -> Mapping[str, Tensor]:
        batch = self.teacher.collate(examples)
        return {key: tensor.pin_memory() for key, tensor in batch.items()} if self.on_gpu else batch

    def _load(self, rows: np.ndarray, view: int) -> Mapping[str, Tensor]:
        return self._collate(self._read(rows, view))


def slices(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """Consecutive parts of `size` rows, the last one of what is left."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _one_ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, each after its successor was asked for."""
    ahead = list(islice(items, 1))
    for item in items:
        yield ahead.pop()
        ahead.append(item)
    yield from ahead
