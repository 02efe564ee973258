"""One trial: a student is trained once, with one seed, one set of settings and one weight per method.

    data -> forward -> penalties -> step -> log

Trials with the same seed share the split of the rows, the student's initial weights, its dropout and the order of the
labelled batches, whatever their methods are, so differences between them are paired. A method of weight 0 is not built
at all: a trial without methods is plain training exactly, and shares its result with every run that contains it.
"""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.augmentations import Augmented
from pipeline.data import Split
from pipeline.methods import Reads, Signals
from pipeline.records import DiagnosticsRecord
from pipeline.runs import Candidate
from pipeline.students import Blueprint, Student, place
from pipeline.training.checkpoint import Checkpoint, State
from pipeline.training.config import TrainSettings
from pipeline.training.log import Line, TrialLog, WeightedPenalty
from pipeline.training.parallel import Group
from pipeline.training.session import Session, TrialData


@dataclass(frozen=True)
class TrialResult:
    """A trained student, and how its training went.

    Attributes:
        blueprint, student: all that is needed to keep the student.
        score: the primary validation score after the last step.
        row_scores: what each validation row adds to it [val].
        curve: the lines of the log.
        diagnostics: see `DiagnosticsRecord`.
        gates: learned gates of the methods, by block of features.
    """

    blueprint: Blueprint
    student: Student
    score: float
    row_scores: Float[np.ndarray, " val"]
    curve: list[dict[str, int | float]]
    diagnostics: DiagnosticsRecord
    gates: dict[str, list[float]]


def run_trial(
    session: Session,
    seed: int,
    candidate: Candidate,
    checkpoint: Checkpoint | None = None,
    tell: Callable[[Line], None] = lambda line: None,
) -> Generator[int, None, TrialResult]:
    """Train one student; yields the number of steps done, 1 after every step, and returns the result.

    Args:
        session: of the run.
        seed, candidate: of the trial.
        checkpoint: where an earlier call may have left a part of the work, and this one leaves what it does.
        tell: takes each line of the log.

    Raises:
        Diverged: a loss, gradient, weight or output is NaN or infinite.
    """
    data, device = session.trial_data(seed, candidate), session.device
    settings = data.settings
    torch.manual_seed(seed)
    student = data.blueprint.build().to(device)
    penalties = build_penalties(session, data, student, candidate)
    # Methods have used random numbers to build themselves. Start again, so that dropout is the same with any methods;
    # with another seed, so that it does not repeat the numbers that made the initial weights.
    torch.manual_seed(seed + 1)
    # One fused kernel for all parameters: a small student's step is mostly the overhead of many small ones.
    optimizer = torch.optim.AdamW(
        student.parameters(), settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    for penalty in penalties.values():
        if own := list(penalty.transfer.parameters()):
            optimizer.add_param_group({"params": own, "lr": penalty.transfer.learning_rate, "weight_decay": 0.0})
    peaks = [group["lr"] for group in optimizer.param_groups]
    log = TrialLog(data, student, penalties, tell)
    student.train()
    modules = {"student": student} | {f"methods/{name}": penalty.transfer for name, penalty in penalties.items()}
    state = State(modules, optimizer, log, device)
    done = checkpoint.load(state) if checkpoint else 0
    processes = Group.current()
    spread, shared = processes.spread(student), data.shared(processes)
    yield done
    # The rows of the steps that are done are drawn once more, so that those of the next are what they would have been.
    steps = enumerate(batches(data.split, seed, settings, bool(penalties)))
    for step, (rows, labelled) in islice(steps, done, None):
        progress = step / settings.steps
        views = data.draw_views(rows, labelled, step, bool(penalties))
        augmented = data.augmented(rows, labelled, step)
        task_loss, unweighted, features, signals = losses(
            shared, spread, penalties, rows, labelled, progress, views, augmented
        )
        weighted = {name: penalties[name].at(progress) * loss for name, loss in unweighted.items()}
        if log.due(step):
            log.line(step, task_loss, unweighted, weighted, features, signals)  # waits for the device
        loss = sum(weighted.values(), start=task_loss)  # []
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        processes.reduce(list(student.parameters()))
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * rate(step, settings)
        optimizer.step()
        if checkpoint:
            checkpoint.save(state, step + 1)
        yield 1
    diagnostics = log.finish()  # waits for the device
    gates = learned_gates(penalties)
    return TrialResult(data.blueprint, student, log.score, log.row_scores, log.lines, diagnostics, gates)


def losses(
    data: TrialData,
    student: Student,
    penalties: dict[str, WeightedPenalty],
    rows: np.ndarray,
    labelled: int,
    progress: float,
    views: np.ndarray | None = None,
    augmented: Augmented | None = None,
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]], Float[Tensor, "n d"], Signals | None]:
    """The losses of one step: of the task, and of each method, unweighted.

    Everything is copied to the device before the student runs, and nothing here waits for the device.

    Args:
        data: the split and its features.
        student: in training mode.
        penalties: the methods; none for plain training.
        rows: of this step [n], the labelled batch first.
        labelled: rows in the labelled batch.
        progress: how far training is, from 0 to 1.
        views: the number of the view of each row [n], for student and teachers alike; clean rows if None.
        augmented: what augmentations make of the labelled batch; it stays as it is if None.

    Returns:
        The task's loss, the penalties by method, the student's features of all rows, and the methods' input (None
        without methods).
    """
    session = data.session
    inputs = data.inputs.batch(rows, views, augmented, session.device)  # [n, ...], or a tuple of such
    labels = place(torch.from_numpy(data.labels[rows]), session.device)  # [n, ...]
    if augmented and augmented.mixed:
        others = place(torch.from_numpy(data.labels[augmented.partners]), session.device)  # [labelled, ...]
        shares = place(torch.from_numpy(augmented.shares.astype(np.float32)), session.device)  # [labelled]
    # The methods see the rows after the labelled batch; where there are none, the labelled batch itself.
    start = labelled if labelled < len(rows) else 0
    reads = frozenset[Reads]().union(*(penalty.transfer.reads for penalty in penalties.values()))
    of_rows = None if views is None else views[start:]
    teachers, teacher_outputs = data.teachers(rows[start:], reads, of_rows)  # [m, D_k] and [m, c] of each source
    # Labelled and unlabelled rows in one forward pass: two would cost more, and BatchNorm would see two kinds of batch.
    with torch.autocast(session.device.type, torch.bfloat16, enabled=data.settings.precision == "bfloat16"):
        features, outputs = student(inputs)  # [n, d], [n, c]
    features, outputs = features.float(), outputs.float()
    if augmented and augmented.mixed:
        task_loss = data.task.mixed_loss(outputs[:labelled], labels[:labelled], others, shares)  # []
    else:
        task_loss = data.task.loss(outputs[:labelled], labels[:labelled])  # []
    if not penalties:
        return task_loss, {}, features, None
    signals = Signals(features[start:], outputs[start:], labels[start:], teachers, teacher_outputs, progress)
    return task_loss, {name: penalty.transfer(signals) for name, penalty in penalties.items()}, features, signals


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


