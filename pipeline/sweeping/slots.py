"""Where the trainings of a sweep run: every process has a slot, and slots share the devices evenly."""

import os
from functools import cache
from pathlib import Path

import torch

from pipeline.locks import Lock
from pipeline.machine import Machine, cores

_KEPT: list[Lock] = []
"""Of this process, for as long as it lives."""


def devices(machine: Machine) -> list[str]:
    """The devices to train on: the one that `machine.device` names; with `auto`, all GPUs of this machine."""
    device = str(machine.torch_device())
    return [f"cuda:{number}" for number in range(torch.cuda.device_count())] if device == "cuda" else [device]


def default_jobs(machine: Machine) -> int | None:
    """Trainings at the same time: `machine.workers`; by default as many as fit the cores, or one for each GPU.

    None on a cluster without `machine.workers`: the engine takes as many as there is room for.
    """
    if machine.workers or machine.engine != "local":
        return machine.workers
    found = devices(machine)
    return max(1, cores() // machine.threads) if found == ["cpu"] else len(found)


@cache
def slot(folder: Path, jobs: int) -> int:
    """The number of this process among `jobs`, from 0. No other living process has it, unless there are more of them.

    Args:
        folder: for the locks.
        jobs: processes at most.
    """
    for number in range(jobs):
        lock = Lock(folder / f"slot-{jobs}-{number}.lock")
        if lock.acquire():
            _KEPT.append(lock)
            return number
    return os.getpid() % jobs
