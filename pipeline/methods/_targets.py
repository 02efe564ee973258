"""What a method compares a student with: teachers' raw features, scaled as its settings ask, batch by batch."""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.methods import Context, Signals, TeacherProfile
from pipeline.params import Settings

Scaling = Literal["as_published", "standardised", "whitened"]
WhichProbe = Literal["linear", "kernel", "best"]
WhichLogits = Literal["probe", "head"]

BLOCK = 8192
"""Rows held at a time while all training rows are passed over."""


class TargetSettings(Settings):
    """How teachers' features become targets; every method that compares features has these.

    Attributes:
        scaling: `as_published` leaves features raw, so the teacher with the longest rows counts most; `standardised`
            gives each feature mean 0 and one scale, and each teacher's rows mean norm 1; `whitened` (ours) then turns
            them to their principal axes, strongest first, and gives each of those one scale, as far as the number of
            rows allows. None means `as_published`, or `standardised` where there are task directions.
        task_directions: append to each teacher's features what its probe looks at: the standardised features' products
            with the unit-norm class directions, each at standard deviation 1.
        probe: whose directions those are: of the `linear` probe; of the `kernel` probe, whose logits they are, each at
            standard deviation 1; or of each teacher's `best` one by log loss on validation rows.
    """

    scaling: Scaling | None = None
    task_directions: bool = False
    probe: WhichProbe = "linear"

    @model_validator(mode="after")
    def _directions_have_a_scale(self) -> "TargetSettings":
        if self.task_directions and self.scaling == "as_published":
            raise ValueError("task_directions need features on one scale: set scaling: standardised, or leave it out")
        if self.probe != "linear" and not self.task_directions:
            raise ValueError("probe does nothing without task_directions: true")
        return self


class Targets(nn.Module):
    """Turns raw features of each teacher into blocks of target features; the targets are the blocks side by side.

    With task directions the blocks of a teacher are `[Ts / mean row norm of Ts, Ts d_c / std(Ts d_c)]`, Ts its
    standardised features and d_c the unit-norm rows of its probe.

    Attributes:
        names: of each block: its teacher's, or `<teacher>: task` for the directions.
        widths: of each block.
        owners: of each block, the number of its teacher.
    """

    def __init__(self, settings: TargetSettings, context: Context):
        super().__init__()
        scaling = settings.scaling or ("standardised" if settings.task_directions else "as_published")
        self.names: list[str] = []
        self.widths: list[int] = []
        self.owners: list[int] = []
        self.blocks = nn.ModuleList()
        for number, profile in enumerate(context.teachers):
            self._append(number, profile.name, len(profile.mean), _features(scaling, number, context))
            if settings.task_directions:
                block = _directions(profile, settings.probe)
                self._append(number, f"{profile.name}: task", len(profile.probe_bias), block)

    def _append(self, owner: int, name: str, width: int, block: nn.Module) -> None:
        self.owners.append(owner)
        self.names.append(name)
        self.widths.append(width)
        self.blocks.append(block)

    @property
    def width(self) -> int:
        """Of all blocks side by side."""
        return sum(self.widths)

    def forward(self, teachers: tuple[Float[Tensor, "n _"], ...]) -> tuple[Float[Tensor, "n _"], ...]:
        """The blocks, for raw features of each teacher in the run's order."""
        return tuple(block(teachers[owner]) for block, owner in zip(self.blocks, self.owners, strict=True))

    def side_by_side(self, teachers: tuple[Float[Tensor, "n _"], ...]) -> Float[Tensor, "n width"]:
        """The blocks as one matrix."""
        return torch.cat(self(teachers), dim=1)


class LogitSettings(Settings):
    """Whose logits the student follows; every method that compares logits has these.

    Attributes:
        logits: those of a `probe` on each teacher's features, or of the teacher's own `head` for the task: what its
            store has under `logits`, for teachers that were trained on the dataset's own classes.
        probe: each teacher's `linear` or `kernel` probe, or the `best` of both by log loss on validation rows.
        cross_fit: take what is said of a labelled row from a probe that was fitted without it. What a probe says of
            rows that it was fitted on is hardly more than it was told.
    """

    logits: WhichLogits = "probe"
    probe: WhichProbe = "linear"
    cross_fit: bool = False

    @model_validator(mode="after")
    def _a_head_needs_no_probe(self) -> "LogitSettings":
        if self.logits == "head" and (self.probe != "linear" or self.cross_fit):
            raise ValueError("probe and cross_fit do nothing with logits: head; drop them, or set logits: probe")
        return self

    def teacher_logits(self, context: Context) -> nn.Module:
        """A module that says, of a step's `Signals`, what the teachers say together [n, C]."""
        return HeadLogits() if self.logits == "head" else ProbeLogits(context, self.probe, self.cross_fit)


class HeadLogits(nn.Module):
    """What the teachers' own heads say together: the mean over them of the log-softmax of their logits [n, C]."""

    def forward(self, signals: Signals) -> Float[Tensor, "n classes"]:
        return torch.stack([logits.log_softmax(1) for logits in signals.heads]).mean(0)


class ProbeLogits(nn.Module):
    """What the teachers say together: the mean over them of the log-softmax of their probes' logits [n, C].

    Cross-fitted, a row of a fold is judged by the probes that were fitted without that fold, and other rows by those
    that were fitted on all labelled rows.
    """

    def __init__(self, context: Context, which: WhichProbe = "linear", cross_fit: bool = False):
        super().__init__()
        self.classes, self.cross_fit = context.classes, cross_fit
        self.probes = nn.ModuleList(
            _kernel_logits(profile, cross_fit) if by_kernel(profile, which) else _linear_logits(profile, cross_fit)
            for profile in context.teachers
        )

    def forward(self, signals: Signals) -> Float[Tensor, "n classes"]:
        said = []
        for probe, raw in zip(self.probes, signals.teachers, strict=True):
            logits = probe(raw)
            if self.cross_fit:
                each = logits.unflatten(1, (-1, self.classes))  # [n, 1 + K, C]
                mine = (signals.folds + 1)[:, None, None].expand(-1, 1, self.classes)
                logits = each.gather(1, mine).squeeze(1)
            said.append(logits.log_softmax(1))
        return torch.stack(said).mean(0)


