"""Where the work is done: settings that change no result, so that no stage is run again for them."""

import os
from typing import Literal

import torch
from pydantic import Field

from pipeline.errors import UserError
from pipeline.params import Settings


class Machine(Settings):
    """The `machine` section.

    Attributes:
        device: `auto` takes a GPU where there is one.
        workers: threads that read ahead of a teacher, or students trained at the same time; None chooses.
        device_memory: GiB of a GPU that features of a run's teachers may take while students learn from them (of each
            worker's own); those that do not fit are read from the disk and copied batch by batch.
        engine: where extraction and training run, a file in pipeline/engines/.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int | None = Field(default=None, ge=1)
    device_memory: float = Field(default=2.0, ge=0)
    engine: str = "local"

    def torch_device(self) -> torch.device:
        """The device to use. Raises `UserError` for cuda on a machine without."""
        if self.device == "cuda" and not torch.cuda.is_available():
            raise UserError("machine.device: cuda, but torch finds no GPU here; set it to cpu or auto")
        return torch.device("cuda" if self.device != "cpu" and torch.cuda.is_available() else "cpu")


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
