"""One trial: a student is trained once, with one seed, one set of settings and one weight per method.

    data -> forward -> penalties -> step -> log

Trials with the same seed share the split of the rows, the student's initial weights, its dropout and the order of the
labelled batches for any methods, so differences between them are paired. A method of weight 0 is not built at all: a
trial without methods is exactly plain training, and shares its result with every run that contains it.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.errors import UserError
from pipeline.methods import Reads, Signals
from pipeline.records import DiagnosticsRecord, MixtureRecord
from pipeline.runs import Candidate
from pipeline.students import Blueprint, Student, place
from pipeline.tasks import Task
from pipeline.training.batches import batches, parts
from pipeline.training.checkpoint import Checkpoint, State
from pipeline.training.config import TrialSettings
from pipeline.training.kept import Kept
from pipeline.training.log import Line, TrialLog, WeightedPenalty
from pipeline.training.mixing import mix_last_layer
from pipeline.training.optimisation import Optimisation, freeze
from pipeline.training.parallel import Group
from pipeline.training.prefetch import Ready, get_ready, prefetched
from pipeline.training.session import Session, TrialData

ONE_ROW = "more than 1 value per channel"
"""What torch says where BatchNorm is to train on one value."""

VARIANTS = 64
"""The most trials of one process that differ in what is compiled."""


@dataclass(frozen=True)
class TrialResult:
    """A trained student, and how its training went.

    Attributes:
        blueprint, student: all that is needed to keep the student.
        scores: on validation rows, by name, of the student that is kept.
        row_scores: what each validation row adds to the primary one [val].
        curve: the lines of the log.
        diagnostics: see `DiagnosticsRecord`.
        gates: learned gates of the methods, by block of features.
    """

    blueprint: Blueprint
    student: Student
    scores: dict[str, float]
    row_scores: Float[np.ndarray, " val"]
    curve: list[dict[str, int | float]]
    diagnostics: DiagnosticsRecord
    gates: dict[str, list[float]]


def run_trial(
    session: Session,
    seed: int,
    candidate: Candidate,
    checkpoint: Checkpoint | None = None,
    end: int | None = None,
    tell: Callable[[Line], None] = lambda line: None,
    mixture: MixtureRecord | None = None,
) -> Generator[int, None, TrialResult]:
    """Train one student; yields the number of steps done, 1 after every step, and returns the result.

    Args:
        session: of the run.
        seed, candidate: of the trial.
        checkpoint: where an earlier call may have left a part of the work, and this one leaves what it does.
        end: steps to do, where they are fewer than those that the learning rate follows.
        tell: takes each line of the log.
        mixture: how to mix the last layer, where validation rows cannot choose; see `mixing`.

    Raises:
        Diverged: a loss, gradient, weight or output is NaN or infinite.
        UserError: an option does not fit the student.
    """
    if (known := session.trial_data(seed, candidate)).blueprint.solved:
        yield known.settings.steps
        return solve(known)  # the family has a closed form or a solver of its own
    trial = start(session, seed, candidate)
    data, settings, penalties = trial.data, trial.data.settings, trial.penalties
    optimisation, kept, log = trial.optimisation, trial.kept, trial.log
    log.tell = tell
    compiled = Compiled(data, penalties) if settings.compile else None
    done = checkpoint.load(trial.state) if checkpoint else 0
    # Under torchrun each process takes its share of the rows; without it, the student and the data are as they were.
    processes = Group.current()
    spread, shared = processes.spread(trial.student, settings.compile), data.shared(processes)
    yield done
    # The rows of the steps that are done are drawn once more, so that those of the next are what they would have been.
    steps = islice(enumerate(batches(data.split, seed, settings, bool(penalties), data.strata)), done, end)
    # A thread reads the next parts, and copies them to the device, while the step runs.
    with prefetched(ready_parts(shared, steps, penalties), session.device) as ready:
        for step in range(done, end or settings.steps):
            # How far training is, for schedules of weights; and whether this step has a line in the log.
            progress, due = step / settings.steps, log.due(step)
            # The learning rate of this step; the gradients of the last one are dropped.
            optimisation.begin(step)
            # One forward and backward pass for each part of a batch; gradients add up.
            for each in islice(ready, settings.accumulate):
                if compiled and not due:
                    # The same loss in one piece, from the input to the weighted sum.
                    loss = compiled(spread, each, progress)  # []
                    log.watch(loss)
                else:
                    # What the labels say, and what each method says of the same features and outputs.
                    with one_row_refused(session, settings):
                        task_loss, unweighted, features, signals = losses(data, spread, penalties, each, progress)
                    # Each method by its weight, which may follow a schedule.
                    weighted = {name: penalties[name].at(progress) * loss for name, loss in unweighted.items()}
                    # The part's contribution to the loss of the step.
                    loss = each.part.loss(task_loss, weighted.values())  # []
                    # Remembers a NaN or infinity on the device, without waiting for it.
                    log.watch(loss)
                    if each.part.first and due:
                        # Before the backward pass, which frees what the gradients at the features need.
                        log.line(step, task_loss, unweighted, weighted, features, signals)  # waits for the device
                optimisation.backward(loss)
            # Early stopping: no better validation score for too long.
            if due and kept.over(log.history):
                break
            # Sum the student's gradients over all processes; methods see all rows, so theirs are equal everywhere.
            processes.reduce(optimisation.trained)
            # Clip the gradients, and update the weights.
            optimisation.end()
            # The new weights go into the moving average, if one is kept.
            kept.update(step)
            # Weights, optimiser, random states and step, as often as `train.checkpoint_minutes` says.
            if checkpoint:
                checkpoint.save(trial.state, step + 1)
            yield 1
        else:
            # Not stopped early: the last line is of the finished student.
            log.last(end or settings.steps)
            kept.over(log.history)
    # With early stopping, the student goes back to the weights of the best validation.
    kept.settle()
    diagnostics = log.finish(kept.best(log.history))  # waits for the device
    if settings.mix or any(penalty.transfer.mix for penalty in penalties.values()):
        mixed = mix_last_layer(data, kept.student, mixture)
        diagnostics = log.mixed(mixed) if mixed else diagnostics
    gates = learned_gates(penalties)
    return TrialResult(data.blueprint, kept.student, log.scores, log.row_scores, log.lines, diagnostics, gates)


@contextmanager
def one_row_refused(session: Session, settings: TrialSettings) -> Iterator[None]:
    """Says what to change where BatchNorm is to train on a batch of one row."""
    try:
        yield
    except ValueError as error:
        if ONE_ROW not in str(error):
            raise
        raise UserError(
            f"{session.plan.params.source}: train (for {session.plan.name}).batch_size: {settings.batch_size}: the "
            "student normalises over a batch (BatchNorm), which needs two rows; raise it, or lower accumulate"
        ) from error


@dataclass(frozen=True)
class Started:
    """What a step of one trial works with, before the first one."""

    data: TrialData
    student: Student
    penalties: dict[str, WeightedPenalty]
    optimisation: Optimisation
    kept: Kept
    log: TrialLog
    state: State


def start(session: Session, seed: int, candidate: Candidate) -> Started:
    """Build the student, the methods and the optimiser of a trial.

    Raises:
        UserError: an option does not fit the student.
    """
    data, device = session.trial_data(seed, candidate), session.device
    settings = data.settings
    torch.manual_seed(seed)
    student = data.blueprint.build().to(device)
    if settings.channels_last:
        student.to(memory_format=torch.channels_last)  # the first convolution arranges its input likewise
    penalties = build_penalties(session, data, student, candidate)
    # Building methods has used random numbers. Seed again, so that dropout is the same with any methods; with another
    # seed, so that it does not repeat the numbers of the initial weights.
    torch.manual_seed(seed + 1)
    student.train()
    freeze(student, settings.trained_layers)
    methods = [(penalty.transfer, penalty.transfer.learning_rate) for penalty in penalties.values()]
    optimisation = Optimisation(student, methods, settings, device)
    kept = Kept(student, settings, session.metric.higher_is_better)
    log = TrialLog(data, kept.student, penalties)
    modules = {"student": student} | {f"methods/{name}": penalty.transfer for name, penalty in penalties.items()}
    state = State(modules | kept.modules, optimisation, log, device)
    return Started(data, student, penalties, optimisation, kept, log, state)


def supervised(
    student: Student,
    task: Task,
    inputs: Any,
    labels: Tensor,
    precision: str,
    mixed: tuple[Tensor, Tensor] | None = None,
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n c"], Float[Tensor, ""]]:
    """Features and outputs of all rows of a forward pass, in float32, and the task's loss of the labelled ones.

    Args:
        student: in training mode.
        task: of the labels.
        inputs: of all rows.
        labels: of the labelled rows, which are the first.
        precision: of the forward pass.
        mixed: where these are mixed with other rows, the labels of those, and the share of each row's own.
    """
    lower = getattr(torch, precision)
    with torch.autocast(labels.device.type, lower) if lower != torch.float32 else nullcontext():
        features, outputs = student(inputs)  # [n, d], [n, c]
    features, outputs = features.float(), outputs.float()
    of_labels = outputs[: len(labels)]
    return features, outputs, task.mixed_loss(of_labels, labels, *mixed) if mixed else task.loss(of_labels, labels)


def solve(data: TrialData) -> TrialResult:
    """A student whose family solves for its weights; its log has one line.

    Raises:
        Diverged: a weight or an output is NaN or infinite.
    """
    student, rows = data.blueprint.build(), data.split.labelled
    data.blueprint.solve(student, data.inputs, rows, data.labels[rows], data.task)
    log = TrialLog(data, student.to(data.session.device), {})
    log.last(0)
    diagnostics = log.finish(0)
    return TrialResult(data.blueprint, student, log.scores, log.row_scores, log.lines, diagnostics, {})


def ready_parts(
    data: TrialData, steps: Iterator[tuple[int, tuple[np.ndarray, int]]], penalties: dict[str, WeightedPenalty]
) -> Iterator[Ready]:
    """The parts of steps, one after another, ready for the student and the methods.

    Args:
        data: the split and its features.
        steps: numbers, and the rows of each step and how many of these are labelled.
        penalties: the methods; none for plain training.
    """
    reads = reads_of(penalties)
    for step, (rows, labelled) in steps:
        views = data.draw_views(rows, labelled, step, bool(penalties))
        for part in parts(data.task, data.labels, rows, labelled, views, data.settings.accumulate):
            yield get_ready(data, part, reads, data.augmented(part.rows, part.labelled, step))


def reads_of(penalties: dict[str, WeightedPenalty]) -> frozenset[Reads]:
    """What the methods read of teachers."""
    return frozenset[Reads]().union(*(penalty.transfer.reads for penalty in penalties.values()))


def losses(
    data: TrialData,
    student: Student,
    penalties: dict[str, WeightedPenalty],
    ready: Ready,
    progress: float,
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]], Float[Tensor, "n d"], Signals | None]:
    """The losses of one part of a step: of the task, and of each method, unweighted.

    Nothing here waits for the device.

    Args:
        data: of the trial.
        student: in training mode.
        penalties: the methods; none for plain training.
        ready: the part.
        progress: how far training is, from 0 to 1.

    Returns:
        The task's loss, the penalties by method, the student's features of all rows, and the methods' input (None
        without methods).
    """
    start, labels, labelled = ready.start, ready.labels, ready.part.labelled
    # Labelled and unlabelled rows in one forward pass: two would cost more, and BatchNorm would see two kinds of batch.
    features, outputs, task_loss = supervised(
        student, data.task, ready.inputs, labels[:labelled], data.settings.precision, ready.mixed
    )
    if not penalties:
        return task_loss, {}, features, None
    signals = Signals(
        features[start:], outputs[start:], labels[start:], ready.teachers, ready.teacher_outputs, progress
    )
    return task_loss, {name: penalty.transfer(signals) for name, penalty in penalties.items()}, features, signals


class Compiled:
    """The loss of one part of a step, compiled with torch.compile from the student's input to the weighted sum.

    It has no graph break for any of our students and methods. Steps with a line of the log are not compiled: the line
    needs gradients at the features, which are no result here. So a training compiles at its first step without a line.

    With CUDA graphs the gradients are in memory that the next step writes to, as is the loss: `Optimisation.begin`
    drops them before that.

    Args:
        data: of the trial.
        penalties: the methods; none for plain training.
    """

    def __init__(self, data: TrialData, penalties: dict[str, WeightedPenalty]):
        self.data, self.penalties = data, penalties
        # All trials of a process count as one function. Those that differ in the student's shape or in an option of a
        # step are compiled apart; beyond the limit they would not be compiled at all.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, VARIANTS)
        self._graphs = data.settings.compile == "cuda_graphs"
        self._run = torch.compile(weighted_loss, mode="reduce-overhead" if self._graphs else None)
        self._weights: tuple[list[float], Tensor] | None = None

    def __call__(self, student: Student, ready: Ready, progress: float) -> Float[Tensor, ""]:
        """The part's contribution to the loss of the step; see `losses` for the arguments."""
        part = ready.part
        of_methods = [part.penalty_share * penalty.at(progress) for penalty in self.penalties.values()]
        weights = [part.task_share, *of_methods]
        # Numbers would be part of what is compiled, and other numbers would compile it again.
        if self._weights is None or self._weights[0] != weights:
            self._weights = weights, place(torch.tensor(weights), self.data.session.device)
        if self._graphs:
            torch.compiler.cudagraph_mark_step_begin()
        loss: Tensor = self._run(self.data, student, self.penalties, ready, progress, self._weights[1])
        return loss


