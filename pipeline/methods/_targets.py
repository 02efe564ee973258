"""What a method compares a student with: teachers' features, scaled as its settings say, and outputs for the task."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import model_validator
from torch import Tensor, nn

from pipeline.methods import Context, Reads, Signals, TeacherOutput, TeacherProfile
from pipeline.params import Settings
from pipeline.probing import ProbeKind
from pipeline.tasks import Task

Scaling = Literal["as_published", "standardised", "whitened"]
WhichProbe = Literal["linear", "kernel", "best"]
WhichLogits = Literal["probe", "head", "zero_shot", "probe_and_zero_shot"]

BLOCK = 8192
"""Rows in memory at a time while all training rows are read."""


class TargetSettings(Settings):
    """How teachers' features become targets; shared by all methods that compare features.

    Attributes:
        scaling: `as_published` leaves features raw, so the source with the longest rows counts most; `standardised`
            gives each feature mean 0 and standard deviation 1, and scales each source's rows to mean norm 1; `whitened`
            (ours) then rotates them to their principal axes, strongest first, and scales these to be equal, as far as
            the number of rows allows. None means `standardised` with task directions, and `as_published` without.
        task_directions: append to each source's features the outputs of its probe without the bias: products of the
            standardised features with the probe's directions, scaled to standard deviation 1.
        probe: of the task directions: the `linear` probe; the `kernel` probe, whose outputs are scaled to standard
            deviation 1; or, for each source, the `best` of both by loss on validation rows.
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
    """Turns the signals of each source into blocks of target features; the targets are the concatenated blocks.

    With task directions, the blocks of a source are `[Ts / mean row norm of Ts, directions]`, Ts its standardised
    features. Blocks have no parameters.

    Attributes:
        names: per block: its source's name, or `<source>: task` for the directions.
        widths: per block.
        owners: per block, the number of its source.
        reads: see `Transfer`.
    """

    def __init__(self, settings: TargetSettings, context: Context):
        super().__init__()
        scaling = settings.scaling or ("standardised" if settings.task_directions else "as_published")
        self.names: list[str] = []
        self.widths: list[int] = []
        self.owners: list[int] = []
        self.kinds: list[ProbeKind | None] = []
        self.blocks = nn.ModuleList()
        for number, profile in enumerate(context.teachers):
            self._append(number, profile.name, len(profile.mean), _features(scaling, number, context), None)
            if settings.task_directions:
                kind = kind_of(profile, settings.probe)
                directions = profile.directions[kind]
                block = Affine(directions.shift, directions.scale)
                self._append(number, f"{profile.name}: task", len(directions.shift), block, kind)
        self.reads: frozenset[Reads] = frozenset(kind or "features" for kind in self.kinds)

    def _append(self, owner: int, name: str, width: int, block: nn.Module, kind: ProbeKind | None) -> None:
        self.owners.append(owner)
        self.names.append(name)
        self.widths.append(width)
        self.kinds.append(kind)
        self.blocks.append(block)

    @property
    def width(self) -> int:
        """The width of all blocks together."""
        return sum(self.widths)

    def forward(self, signals: Signals) -> tuple[Float[Tensor, "n _"], ...]:
        """The blocks."""
        found = []
        for block, owner, kind in zip(self.blocks, self.owners, self.kinds, strict=True):
            of = signals.teachers if kind is None else signals.teacher_outputs[kind]
            found.append(block(of[owner]))
        return tuple(found)

    def side_by_side(self, signals: Signals) -> Float[Tensor, "n width"]:
        """The blocks, concatenated."""
        return torch.cat(self(signals), dim=1)


