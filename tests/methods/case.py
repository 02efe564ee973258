"""A small case for methods: two teachers, three classes, a random student, and signals to match."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.functional.linear import FOLDS
from pipeline.methods import Context, KernelProfile, Signals, TeacherProfile


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
    apart = torch.Generator().manual_seed(seed + 1)
    heads = [3 * torch.randn(rows, classes, generator=apart, dtype=torch.float64) for _ in widths]
    student = normal(rows, student_width) + labels[:, None]
    train, val = np.arange(0, rows - 20), np.arange(rows - 20, rows - 5)
    labelled = train[: len(train) // 2]

    def profile(number: int) -> TeacherProfile:
        x = features[number][train]
        mean, std = x.mean(0), x.std(0, correction=0)
        standard = (x - mean) / std
        weight = normal(classes, widths[number])
        along = standard @ torch.nn.functional.normalize(weight, dim=1).T
        row_norm = float(standard.norm(dim=1).mean())
        landmarks = torch.nn.functional.normalize(standard[:7], dim=1)
        kernel = KernelProfile(
            landmarks, 0.5, normal(7, classes), normal(classes), normal(FOLDS, 7, classes), normal(FOLDS, classes),
            normal(classes).exp(), number == 1,
        )  # fmt: skip
        return TeacherProfile(
            f"teacher{number}", mean, std, row_norm, weight, normal(classes), normal(FOLDS, *weight.shape),
            normal(FOLDS, classes), along.std(0, correction=0), kernel,
        )  # fmt: skip

    hidden = torch.full_like(labels, -1)
    hidden[labelled] = labels[labelled]
    folds = torch.where(hidden < 0, -1, torch.arange(rows) // classes % FOLDS)
    context = Context(
        student_width, classes, tuple(profile(k) for k in range(len(widths))), train, labelled, val, hidden, folds,
        lambda k, numbers: features[k][numbers], lambda numbers: student[numbers], seed,
    )  # fmt: skip

    def signals(n: int = 16, seed: int = 1) -> Signals:
        random.manual_seed(seed)
        chosen = torch.randperm(rows, generator=random)[:n]
        logits = normal(n, classes).requires_grad_()
        rows_of = tuple(x[chosen] for x in features)
        heads_of = tuple(x[chosen] for x in heads)
        return Signals(
            normal(n, student_width).requires_grad_(), logits, rows_of, hidden[chosen], folds[chosen], 0.25, heads_of
        )

    return Case(context, signals)
