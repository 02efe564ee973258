"""Several batches through one teacher at once, where it runs on a CPU.

Threads that share an operation wait for the slowest of them at its end, and small operations are not shared at all.
Threads that have a batch each wait for nobody; what that gives is in docs/results/extract.md.
"""

from collections.abc import Callable, Generator, Iterable
from copy import deepcopy
from functools import cached_property
from itertools import chain
from queue import SimpleQueue
from typing import TypeVar

import torch
from torch import nn

from pipeline.ahead import mapped
from pipeline.teachers import Teacher

Item = TypeVar("Item")
Made = TypeVar("Made")

MOST = 4
"""The most batches at once: each of them takes memory. With more cores than that, a batch has several."""


class Replicas:
    """Copies of a teacher that share its weights, each for one batch at a time.

    A copy has modules of its own, because some keep what they see in a pass, or have hooks for it.

    Args:
        teacher: on its device. On a GPU, and where it allows no copies, it is used alone.
    """

    def __init__(self, teacher: Teacher):
        self._before = torch.get_num_threads()
        self._teacher = teacher

    @cached_property
    def _copies(self) -> list[Teacher]:
        """The teacher itself, and its copies; made when they are first needed."""
        alone = self._teacher.device.type != "cpu" or not self._teacher.replicable
        try:
            return [self._teacher, *(replica(self._teacher) for _ in range(1, 1 if alone else min(self._before, MOST)))]
        except Exception:  # a model may hold anything, such as a lock, of which there are no copies
            return [self._teacher]

    @property
    def at_once(self) -> int:
        """How many batches are computed at once."""
        return len(self._copies)

    def map(self, compute: Callable[[Teacher, Item], Made], items: Iterable[Item]) -> Generator[Made]:
        """What is computed of each item by one of the copies, in the order of the items.

        Alone, the teacher computes in the caller's thread, with all threads of torch.
        """
        free: SimpleQueue[Teacher] = SimpleQueue()
        for copy in self._copies:
            free.put(copy)
        threads = max(1, round(self._before / self.at_once))

        def run(item: Item) -> Made:
            if self.at_once > 1:
                torch.set_num_threads(threads)  # holds for operations that this thread starts
            teacher = free.get()
            try:
                return compute(teacher, item)
            finally:
                free.put(teacher)

        try:
            yield from mapped(run, items, self.at_once)
        finally:
            if self.at_once > 1:
                torch.set_num_threads(self._before)


def replica(teacher: Teacher) -> Teacher:
    """A copy of a teacher with its parameters and buffers."""
    modules = [value for value in vars(teacher).values() if isinstance(value, nn.Module)]
    tensors = chain.from_iterable(chain(module.parameters(), module.buffers()) for module in modules)
    return deepcopy(teacher, {id(tensor): tensor for tensor in tensors})
