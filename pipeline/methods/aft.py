"""Adaptive Feature Transfer (arXiv 2406.07337): the student's kernel follows the teachers', on gated features."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from pipeline.errors import UserError, count
from pipeline.functional.kernels import (
    centre,
    cka,
    cosine,
    cosine_gap,
    debiased_cka,
    gram,
    off_diagonal_cka,
    radial,
    rms_gap,
)
from pipeline.methods import Context, Signals, Transfer, full_precision
from pipeline.methods._gates import Activation, Combination, DenseGates, Gates, side_by_side
from pipeline.methods._targets import Targets, TargetSettings

WARM_UP_ROWS = 128
ANOTHER = "the run's `teachers`, then run `aft extract NAME` and `aft probe NAME`"
SIMILARITIES = {"cka": cka, "off_diagonal_cka": off_diagonal_cka, "debiased_cka": debiased_cka}


class Settings(TargetSettings):
    """The defaults are the published method. The other options are the paper's ablations, or ours where stated.

    Attributes:
        form: what is learned with the student. `diagonal`: a gate on each teacher feature. `dense`: a matrix on all of
            them. `fixed`: nothing, the gates are equal. `teacher_gain` (ours): one gate per teacher, and one for its
            task directions. `kkd`: a linear map on the student, against equal gates. `no_kernel`: a linear map from the
            teachers' features to the student's, and the mean squared difference of the two, both centred.
        gate: maps scores to gates: `sigmoid`, or `log` (ours), which cannot saturate.
        learning_rate: of the gates, or of the maps that the form learns instead.
        warm_up: steps in which gates or maps learn from the untrained student before training starts (ours).
        dense_start: initial matrix: `random`, N(0, 1 / D), or the `identity` (ours).
        kernel: `linear` is cosines; `rbf` is exp(-|f_i - f_j|^2) of the same unit rows.
        combine: teachers' features `side_by_side`, or their `outer_product`, one factor per teacher, for teachers of
            different modalities.
        objective: `rmse` of the kernels' entries, or (ours) 1 - `cka`, `off_diagonal_cka` or `debiased_cka` of them.
        queue: number of rows of past batches, with the student's features at that time, that join the kernel (ours).
    """

    form: Literal["diagonal", "dense", "fixed", "teacher_gain", "kkd", "no_kernel"] = "diagonal"
    gate: Activation = "sigmoid"
    learning_rate: float = Field(1e-2, gt=0)
    warm_up: int = Field(0, ge=0)
    dense_start: Literal["random", "identity"] = "random"
    kernel: Literal["linear", "rbf"] = "linear"
    combine: Combination = "side_by_side"
    objective: Literal["rmse", "cka", "off_diagonal_cka", "debiased_cka"] = "rmse"
    queue: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _options_fit_the_form(self) -> "Settings":
        """Refuse an option that the form would silently ignore."""
        learned = ("diagonal", "dense", "teacher_gain", "kkd")
        with_kernels = (*learned, "fixed")
        fitting = {
            "gate": ("diagonal", "teacher_gain"),
            "learning_rate": (*learned, "no_kernel"),
            "warm_up": learned,
            "dense_start": ("dense",),
            "kernel": with_kernels,
            "combine": ("diagonal", "fixed", "kkd"),
            "objective": with_kernels,
            "queue": with_kernels,
        }
        for option, forms in fitting.items():
            if self.form not in forms and getattr(self, option) != type(self).model_fields[option].default:
                raise ValueError(f"{option} does nothing in form {self.form}; it belongs to {', '.join(forms)}")
        return self

    @property
    def as_published(self) -> bool:
        """Whether kernels are compared as in the paper: cosines of concatenated features, by root mean square error."""
        return (self.kernel, self.combine, self.objective) == ("linear", "side_by_side", "rmse")

    def build(self, context: Context) -> Transfer:
        """New gates or maps, random ones from torch's current random state; warmed up if asked for.

        Raises:
            UserError: the form needs more teachers than the run has, or the queue more rows.
        """
        targets = Targets(self, context)
        if self.combine == "outer_product" and len(context.teachers) < 2:
            raise UserError(f"aft: combine: outer_product needs two teachers or more; add one to {ANOTHER}")
        if self.form == "teacher_gain" and len(targets.names) < 2:
            raise UserError(
                "aft: form: teacher_gain weighs teachers, and the run has one; use form: fixed, or add one to "
                f"{ANOTHER}"
            )
        if self.queue > len(context.train_rows):
            there = count(len(context.train_rows), "training row")
            raise UserError(f"aft: queue: {self.queue} exceeds the {there}; lower it")
        if self.form == "no_kernel":
            return FeatureRegression(targets, context.student_width, self.learning_rate)
        transfer = AdaptiveFeatureTransfer(self, targets, context)
        if self.warm_up:
            _warm_up(transfer, context, self.warm_up)
        return transfer


class AdaptiveFeatureTransfer(Transfer):
    """R = sqrt(mean((K_S - K_T)^2) + 1e-8), the gap between two kernels of a batch, over all n^2 pairs of rows.

    A kernel holds the cosines between rows, after each column was centred over the batch. K_S uses the student's
    features, K_T the teachers' features, each multiplied by its gate sigmoid(s); s starts at 0 and is learned with the
    student, on the same penalty. R does not change if the student's features are shifted, scaled or rotated. A batch of
    two rows has no effect, because centring makes them opposite: R is then at its minimum, 1e-4.
    """

    def __init__(self, settings: Settings, targets: Targets, context: Context):
        super().__init__()
        self.settings = settings
        self.learning_rate = settings.learning_rate
        self.targets, self.reads = targets, targets.reads
        self.student_map: nn.Module = nn.Identity()
        self.teacher_gram: Gates | DenseGates
        match settings.form:
            case "dense":
                self.teacher_gram = DenseGates(targets.width, settings.dense_start)
            case "diagonal" | "teacher_gain":
                self.teacher_gram = Gates(targets, settings.form, settings.gate, settings.combine)
            case _:
                self.teacher_gram = Gates(targets, "fixed", combine=settings.combine)
        if settings.form == "kkd":
            self.student_map = nn.Linear(context.student_width, context.student_width, bias=False)
        self.queue = Queue(targets, context, settings.queue) if settings.queue else None

    @full_precision
    def forward(self, signals: Signals) -> Float[Tensor, ""]:
        features, blocks = signals.features, self.targets(signals)
        if self.queue is not None:
            features, blocks = self.queue(features, blocks)
        rows = self.student_map(features)
        if isinstance(self.teacher_gram, Gates) and self.settings.as_published:
            return cosine_gap(rows, side_by_side(blocks), self.teacher_gram.each_feature())
        student, teacher = cosine(gram(centre(rows))), cosine(self.teacher_gram(blocks))
        if self.settings.kernel == "rbf":
            student, teacher = radial(student), radial(teacher)
        if self.settings.objective == "rmse":
            return rms_gap(student, teacher)
        return 1 - SIMILARITIES[self.settings.objective](student, teacher)

    def gates(self) -> dict[str, Float[Tensor, " _"]]:
        return self.teacher_gram.report()

    def log(self) -> dict[str, float]:
        """The gates' mean and relative spread, which is 0 until something is learned."""
        if not (report := self.gates()):
            return {}
        gates = torch.cat(list(report.values()))
        return {"gate_mean": gates.mean().item(), "gate_spread": (gates.std(correction=0) / gates.mean()).item()}