def batches(split: Split, seed: int, settings: TrainSettings, transfer: bool) -> Iterator[tuple[np.ndarray, int]]:
    """The rows of every step, and how many of them, at the start, are the labelled batch.

    Where methods see unlabelled rows, a transfer batch follows, of labelled and unlabelled training rows. It has random
    numbers of its own, so the labelled batches are the same with and without it. Where methods see the labelled batch,
    and it is augmented, it follows once more, for them: what teachers know is of clean rows, or of views.
    """
    labelled = shuffled(split.labelled, settings.batch_size, np.random.default_rng([seed, 0]))
    everyone = shuffled(split.train, settings.transfer_batch_size, np.random.default_rng([seed, 1]))
    apart = transfer and settings.unlabelled and len(split.unlabelled) > 0
    again = transfer and bool(settings.augment)
    for _ in range(settings.steps):
        rows = next(labelled)
        seen = next(everyone) if apart else rows if again else rows[:0]
        yield np.concatenate([rows, seen]), len(rows)


def shuffled(rows: np.ndarray, size: int, random: np.random.Generator) -> Iterator[np.ndarray]:
    """Batches without end, in a new order every epoch. The last short batch is dropped: kernels need whole ones."""
    size = min(size, len(rows))
    while True:
        order = random.permutation(rows)
        for start in range(0, len(order) - size + 1, size):
            yield order[start : start + size]


def rate(step: int, settings: TrainSettings) -> float:
    """The learning rate at a step, as a share of its peak: a linear rise, then a cosine to 0."""
    rise = max(1, round(settings.warmup * settings.steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + float(np.cos(np.pi * (step - rise) / max(1, settings.steps - rise))))


def learned_gates(penalties: dict[str, WeightedPenalty]) -> dict[str, list[float]]:
    """The gates of all methods, by block; with the method's name where several have gates."""
    found = {name: penalty.transfer.gates() for name, penalty in penalties.items()}
    several = sum(map(bool, found.values())) > 1
    return {
        f"{method}, {block}" if several else block: values.detach().float().cpu().tolist()
        for method, gates in found.items()
        for block, values in gates.items()
    }
