"""Where the work is done: settings that change no result, so no stage runs again for them."""

import os
import re

import torch
from pydantic import Field, field_validator

from pipeline.errors import UserError, count
from pipeline.params import Settings

OUT_OF_MEMORY = ("DefaultCPUAllocator", "out of memory", "ALLOC_FAILED")
"""What messages of torch hold where memory was not to be had, and it raises no class of its own: on a CPU, on an Apple
GPU, and in the libraries of CUDA."""


class Machine(Settings):
    """The `machine` section.

    Attributes:
        device: `cpu`, `cuda`, one GPU of several such as `cuda:1`, or `mps`; `auto` uses a CUDA GPU if there is
            one, and the CPU otherwise.
        workers: threads that read ahead of a teacher, or students trained at the same time; None chooses. On Ray it is
            the number of processes, for teachers and students alike; None takes as many as the cluster has room for.
        threads: of one training on a CPU. Another number rounds differently, so the number of trainings at work, which
            a kill changes, does not choose it. Raise it where one large student is trained.
        device_memory: GiB of GPU memory for the features of a run's teachers during training (for each worker), and
            then for the student's images; what does not fit is read from disk and copied batch by batch.
        checkpoint_minutes: between two checkpoints of a training, from which it continues after a kill, with the same
            result; 0 writes one after every step, null none. A kill loses all of a training that takes less.
        engine: where extraction and training run, a file in pipeline/engines/: this machine (`local`) or a cluster.
        address: of a Ray cluster, as HOST:PORT, or `auto` for the one that this machine belongs to. By default that of
            the environment (RAY_ADDRESS), or else a cluster of this machine alone, for the time of the command.
        patience: minutes without a sign of life after which a worker on Ray is killed, and its work given to another.
        track: tell each training to a tracker of experiments as well; a file in pipeline/trackers/, null for none.
    """

    device: str = "auto"
    workers: int | None = Field(default=None, ge=1)
    threads: int = Field(default=1, ge=1)
    device_memory: float = Field(default=2.0, ge=0)
    checkpoint_minutes: float | None = Field(default=10.0, ge=0)
    engine: str = "local"
    address: str | None = None
    patience: float = Field(default=30.0, gt=0)
    track: str | None = None

    @field_validator("device")
    @classmethod
    def _known(cls, device: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
            raise ValueError("should be auto, cpu, cuda, cuda:N (a number from 0) or mps")
        return device

    def torch_device(self) -> torch.device:
        """The device to use.

        Raises:
            UserError: it is not there.
        """
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        device = torch.device(self.device)
        if device.type == "mps" and not torch.backends.mps.is_available():
            raise UserError("machine.device: mps, but torch finds no Apple GPU here; set it to cpu or auto")
        if device.type == "cuda" and not torch.cuda.is_available():
            raise UserError(f"machine.device: {self.device}, but torch finds no GPU here; set it to cpu or auto")
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            there = count(torch.cuda.device_count(), "GPU")
            raise UserError(f"machine.device: {self.device}, but torch finds {there} here, numbered from 0")
        return device

    def of_rank(self, rank: int) -> "Machine":
        """For one of several processes on this machine: each with a GPU of its own, where one is not named.

        Args:
            rank: its number among those of this machine.
        """
        several = self.torch_device() == torch.device("cuda") and torch.cuda.device_count() > 1
        return self.model_copy(update={"device": f"cuda:{rank % torch.cuda.device_count()}"}) if several else self

    def device_name(self) -> str:
        """The device's name in logs: `cpu`, `mps`, or the name of the GPU. Raises `UserError` as `torch_device`."""
        device = self.torch_device()
        return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the memory of the machine or of its GPU is full."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