class OutputSettings(Settings):
    """Which outputs the student follows; shared by all methods that compare outputs.

    Attributes:
        logits: outputs of a `probe` on each source; or of the teacher's own `head`: the `logits` in its store, for
            teachers that were trained on the dataset's task; or `zero_shot`, its logits from the names of the classes;
            or `probe_and_zero_shot`, the mean of the probe's and these, where a class has one to ten labelled rows.
        probe: each source's `linear` or `kernel` probe, or the `best` of both by loss on validation rows.
        cross_fit: for a labelled row, take the outputs of a probe that was fitted without it. For rows that a probe was
            fitted on, its outputs nearly repeat the labels.
    """

    logits: WhichLogits = "probe"
    probe: WhichProbe = "linear"
    cross_fit: bool = False

    @model_validator(mode="after")
    def _a_head_needs_no_probe(self) -> "OutputSettings":
        if self.logits in ("head", "zero_shot") and (self.probe != "linear" or self.cross_fit):
            raise ValueError(
                f"probe and cross_fit do nothing with logits: {self.logits}; drop them, or set logits: probe"
            )
        return self

    def teacher_outputs(self, context: Context) -> "TeacherOutputs":
        """The outputs that these settings ask for."""
        return TeacherOutputs(context.task, [self._kinds(profile) for profile in context.teachers])

    def _kinds(self, profile: TeacherProfile) -> list[TeacherOutput]:
        if self.logits == "head" or self.logits == "zero_shot":
            return [self.logits]
        kind = kind_of(profile, self.probe)
        probe = _crossfit(kind) if self.cross_fit else kind
        return [probe, "zero_shot"] if self.logits == "probe_and_zero_shot" else [probe]


class TeacherOutputs:
    """The outputs of all sources, combined by the task.

    Args:
        task: combines them.
        kinds: per source, the kinds of its outputs; as many for each source, so that all sources count alike.
    """

    def __init__(self, task: Task, kinds: Sequence[Sequence[TeacherOutput]]):
        self.task = task
        self.followed = [(kind, number) for number, each in enumerate(kinds) for kind in each]
        self.reads: frozenset[Reads] = frozenset(kind for kind, _ in self.followed)

    def __call__(self, signals: Signals) -> Float[Tensor, "n c"]:
        return self.task.combine([signals.teacher_outputs[kind][number] for kind, number in self.followed])


class Affine(nn.Module):
    """`(x - shift) * scale` for a scale per feature [D], `(x - shift) @ scale` for a matrix [D, width].

    Its constants move with the module between devices and are not in checkpoints: they are rebuilt with the method.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, shift: Float[Tensor, " d"], scale: Float[Tensor, "..."]):
        super().__init__()
        self.register_buffer("shift", shift, persistent=False)
        self.register_buffer("scale", scale, persistent=False)

    def forward(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n _"]:
        shifted = rows - self.shift
        return shifted @ self.scale if self.scale.ndim == 2 else shifted * self.scale


def kind_of(profile: TeacherProfile, which: WhichProbe) -> ProbeKind:
    """The kind of probe that is asked for, for this source."""
    return profile.better if which == "best" else which


def _crossfit(kind: ProbeKind) -> TeacherOutput:
    return "linear_crossfit" if kind == "linear" else "kernel_crossfit"


def _features(scaling: Scaling, number: int, context: Context) -> nn.Module:
    profile = context.teachers[number]
    match scaling:
        case "as_published":
            return nn.Identity()
        case "standardised":
            return Affine(profile.mean, 1 / (profile.std * profile.row_norm))
        case "whitened":
            return Affine(profile.mean, whitening(number, context) / profile.std[:, None])


def whitening(number: int, context: Context) -> Float[Tensor, "teacher teacher"]:
    """The map W [D, D] from standardised rows x to principal axes of equal scale; x W has mean squared norm 1.

    The covariance over the training rows is shrunk towards a multiple of the identity before it is inverted (Ledoit and
    Wolf, 2004, "A well-conditioned estimator for large-dimensional covariance matrices");
    otherwise axes that are only noise would be amplified. Rows are read in blocks: memory does not grow with them.
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
    # The floor is for a constant feature: its axis has no variance to divide by.
    shrunk = ((1 - shrinkage) * variances + shrinkage * scale).clamp_min(1e-6 * scale)
    norm = (variances / shrunk).sum().sqrt()
    return (axes / shrunk.sqrt() / norm).flip(1).to(profile.mean.dtype)
