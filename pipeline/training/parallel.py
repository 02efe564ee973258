"""Data parallelism: several processes train one student, each on its share of every batch.

    torchrun --nproc-per-node 2 --no-python aft train RUN

All processes sample the same batch and run the student on every `size`-th row of it. The features and outputs of all
rows are then gathered, so that each process computes the losses of the whole batch: a kernel sees all pairs of rows, as
in one process. In the backward pass, each process computes the gradient of its own rows, and the sum over processes is
the gradient of the batch. Nothing else in the training differs, except dropout, which each process draws for its rows.

Only the first process decides what is trained, and writes. The others follow it trial by trial, and end with it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, distributed, nn

from pipeline.augmentations import Augmented
from pipeline.errors import UserError
from pipeline.students import CPU, Inputs, Student

PATIENCE = timedelta(days=7)
"""A process that waits for the first one waits while it reads, checks and writes. One that died is noticed at once."""


@dataclass(frozen=True)
class Group:
    """The processes that train together.

    Attributes:
        rank: the number of this one, from 0.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> "Group":
        """The group of this process, which has one member unless it has `joined`."""
        if not distributed.is_available() or not distributed.is_initialized():
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    def rows(self, count: int) -> Int[np.ndarray, " m"]:
        """Places, in a batch of so many rows, of those of this process: as many in each, the last row more than once
        where they do not divide."""
        return np.minimum(np.arange(self.rank, -(-count // self.size) * self.size, self.size), count - 1)

    def reduce(self, parameters: list[nn.Parameter]) -> None:
        """Sum the gradients over all processes, in one message.

        Raises:
            UserError: another process ended.
        """
        if self.size == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if not gradients:
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        with _all_there():
            distributed.all_reduce(flat)
        for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def share(self, inputs: Inputs) -> Inputs:
        """Inputs whose batches are the rows of this process alone, for a student that `spread` returned."""
        return inputs if self.size == 1 else SharedInputs(inputs, self)

    def spread(self, student: Student, compiled: bool | str = False) -> Student:
        """A student that takes such batches, and gives features and outputs of the rows of all processes, in order.

        Args:
            student: of one process.
            compiled: `train.compile`.

        Raises:
            UserError: it has BatchNorm, whose statistics would be those of a part of the batch, or is compiled.
        """
        if self.size == 1:
            return student
        if compiled:
            setting = "true" if compiled is True else compiled
            raise UserError(f"train.compile: {setting}, and {self.size} processes train together; set it to false")
        if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in student.modules()):
            raise UserError(
                f"{self.size} processes: the student has BatchNorm, whose statistics would be those of a part of the "
                "batch; train it in one process, or choose a student with GroupNorm or LayerNorm"
            )
        return SpreadStudent(student, self)

    @contextmanager
    def led(self) -> Iterator[None]:
        """In the first process: while it is active the others follow, and at its end they are told to stop."""
        try:
            yield
        finally:
            with suppress(UserError):  # one that has ended needs no telling
                self.announce(None)

    def announce(self, task: Any) -> None:
        """In the first process: tell the others what comes next. None ends them."""
        if self.size > 1:
            with _all_there():
                distributed.broadcast_object_list([task], 0)

    def announced(self) -> Iterator[Any]:
        """In the other processes: the announcements of the first one, in order."""
        while True:
            told: list[Any] = [None]
            with _all_there():
                distributed.broadcast_object_list(told, 0)
            if told[0] is None:
                return
            yield told[0]


class PartOfBatch(NamedTuple):
    """The part of a batch that one process reads; the whole batch has `total` rows."""

    inputs: Any
    total: int


class SharedInputs:
    """Inputs from which one process reads its rows of each batch."""

    def __init__(self, inputs: Inputs, group: Group):
        self.inputs, self.group = inputs, group

    def batch(
        self,
        rows: np.ndarray,
        views: np.ndarray | None = None,
        augmented: Augmented | None = None,
        device: torch.device = CPU,
    ) -> PartOfBatch:
        """The rows of this process."""
        own = self.group.rows(len(rows))
        views = None if views is None else views[own]
        augmented = None if augmented is None else augmented.some(own)
        return PartOfBatch(self.inputs.batch(rows[own], views, augmented, device), len(rows))

    def keep_on(self, device: torch.device, budget: int) -> int:
        """As the inputs do."""
        return self.inputs.keep_on(device, budget)


class SpreadStudent(Student):
    """A student that runs on a share of the rows, and returns the features and outputs of all."""

    def __init__(self, student: Student, group: Group):
        super().__init__()
        self.student, self.group, self.width = student, group, student.width

    def forward(self, share: PartOfBatch) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n c"]]:
        """Of the whole batch, in its order."""
        with self._own_numbers() if self.training else nullcontext():
            features, outputs = self.student(share.inputs)
        return _Gather.apply(features, self.group, share.total), _Gather.apply(outputs, self.group, share.total)

    @contextmanager
    def _own_numbers(self) -> Iterator[None]:
        """Random numbers of this process, such as dropout's. Those of the training stay the same in all processes, so
        that a checkpoint of the first one is one of all."""
        seed = int(torch.randint(2**62, ()))
        devices = [torch.cuda.current_device()] if next(self.student.parameters()).is_cuda else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed + self.group.rank)
            yield


class _Gather(torch.autograd.Function):
    """The rows of all processes in the order of the batch. Backwards, the gradient of one's own rows: each process has
    the same loss of all rows, so there is nothing to add here."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, group: Group, count: int) -> Tensor:
        ctx.group, ctx.count = group, count
        every = [torch.empty_like(own) for _ in range(group.size)]
        with _all_there():
            distributed.all_gather(every, own.contiguous())
        return torch.stack(every, 1).flatten(0, 1)[:count]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        own = gradient[ctx.group.rank :: ctx.group.size]
        padded = own.new_zeros(-(-ctx.count // ctx.group.size), *own.shape[1:])
        padded[: len(own)] = own
        return padded, None, None


@contextmanager
def joined() -> Iterator[Group]:
    """The processes that `torchrun` or `accelerate launch` started, joined; this one alone where neither did.

    Raises:
        UserError: they cannot be joined.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Group()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        distributed.init_process_group(backend, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"{os.environ['WORLD_SIZE']} processes: they cannot connect to one another "
            f"({' '.join(str(error).split())[:160]}); start them with torchrun or accelerate launch"
        ) from None
    try:
        yield Group.current()
    finally:
        distributed.destroy_process_group()


@contextmanager
def _all_there() -> Iterator[None]:
    """Raises UserError where a message fails because another process ended."""
    try:
        yield
    except RuntimeError as error:
        raise UserError(
            f"process {distributed.get_rank()} of {distributed.get_world_size()}: another one ended "
            f"({' '.join(str(error).split())[:120]}); see its message, and start them again: what was finished is kept"
        ) from None
