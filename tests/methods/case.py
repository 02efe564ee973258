"""A small case for methods: two sources, three classes, a random student, and signals to match."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline import tasks
from pipeline.methods import Context, Directions, Signals, TeacherOutput, TeacherProfile

KINDS: tuple[TeacherOutput, ...] = ("linear", "linear_crossfit", "kernel", "kernel_crossfit", "head", "zero_shot")


@dataclass(frozen=True)
class Case:
    """`context` for `build`, `signals(n)` for `forward`; float64 so that maths, not rounding, is tested."""

    context: Context
    signals: Callable[..., Signals]


def make_case(
    widths: tuple[int, ...] = (6, 5), student_width: int = 4, classes: int = 3, rows: int = 60, seed: int = 0
) -> Case:
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    labels = torch.arange(rows) % classes
    features = [normal(rows, width) * (1 + torch.arange(width)) + 3 + labels[:, None] for width in widths]
    outputs = {kind: [3 * normal(rows, classes) for _ in widths] for kind in KINDS}
    student = normal(rows, student_width) + labels[:, None]
    train, val = np.arange(0, rows - 20), np.arange(rows - 20, rows - 5)
    labelled = train[: len(train) // 2]

    def profile(number: int) -> TeacherProfile:
        x = features[number][train]
        mean, std = x.mean(0), x.std(0, correction=0)
        row_norm = float(((x - mean) / std).norm(dim=1).mean())
        directions = {
            "linear": Directions(normal(classes), 1 / outputs["linear"][number][train].std(0, correction=0)),
            "kernel": Directions(
                torch.zeros(classes, dtype=torch.float64), 1 / outputs["kernel"][number][train].std(0, correction=0)
            ),
        }
        better = "kernel" if number == 1 else "linear"
        return TeacherProfile(f"teacher{number}", mean, std, row_norm, better, directions)  # type: ignore[arg-type]

    hidden = torch.full_like(labels, -1)
    hidden[labelled] = labels[labelled]
    context = Context(
        student_width,
        tasks.build("classification", [f"class{number}" for number in range(classes)]),
        tuple(profile(k) for k in range(len(widths))),
        train,
        labelled,
        val,
        hidden,
        lambda k, numbers: features[k][numbers],
        lambda kind, k, numbers: outputs[kind][k][numbers],
        lambda numbers: student[numbers],
        seed,
    )

    def signals(n: int = 16, seed: int = 1) -> Signals:
        random.manual_seed(seed)
        chosen = torch.randperm(rows, generator=random)[:n]
        logits = normal(n, classes).requires_grad_()
        return Signals(
            normal(n, student_width).requires_grad_(),
            logits,
            hidden[chosen],
            tuple(x[chosen] for x in features),
            {kind: tuple(each[chosen] for each in outputs[kind]) for kind in KINDS},
            0.25,
        )

    return Case(context, signals)


def loops_divergence(
    signals: Signals,
    kind: TeacherOutput,
    temperature: float,
    change: Callable[[list[float]], list[float]] = lambda row: row,
) -> float:
    """T^2 * mean over rows of KL(teacher || student) of `change`d logits over T, with floats and loops only."""

    def softmax(values: list[float]) -> list[float]:
        total = sum(math.exp(v) for v in values)
        return [math.exp(v) / total for v in values]

    sources = [rows.tolist() for rows in signals.teacher_outputs[kind]]
    students, total = signals.outputs.tolist(), 0.0
    for i, student in enumerate(students):
        logs = [[math.log(p) for p in softmax(rows[i])] for rows in sources]
        teacher = [sum(columns) / len(logs) for columns in zip(*logs, strict=True)]
        p = softmax([t / temperature for t in change(teacher)])
        q = softmax([s / temperature for s in change(student)])
        total += sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))
    return temperature**2 * total / len(students)