class FeatureRegression(Transfer):
    """The form without a kernel: mean((centre(psi W) - centre(phi))^2), W [D, d] learned; centring undoes any bias."""

    def __init__(self, targets: Targets, student_width: int, learning_rate: float):
        super().__init__()
        self.learning_rate = learning_rate
        self.targets, self.reads = targets, targets.reads
        self.map = nn.Linear(targets.width, student_width, bias=False)

    @full_precision
    def forward(self, signals: Signals) -> Float[Tensor, ""]:
        mapped = self.map(self.targets.side_by_side(signals))
        return (centre(mapped) - centre(signals.features)).square().mean()


class Queue(nn.Module):
    """The newest rows of past batches, without gradient; at first, training rows through the untrained student.

    It keeps the student's features and the blocks of targets.
    """

    features: Tensor

    def __init__(self, targets: Targets, context: Context, size: int):
        super().__init__()
        rows = np.sort(np.random.default_rng(context.seed).choice(context.train_rows, size, replace=False))
        signals = context.initial_signals(rows, targets.reads)
        self.register_buffer("features", signals.features.float())
        blocks = targets(signals)
        self.count = len(blocks)
        for number, block in enumerate(blocks):
            self.register_buffer(f"block{number}", block.float())

    def forward(
        self, features: Float[Tensor, "n d"], blocks: tuple[Float[Tensor, "n _"], ...]
    ) -> tuple[Float[Tensor, "m d"], tuple[Float[Tensor, "m _"], ...]]:
        """The batch followed by the queue; in training, the batch then replaces the oldest rows."""
        size = len(self.features)
        queued = [self.features, *(self.get_buffer(f"block{number}") for number in range(self.count))]
        joined = [torch.cat([new, old]) for new, old in zip([features, *blocks], queued, strict=True)]
        if self.training:
            for old, rows in zip(queued, joined, strict=True):
                old.copy_(rows[:size].detach())  # in place: a CUDA graph knows only this memory
        return joined[0], tuple(joined[1:])


@torch.enable_grad()
def _warm_up(transfer: AdaptiveFeatureTransfer, context: Context, steps: int) -> None:
    """Train the gates on the untrained student, with seeded batches of training rows."""
    random = np.random.default_rng(context.seed)
    transfer.to(context.labels.device).eval()
    own = [parameter for parameter in transfer.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(own, transfer.learning_rate)
    for _ in range(steps):
        rows = np.sort(random.choice(context.train_rows, min(WARM_UP_ROWS, len(context.train_rows)), replace=False))
        optimizer.zero_grad()
        transfer(context.initial_signals(rows, transfer.reads)).backward()
        optimizer.step()
    optimizer.zero_grad()
    transfer.train()