class Affine(nn.Module):
    """`(x - shift) * scale` for a scale per feature [D], `(x - shift) @ scale` for a matrix [D, width]; then `+ bias`.

    Its constants follow the module to its device and stay out of checkpoints: they are rebuilt with the method.
    """

    shift: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, shift: Float[Tensor, " d"], scale: Float[Tensor, "..."], bias: Tensor | None = None):
        super().__init__()
        self.register_buffer("shift", shift, persistent=False)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n _"]:
        shifted = rows - self.shift
        scaled = shifted @ self.scale if self.scale.ndim == 2 else shifted * self.scale
        return scaled if self.bias is None else scaled + self.bias


class KernelScores(nn.Module):
    """K(rows, landmarks) weight + bias [n, width]. Its constants follow the module to its device, as in `Affine`."""

    def __init__(self, profile: TeacherProfile, weight: Float[Tensor, "m width"], bias: Float[Tensor, " width"]):
        super().__init__()
        self.sharpness = profile.kernel.sharpness
        self.standardise = Affine(profile.mean, 1 / profile.std)
        self.landmarks: Tensor
        self.register_buffer("landmarks", profile.kernel.landmarks, persistent=False)
        self.score = Affine(torch.zeros_like(self.landmarks[:, 0]), weight, bias)

    def forward(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n width"]:
        rows = F.normalize(self.standardise(rows), dim=1)
        return self.score((2 * self.sharpness * (rows @ self.landmarks.T - 1)).exp())


def by_kernel(profile: TeacherProfile, which: WhichProbe) -> bool:
    """Whether it is the kernel probe of this teacher that is asked for."""
    return which == "kernel" or (which == "best" and profile.kernel.better)


def _linear_logits(profile: TeacherProfile, cross_fit: bool) -> nn.Module:
    """Logits of the linear probe [n, C], or of that and, beside it, of those of the folds [n, (1 + K) C]."""
    weight, bias = profile.probe_weight, profile.probe_bias
    if cross_fit:
        weight = torch.cat([weight, profile.fold_weight.flatten(0, 1)])
        bias = torch.cat([bias, profile.fold_bias.flatten()])
    return Affine(profile.mean, (weight / profile.std).T, bias)


def _kernel_logits(profile: TeacherProfile, cross_fit: bool) -> nn.Module:
    """The same of the kernel probe."""
    weight, bias = profile.kernel.weight, profile.kernel.bias
    if cross_fit:
        weight = torch.cat([weight, *profile.kernel.fold_weight], 1)
        bias = torch.cat([bias, profile.kernel.fold_bias.flatten()])
    return KernelScores(profile, weight, bias)


def _features(scaling: Scaling, number: int, context: Context) -> nn.Module:
    profile = context.teachers[number]
    match scaling:
        case "as_published":
            return nn.Identity()
        case "standardised":
            return Affine(profile.mean, 1 / (profile.std * profile.row_norm))
        case "whitened":
            return Affine(profile.mean, whitening(number, context) / profile.std[:, None])


def _directions(profile: TeacherProfile, which: WhichProbe) -> nn.Module:
    if by_kernel(profile, which):
        kernel = profile.kernel
        return KernelScores(profile, kernel.weight / kernel.std, kernel.bias / kernel.std)
    # A class the probe says nothing about has direction 0, and stays 0.
    directions = F.normalize(profile.probe_weight, dim=1) / profile.direction_std.clamp_min(1e-12)[:, None]
    return Affine(profile.mean, (directions / profile.std).T)


def whitening(number: int, context: Context) -> Float[Tensor, "teacher teacher"]:
    """The map W [D, D] from a teacher's standardised rows x to principal axes of one scale: x W has mean square norm 1.

    The covariance over the training rows is shrunk towards a multiple of the identity before it is inverted (Ledoit and
    Wolf, 2004, "A well-conditioned estimator for large-dimensional covariance matrices"), or axes that so few rows
    cannot tell from noise would be blown up. Rows are read in blocks: memory does not grow with their number.
    """
    profile, rows = context.teachers[number], context.train_rows
    n, d = len(rows), len(profile.mean)
    second = torch.zeros(d, d, dtype=torch.float64, device=profile.mean.device)
    fourth = second.new_zeros(())
    for start in range(0, n, BLOCK):
        block = profile.standardise(context.teacher_features(number, rows[start : start + BLOCK])).double()
        second += block.T @ block
        fourth += block.square().sum(1).square().sum()
    covariance = second / n
    scale = covariance.diagonal().mean()
    energy = covariance.square().sum()
    spread, noise = energy - d * scale.square(), (fourth / n - energy) / n
    shrinkage = (noise / spread.clamp_min(1e-12)).clamp(0, 1)
    variances, axes = torch.linalg.eigh(covariance)
    # The floor is for a constant feature, whose axis has no variance to divide by.
    shrunk = ((1 - shrinkage) * variances + shrinkage * scale).clamp_min(1e-6 * scale)
    norm = (variances / shrunk).sum().sqrt()
    return (axes / shrunk.sqrt() / norm).flip(1).to(profile.mean.dtype)
