"""What an extraction waits for: rows, and the model."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any, Generic, TypeVar

import torch

Item = TypeVar("Item")


class Waiting(Generic[Item]):
    """Items, and the seconds for which one was waited for."""

    def __init__(self, items: Iterator[Item]):
        self._items = items
        self._seconds = 0.0

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        began = perf_counter()
        try:
            return next(self._items)
        finally:
            self._seconds += perf_counter() - began

    def seconds(self) -> float:
        """Since the last time."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds


class ModelClock:
    """Seconds that a model computes, by the clock of its device: on a GPU nothing waits for it.

    Args:
        device: of the model.
        at_once: how many batches it computes at once; of each second, that many are one.
    """

    def __init__(self, device: torch.device, at_once: int):
        self.on_gpu, self.at_once = device.type == "cuda", at_once
        self._taken: deque[float] = deque()
        self._events: list[Any] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """While this is entered, the model computes; several threads may be in it."""
        began = perf_counter()
        if self.on_gpu:
            self._mark()
        try:
            yield
        finally:
            if self.on_gpu:
                self._mark()
            else:
                self._taken.append(perf_counter() - began)

    def seconds(self, wait: bool = False) -> float:
        """Since the last time; those of a GPU once it is waited for."""
        if self._events and wait:
            self._events[-1].synchronize()
            pairs = zip(self._events[::2], self._events[1::2], strict=True)
            self._taken.extend(one.elapsed_time(two) / 1000 for one, two in pairs)
            self._events = []
        return sum(self._taken.popleft() for _ in range(len(self._taken))) / self.at_once

    def _mark(self) -> None:
        self._events.append(torch.cuda.Event(enable_timing=True))
        self._events[-1].record()
