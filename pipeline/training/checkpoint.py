"""Checkpoints inside a trial: a training that was killed continues where it was, and ends with the same bits.

    trials/.<digest>/state.safetensors

It holds all that a step changes: the student and its copies, the methods' own parameters and queues, the optimiser, the
scale of the loss, random states, and the log so far. It is written between steps, so all parts of a step are in it or
none. The learning rate, the rows and the views of a step follow from its number and the seed. The folder has the name
of the trial, so a checkpoint of another student, dataset, method or code is not found; one that was copied there is
refused, because it also holds what its trial depends on. It is removed when the trial is finished.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from math import inf
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from pipeline.errors import UserError, listed
from pipeline.files import make_folder, read_regular, write_atomically
from pipeline.store import differences
from pipeline.training.log import TrialLog
from pipeline.training.optimisation import Optimisation

STATE = "state.safetensors"
CHECKSUM, NOTES = "checksum", "notes"

CALLED = {
    "rows": "dataset",
    "outputs": "classes",
    "sources": "teachers",
    "own_outputs": "teachers",
    "train": "settings",
}
"""What messages call the parts of what a trial depends on, where they have another name."""


@dataclass(frozen=True)
class State:
    """All that a step of a trial changes. Methods with state of their own keep it in parameters and persistent buffers.

    Attributes:
        modules: by name, such as the student.
        optimisation: of their parameters.
        log: of the trial.
        device: whose random numbers are used, next to those of the CPU.
    """

    modules: Mapping[str, nn.Module]
    optimisation: Optimisation
    log: TrialLog
    device: torch.device

    def tensors(self) -> dict[str, Tensor]:
        """A copy of everything but the log, by name, on the CPU."""
        found = {f"{name}/{key}": x for name, module in self.modules.items() for key, x in module.state_dict().items()}
        found |= {f"optimisation/{name}": value for name, value in self.optimisation.tensors().items()}
        found["random/cpu"] = torch.get_rng_state()
        if self.device.type in ("cuda", "mps"):
            found["random/device"] = getattr(torch, self.device.type).get_rng_state(*_index(self.device))
        return {name: x.detach().cpu().clone(memory_format=torch.contiguous_format) for name, x in found.items()}

    def finite(self) -> bool:
        """Whether all losses so far and all weights are finite. Waits for the device."""
        return self.log.sound and all(
            bool(x.isfinite().all()) for module in self.modules.values() for x in module.state_dict().values()
        )

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Become the state that `tensors` gave.

        Raises:
            RuntimeError, KeyError: they are of another student or another method.
        """
        for name, module in self.modules.items():
            module.load_state_dict(_within(tensors, name))
        self.optimisation.restore(_within(tensors, "optimisation"))
        torch.set_rng_state(tensors["random/cpu"])
        if self.device.type in ("cuda", "mps"):
            getattr(torch, self.device.type).set_rng_state(tensors["random/device"], *_index(self.device))


class Checkpoint:
    """The checkpoint of one trial.

    Args:
        folder: of this checkpoint alone.
        trial: all that the trial's result depends on; see `inputs_of`.
        minutes: between two checkpoints; 0 writes one after every step, None writes none.

    Attributes:
        seconds: that earlier calls have spent on the steps that are done.
    """

    def __init__(self, folder: Path, trial: Mapping[str, Any], minutes: float | None):
        self.folder, self.trial, self.seconds = folder, dict(trial), 0.0
        self._pause = inf if minutes is None else 60 * minutes
        self._began = self._written = perf_counter()

    def load(self, state: State) -> int:
        """Restore what an earlier call left; returns the number of finished steps, 0 if it is missing or damaged.

        Raises:
            UserError: it is sound, and of another training, or does not fit this one.
        """
        path = self.folder / STATE
        try:
            tensors = load(read_regular(path))
            checksum = tensors.pop(CHECKSUM)
            if bytes(checksum.numpy()) != sha256(save(tensors)).digest():
                return 0
            notes = json.loads(bytes(tensors.pop(NOTES).numpy()))
            trial, log = dict(notes["trial"]), notes["log"]
            steps, seconds = int(notes["steps"]), float(notes["seconds"])
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, RecursionError, SafetensorError):
            return 0
        if other := [key for key in trial | self.trial if trial.get(key) != self.trial.get(key)]:
            names = listed(list(dict.fromkeys(CALLED.get(key, key) for key in other)))
            where = next(differences(trial, self.trial))
            raise UserError(
                f"{path}: a checkpoint of another training, which differs in {names} ({where}); delete it, and this "
                "training begins anew"
            )
        try:
            state.restore(tensors)
            state.log.restore(log)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
            raise UserError(f"{path}: does not fit this training, or was changed by hand; delete it") from None
        self.seconds = seconds
        return steps

    def save(self, state: State, steps: int) -> None:
        """Write the state after so many steps, if it is time to and all is finite: whole, or not at all.

        Raises:
            UserError: it cannot be written.
        """
        if perf_counter() - self._written < self._pause or not state.finite():
            return
        seconds = self.seconds + perf_counter() - self._began
        notes = {"trial": self.trial, "steps": steps, "seconds": seconds, "log": state.log.kept()}
        tensors = state.tensors() | {NOTES: _bytes(json.dumps(notes, default=float).encode())}
        make_folder(self.folder)
        write_atomically(self.folder / STATE, save(tensors | {CHECKSUM: _bytes(sha256(save(tensors)).digest())}))
        self._written = perf_counter()

    def remove(self) -> None:
        """Delete it, because the trial is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _within(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}


def _index(device: torch.device) -> tuple[torch.device, ...]:
    """mps has one device, and its functions take none."""
    return (device,) if device.type == "cuda" else ()


def _bytes(content: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(content, np.uint8).copy())