def weighted_loss(
    data: TrialData,
    student: Student,
    penalties: dict[str, WeightedPenalty],
    ready: Ready,
    progress: float,
    weights: Float[Tensor, " losses"],
) -> Float[Tensor, ""]:
    """The weighted sum of `losses`: that of the task first, then the methods in their order."""
    task_loss, unweighted, _, _ = losses(data, student, penalties, ready, progress)
    return torch.stack([task_loss, *unweighted.values()]) @ weights


def build_penalties(
    session: Session, data: TrialData, student: Student, candidate: Candidate
) -> dict[str, WeightedPenalty]:
    """The methods of a candidate, for one untrained student. A method of weight 0 is left out."""
    context = data.context(student)
    return {
        term.name: WeightedPenalty(
            weight, term.schedule, session.method(term, candidate).build(context).to(session.device)
        )
        for term, weight in zip(session.run.methods, candidate.weights, strict=True)
        if weight > 0
    }


def learned_gates(penalties: dict[str, WeightedPenalty]) -> dict[str, list[float]]:
    """The gates of all methods, by block; with the method's name where several have gates."""
    found = {name: penalty.transfer.gates() for name, penalty in penalties.items()}
    several = sum(map(bool, found.values())) > 1
    return {
        f"{method}, {block}" if several else block: values.detach().float().cpu().tolist()
        for method, gates in found.items()
        for block, values in gates.items()
    }
