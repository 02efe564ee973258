"""The `train` section of params.yaml, and a run with everything that its trainings need to know."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, inf
from shutil import which
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.augmentations import Augmentation, read_augmentations
from pipeline.data import Split
from pipeline.errors import UserError, count
from pipeline.machine import Machine
from pipeline.params import Params, Settings, parse
from pipeline.plugins import plugin
from pipeline.project import Project
from pipeline.runs import Run, read_run
from pipeline.students import is_solved
from pipeline.tasks import Task
from pipeline.views import Views

FEWEST_ROWS = 3
"""The least number of rows that methods must see at a time: any two rows, once centred, are opposite."""

PASSES, CHANGING_PASSES = 20, 40
"""Of `steps: auto` over the training rows; and where views or augmentation show them differently each time."""

FEWEST_STEPS, MOST_STEPS = 200, 10_000
"""Of `steps: auto`."""


class TrainSettings(Settings):
    """The `train` section.

    Attributes:
        steps: number of steps of the optimiser, AdamW. `auto`: 20 passes over the training rows in batches of
            `transfer_batch_size` (of `batch_size` over the labelled ones, if no row without a label is used); 40 where
            views, or augmentation of these rows, show them differently each time; at least 200, at most 10,000.
        epochs: the length of the training in passes over the labelled rows, instead of `steps`; such as 0.5 or 30.
        batch_size: labelled rows per step; at least 3 if the methods see these.
        transfer_batch_size: rows per step that the methods see, sampled from labelled and unlabelled training rows
            together. If all training rows have labels, the methods see the labelled batch instead.
        unlabelled: whether methods see unlabelled rows at all; if not, they see the labelled batch.
        augment: random changes of the labelled batch, by name, each with its settings, such as
            `{crop: {}, flip: {}, mixup: {alpha: 0.2}}`; see `pipeline.augmentations`. Methods see clean rows, or views.
        augment_transfer: whether the student also sees the rows for methods augmented, but never mixed, while teachers'
            features and outputs stay those of the clean row or the view.
        views: how many of the views that the run's teachers have of each row are used, the first ones; null uses all,
            0 clean rows alone. A search over it says how many pay.
        labelled_views: whether the labelled batch also consists of views, if the run's teachers have views. Rows that
            the methods see are views in any case.
        accumulate: number of parts into which the rows of a step are divided. They go through the student one after
            another, and their gradients are summed, so a large batch only needs the memory of a part. A method or a
            BatchNorm sees the rows of one part at a time.
        sampling: of labelled batches: `uniform` takes every row once per epoch, `balanced` takes equally many rows of
            each class.
        learning_rate: the peak learning rate of the student; it then falls to 0 as a cosine.
        layer_decay: for pretrained students: the learning rate of a layer is that of the layer above times this.
        trained_layers: for pretrained students: train only this many layers, the last ones, and the new head; 0 trains
            only the head, null all layers.
        weight_decay: weight decay of the student.
        decayed: which of its weights decay: `all`, or `matrices`, which excludes biases and norms.
        clip: the largest norm of the student's gradient; longer gradients are scaled down to it. null does not clip.
        average: the decay, such as 0.999, of a moving average of the student's weights, which is then validated and
            kept; 0 keeps the weights themselves.
        label_smoothing: share of each label that is spread evenly over the classes, or over yes and no.
        class_weights: weights of the classes in the loss on labels: `balanced` gives each class the same sum of
            weights; a mapping such as `{rare: 5.0}` gives weights by name, 1 by default. Probes and scores are not
            weighted.
        warmup: share of the steps on which the learning rate rises.
        val: the score on validation rows that chooses candidates and stops trainings, such as `macro_f1`; the task's
            first one if null. Candidates always race by the first one.
        mix: whether the student's last layer, if its outputs are linear in its features, is mixed after training with
            one that is fitted to the labels alone; with any methods, or none.
        early_stopping: end a training after this many consecutive validations, of about 20, that were no better than
            the best one, and keep the student of the best; null trains to the end and keeps the last.
        seeds: one training each; seed k uses split k modulo `dataset.splits`.
        race: whether a candidate of a search that is clearly worse than the best one, by the validation rows of two
            seeds or more, is not trained on the rest of the seeds. The choice is among those trained on all.
        precision: float32, or autocast to bfloat16, or to float16 with a scaled loss; penalties are computed in float32
            in any case.
        compile: compile a step from the student's input to the loss, methods included, with torch.compile: it takes
            about a minute, and draws other dropout. `cuda_graphs` also starts all of its kernels at once, on an NVIDIA
            GPU, for students that do not read texts.
        channels_last: keep images and filters with the channels last in memory; faster for convolutions.
    """

    steps: int | Literal["auto"] = "auto"
    epochs: float | None = Field(default=None, gt=0)
    batch_size: int = Field(default=128, ge=1)
    transfer_batch_size: int = Field(default=256, ge=FEWEST_ROWS)
    unlabelled: bool = True
    augment: dict[str, dict[str, Any]] = Field(default_factory=dict)
    augment_transfer: bool = False
    views: int | None = Field(default=None, ge=0)
    labelled_views: bool = False
    accumulate: int = Field(default=1, ge=1)
    sampling: Literal["uniform", "balanced"] = "uniform"
    learning_rate: float = Field(default=1e-3, gt=0)
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    trained_layers: int | None = Field(default=None, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    decayed: Literal["all", "matrices"] = "all"
    clip: float | None = Field(default=None, gt=0)
    average: float = Field(default=0.0, ge=0, lt=1)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    class_weights: Literal["balanced"] | dict[str, float] | None = None
    warmup: float = Field(default=0.05, ge=0, lt=1)
    val: str | None = None
    mix: bool = False
    early_stopping: int | None = Field(default=None, ge=1)
    seeds: list[int] = Field(default=[0, 1, 2, 3, 4], min_length=1)
    race: bool = True
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    compile: bool | Literal["cuda_graphs"] = False
    channels_last: bool = False

    @field_validator("steps", mode="before")
    @classmethod
    def _there_are_steps(cls, steps: Any) -> Any:
        if steps != "auto" and (type(steps) is not int or steps < 1):
            raise ValueError("should be a whole number >= 1, or auto")
        return steps

    @field_validator("class_weights")
    @classmethod
    def _weights_are_positive(cls, weights: Any) -> Any:
        if isinstance(weights, dict) and not all(0 < weight < inf for weight in weights.values()):
            raise ValueError("should be `balanced` or positive numbers by class, such as {rare: 5.0}")
        return weights

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: list[int]) -> list[int]:
        if min(seeds) < 0 or len(set(seeds)) != len(seeds):
            raise ValueError("should be different numbers >= 0, such as [0, 1, 2]")
        return seeds

    @model_validator(mode="after")
    def _fits_together(self) -> "TrainSettings":
        if {"steps", "epochs"} <= self.model_fields_set and self.epochs is not None:
            raise ValueError("give `steps` or `epochs`, not both")
        if self.accumulate > self.batch_size:
            raise ValueError(f"accumulate: {count(self.accumulate, 'part')} of a batch of {self.batch_size}; set fewer")
        if self.compile == "cuda_graphs" and self.accumulate > 1:
            raise ValueError(
                f"compile: cuda_graphs and accumulate: {self.accumulate}: each part would overwrite the gradients of "
                "the one before; set `compile: true`, or `accumulate: 1`"
            )
        if self.sampling == self.class_weights == "balanced":
            raise ValueError("class_weights and sampling are both `balanced`, which would balance twice; drop one")
        if self.decayed == "matrices" and not self.weight_decay:
            raise ValueError("decayed: matrices, and weight_decay is 0; set weight_decay, or drop `decayed`")
        return self

    def check(self, where: str, reads: str, student: Mapping[str, Any], methods: bool) -> None:
        """Make sure that the settings fit a student and each other; `where` is their place, for messages.

        Args:
            where: the settings are.
            reads: what the student's family reads.
            student: its settings.
            methods: whether the run has any.

        Raises:
            UserError: an option is for other students.
        """
        for key in ("layer_decay", "trained_layers"):
            if getattr(self, key) != type(self).model_fields[key].default and not student.get("pretrained"):
                raise UserError(
                    f"{where}: {key}: is for students that start from pretrained weights, with `pretrained: true`; "
                    "remove it"
                )
        if self.trained_layers == 0 and methods:
            raise UserError(
                f"{where}: trained_layers: 0 trains the head alone, and methods teach the features below it, which "
                "then do not train; set 1 or more, or drop `methods`"
            )
        if self.channels_last and reads != "image":
            raise UserError(f"{where}: channels_last: is for students that read images; remove it")
        if self.compile and which(os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")) is None:
            raise UserError(f"{where}: compile: torch.compile needs a C++ compiler; install g++, set CXX, or remove it")
        if self.compile == "cuda_graphs" and reads in ("text", "pair"):
            raise UserError(
                f"{where}: compile: cuda_graphs: is for batches of one shape, and texts differ in length; set it to "
                "true"
            )

    def check_device(self, where: str, device: str) -> None:
        """Make sure that a device of this type can train so.

        Raises:
            UserError: it cannot.
        """
        if self.compile == "cuda_graphs" and device != "cuda":
            raise UserError(
                f"{where}: compile: cuda_graphs: needs an NVIDIA GPU, and this training runs on {device}; set it to "
                "true"
            )

    def check_views(self, where: str, made: Views | None) -> None:
        """Make sure that the teachers of a run have the views that are asked for; without any, none are.

        Raises:
            UserError: they have fewer.
        """
        if made and (self.views or 0) > made.count:
            raise UserError(
                f"{where}: views: {self.views}, and the run's teachers have {made.count} of each row; write "
                f"{made.count} or fewer, or a larger `count` in their `views`"
            )

    def check_task(self, where: str, task: Task) -> None:
        """Make sure that the settings fit the task.

        Raises:
            UserError: an option is for other tasks, or `val` names no score.
        """
        for key, used, there in (
            ("class_weights", self.class_weights is not None, task.weighable),
            ("sampling", self.sampling == "balanced", task.weighable),
            ("label_smoothing", self.label_smoothing > 0, task.smoothable),
        ):
            if used and not there:
                what = {"class_weights": "weight", "sampling": "balance", "label_smoothing": "smooth"}[key]
                raise UserError(f"{where}: {key}: {task.name} has no classes to {what}; remove it")
        task.metric(self.val)

    def of_trial(self, split: Split, views: bool) -> "TrialSettings":
        """The same settings with the length in steps.

        Args:
            split: whose training rows they are. An epoch that is no multiple of a batch leaves some out, as every
                epoch does.
            views: whether the run's teachers have any.
        """
        if self.epochs is not None:
            steps = max(1, round(self.epochs * max(1, len(split.labelled) // self.batch_size)))
        elif self.steps == "auto":
            steps = self._auto_steps(split, views)
        else:
            steps = self.steps
        return TrialSettings(**dict(self) | {"steps": steps, "epochs": None})

    def _auto_steps(self, split: Split, views: bool) -> int:
        """The steps of so many passes over the rows that methods see; as many without methods, for runs to compare."""
        apart = self.unlabelled and len(split.unlabelled) > 0
        rows, batch = (split.train, self.transfer_batch_size) if apart else (split.labelled, self.batch_size)
        changing = (views and self.views != 0) or (bool(self.augment) and (self.augment_transfer or not apart))
        passes = CHANGING_PASSES if changing else PASSES
        return min(max(ceil(passes * len(rows) / batch), FEWEST_STEPS), MOST_STEPS)


class TrialSettings(TrainSettings):
    """Settings whose length is known: `epochs` is null."""

    steps: int


def train_settings(where: str, *layers: Mapping[str, Any]) -> TrainSettings:
    """The settings from several layers, of which later ones override: `train`, a run's own, and those of a candidate.

    Raises:
        UserError: a setting is wrong.
    """
    values: dict[str, Any] = {}
    for layer in layers:
        # A layer that has one of the two lengths replaces both.
        lengths = {"steps", "epochs"} if {"steps", "epochs"} & layer.keys() else set()
        values = {key: value for key, value in values.items() if key not in lengths} | dict(layer)
    return parse(TrainSettings, values, where)


FOR_SOLVED = ("seeds", "race", "class_weights", "val")
"""Settings of `train` that concern a student which is solved for."""


def check_student(run: Run, family: str, where: str) -> None:
    """Make sure that a family's students can learn as a run says.

    Args:
        run: the run.
        family: of its student.
        where: the run's place in params.yaml, for messages.

    Raises:
        UserError: it has methods, shuffled teachers, views or settings of training that mean nothing to the family.
    """
    features, solved = plugin("students", family).KIND == "features", is_solved(family)
    if not features and not solved:
        return
    why = "reads its teachers' features, which do not train" if features else "is solved for, and takes no steps"
    if run.methods or run.shuffle_teachers:
        raise UserError(
            f"{where}: a {family} student {why}; drop `methods` and `shuffle_teachers`, or choose another student"
        )
    if views := {source.view for source in run.sources} - {""}:
        raise UserError(
            f"{where}: a {family} student reads {'features of ' if features else ''}clean rows; write its teachers "
            f"without `@{min(views)}`"
        )
    searched = (key.removeprefix("train.") for key in run.search if key.startswith("train."))
    if solved and (idle := sorted({*run.train, *searched} - set(FOR_SOLVED))):
        raise UserError(f"{where}: a {family} student {why}: train.{idle[0]} does nothing; remove it from this run")


@dataclass(frozen=True)
class Plan:
    """A run and its surroundings; small enough to send to a worker process, which opens the data itself."""

    name: str
    params: Params
    project: Project
    run: Run
    machine: Machine

    @classmethod
    def read(cls, name: str, params: Params, project: Project) -> "Plan":
        """The run `name` of params.yaml.

        Raises:
            UserError: there is no such run, or a setting of it is wrong.
        """
        return cls(name, params, project, read_run(params, name), params.read(Machine, "machine"))

    def settings(self, changes: dict[str, Any]) -> TrainSettings:
        """The `train` section, with the changes of the run and then those of a candidate.

        Raises:
            UserError: a setting is wrong.
        """
        where = f"{self.params.source}: train (for {self.name})"
        return train_settings(where, self.params.section("train"), self.run.train, changes)

    def augmentations(self, settings: TrainSettings) -> tuple[Augmentation, ...]:
        """Those of these settings, in the order in which they are applied. Raises `UserError`: one is wrong."""
        return read_augmentations(settings.augment, f"{self.params.source}: train.augment (for {self.name})")

    @property
    def where(self) -> str:
        """The run's place in params.yaml, for messages."""
        return f"{self.params.source}: runs.{self.name}"
