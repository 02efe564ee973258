"""A training that diverged: the step where that happened is kept, and can be done again.

    trials/<digest>/failure.safetensors   the state before the step, as in a checkpoint; the batch; and notes

A training notices only now and then that it has diverged, so that its steps need not wait for the device. It is then
done once more, from its last checkpoint or from the start, with a look after every step: a trial is a function of its
seed and settings, and diverges again.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from pipeline.errors import UserError, count, listed
from pipeline.files import read_regular, write_atomically
from pipeline.runs import Candidate
from pipeline.training.batches import batches, parts
from pipeline.training.checkpoint import Checkpoint, State
from pipeline.training.log import Diverged
from pipeline.training.prefetch import get_ready
from pipeline.training.session import Session
from pipeline.training.trial import Started, losses, reads_of, run_trial, start

FAILURE = "failure.safetensors"
NOTES = "notes"
SHOWN = 5
"""Rows and weights that a message names."""


@dataclass(frozen=True)
class Failure:
    """A step that went wrong.

    Attributes:
        step: from 0.
        ids: of the rows of the step [n], the labelled batch first.
        tensors: the state before the step, and under `batch/` the student's input, labels and views.
    """

    step: int
    ids: tuple[str, ...]
    tensors: Mapping[str, Tensor]

    def write(self, folder: Path) -> None:
        """Write it to the folder of its trial."""
        notes = json.dumps({"step": self.step, "ids": self.ids}).encode()
        content = dict(self.tensors) | {NOTES: torch.from_numpy(np.frombuffer(notes, np.uint8).copy())}
        write_atomically(folder / FAILURE, save(content))

    @classmethod
    def read(cls, folder: Path) -> "Failure":
        """What `write` wrote.

        Raises:
            UserError: it is not there, or damaged.
        """
        try:
            tensors = load(read_regular(folder / FAILURE))
            notes = json.loads(bytes(tensors.pop(NOTES).numpy()))
            return cls(int(notes["step"]), tuple(map(str, notes["ids"])), tensors)
        except FileNotFoundError:
            raise UserError(f"{folder / FAILURE}: no such file: its step could not be found again") from None
        except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError):
            raise UserError(f"{folder / FAILURE}: damaged; delete {folder} and train again") from None


@dataclass(frozen=True)
class Replay:
    """What came of a step that was done again.

    Attributes:
        step: from 0.
        rows: of the step.
        losses: the task's, and the penalty of each method, unweighted; of the whole step.
        outputs: ids of rows whose features or outputs are not finite.
        gradients, weights: names of parameters whose gradient is not finite, and that are not finite after the step.
    """

    step: int
    rows: int
    losses: dict[str, float]
    outputs: tuple[str, ...]
    gradients: tuple[str, ...]
    weights: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"step {self.step}, {count(self.rows, 'row')}"]
        lines += [f"{name}: {value:g}" for name, value in self.losses.items()]
        for what, names in (
            ("rows whose outputs are", self.outputs),
            ("gradients that are", self.gradients),
            ("weights that are, after the step,", self.weights),
        ):
            lines.append(f"{what} not finite: {_some(names)}")
        return "\n".join(lines)


def find_failure(
    session: Session, seed: int, candidate: Candidate, checkpoint: Checkpoint, sound: int
) -> Failure | None:
    """The step at which a trial diverges; None if it does not when it is done again, as may happen on a GPU.

    Args:
        session: of the run.
        seed, candidate: of the trial.
        checkpoint: what the trial has left, if anything.
        sound: steps after which all was still finite.
    """
    recorder = _Recorder(checkpoint, sound)
    try:
        for _ in run_trial(session, seed, candidate, recorder):
            pass
    except (Diverged, np.linalg.LinAlgError, torch.linalg.LinAlgError):
        data = session.trial_data(seed, candidate)
        # What only shows after the last step is the work of the last step.
        step, tensors = recorder.states[0 if recorder.states[-1][0] == data.settings.steps else -1]
        rows, labelled, views = _rows(start(session, seed, candidate), step)
        inputs = data.inputs.batch(rows, views, data.augmented(rows, labelled, step), torch.device("cpu"))
        batch = {f"inputs/{n}": x for n, x in enumerate(inputs if isinstance(inputs, tuple) else (inputs,))}
        batch |= {"labels": torch.from_numpy(data.labels[rows[:labelled]])}
        batch |= {"views": torch.from_numpy(views)} if views is not None else {}
        named = {f"batch/{name}": value.contiguous() for name, value in batch.items()}
        return Failure(step, tuple(map(str, session.data.ids[rows])), dict(tensors) | named)
    return None


def replay(session: Session, seed: int, candidate: Candidate, failure: Failure) -> Replay:
    """Do the step of a failure again, and look at everything.

    Raises:
        UserError: the failure is of another trial.
    """
    trial = start(session, seed, candidate)
    try:
        trial.state.restore(failure.tensors)
        if not 0 <= failure.step < trial.data.settings.steps:
            raise ValueError
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        raise UserError(f"{FAILURE}: of another student or method; train again") from None
    data, step, penalties = trial.data, failure.step, trial.penalties
    rows, labelled, views = _rows(trial, step)
    progress = step / data.settings.steps
    found: dict[str, float] = {}
    bad: list[np.ndarray] = []
    handle = trial.student.register_forward_hook(
        lambda module, inputs, outputs: bad.append(~_finite_rows(outputs[0]) | ~_finite_rows(outputs[1]))
    )
    trial.optimisation.begin(step)
    ordered = []
    for part in parts(data.task, data.labels, rows, labelled, views, data.settings.accumulate):
        ready = get_ready(data, part, reads_of(penalties), data.augmented(part.rows, part.labelled, step))
        task_loss, unweighted, _, _ = losses(data, trial.student, penalties, ready, progress)
        weighted = {name: penalties[name].at(progress) * loss for name, loss in unweighted.items()}
        trial.optimisation.backward(part.loss(task_loss, weighted.values()))
        ordered.append(part.rows)
        found["task loss"] = found.get("task loss", 0.0) + part.task_share * task_loss.item()
        for name, loss in unweighted.items():
            found[f"penalty {name}"] = found.get(f"penalty {name}", 0.0) + part.penalty_share * loss.item()
    handle.remove()
    modules = {"student": trial.student} | {name: penalty.transfer for name, penalty in penalties.items()}
    gradients = _not_finite({name: p.grad for name, p in _parameters(modules) if p.grad is not None})
    trial.optimisation.end()
    weights = _not_finite(dict(_parameters(modules)))
    ids = session.data.ids[np.concatenate(ordered)[np.concatenate(bad)]]
    return Replay(step, len(rows), found, tuple(map(str, ids)), gradients, weights)


def described(session: Session, seed: int, candidate: Candidate, failure: Failure) -> str:
    """A failure in one line: its step, what is not finite when it is done again, and rows; empty if all is finite."""
    try:
        replayed = replay(session, seed, candidate, failure)
    except (np.linalg.LinAlgError, torch.linalg.LinAlgError) as error:
        return f"step {failure.step}: {' '.join(str(error).split())[:200]}; rows {_some(failure.ids)}"
    what = [name for name, value in replayed.losses.items() if not np.isfinite(value)]
    others = ("a gradient", replayed.gradients), ("an output", replayed.outputs), ("a weight", replayed.weights)
    what = what or [name for name, found in others if found][:1]
    rows = replayed.outputs or failure.ids
    return f"step {failure.step}: {listed(what)} is not finite; rows {_some(rows)}" if what else ""


class _Recorder(Checkpoint):
    """Takes up what a checkpoint has, writes nothing, and keeps the last two states; stops at what is not finite.

    Attributes:
        states: steps done, and the state after them.
    """

    def __init__(self, checkpoint: Checkpoint, sound: int):
        super().__init__(checkpoint.folder, checkpoint.trial, None)
        self.sound = sound
        self.states: list[tuple[int, dict[str, Tensor]]] = []

    def load(self, state: State) -> int:
        done = super().load(state)
        self.states = [(done, state.tensors())]
        return done

    def save(self, state: State, steps: int) -> None:
        if steps < self.sound:
            return
        if not state.finite():
            raise Diverged("")
        self.states = [*self.states[-1:], (steps, state.tensors())]


def _rows(trial: Started, step: int) -> tuple[np.ndarray, int, np.ndarray | None]:
    """The rows of a step, how many are labelled, and their views."""
    data, methods = trial.data, bool(trial.penalties)
    drawn = batches(data.split, data.seed, data.settings, methods, data.strata)
    rows, labelled = next(islice(drawn, step, None))
    return rows, labelled, data.draw_views(rows, labelled, step, methods)


def _parameters(modules: Mapping[str, nn.Module]) -> list[tuple[str, Tensor]]:
    return [(f"{of}/{name}", p) for of, module in modules.items() for name, p in module.named_parameters()]


def _not_finite(tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    return tuple(name for name, values in tensors.items() if not bool(values.isfinite().all()))


def _finite_rows(values: Tensor) -> np.ndarray:
    found: np.ndarray = values.detach().float().isfinite().flatten(1).all(1).cpu().numpy()
    return found


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return f"{listed(names[:SHOWN])}{more}"
