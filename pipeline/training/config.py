"""The `train` section of params.yaml, and a run with all that its trainings need to know."""

from dataclasses import dataclass
from math import inf
from typing import Any, Literal

from pydantic import Field, field_validator

from pipeline.augmentations import Augmentation, read_augmentations
from pipeline.machine import Machine
from pipeline.params import Params, Settings, parse
from pipeline.project import Project
from pipeline.runs import Run, read_run

FEWEST_ROWS = 3
"""Rows that methods must see at a time. Two rows, once centred, are opposite whatever they are."""


class TrainSettings(Settings):
    """The `train` section.

    Attributes:
        steps: of the optimiser, AdamW.
        batch_size: labelled rows per step; at least 3 where the methods see these.
        transfer_batch_size: rows per step that the methods see, sampled from labelled and unlabelled training rows
            together. Where all training rows have labels, the methods see the labelled batch instead.
        unlabelled: whether methods see unlabelled rows at all; if not, they see the labelled batch.
        augment: random changes of the labelled batch, by name, each with its settings, such as
            `{crop: {}, flip: {}, mixup: {alpha: 0.2}}`; see `pipeline.augmentations`. Methods see clean rows, or views.
        labelled_views: whether the labelled batch, too, consists of views, where the run's teachers have views. Rows
            that the methods see are views in any case.
        learning_rate: of the student, at its peak; it then falls to 0 as a cosine.
        weight_decay: of the student.
        class_weights: of the classes in the loss on labels: `balanced` gives each class the same sum of weights, a
            mapping such as `{rare: 5.0}` weights by name, 1 where there is none; probes and scores have no weights.
        warmup: share of the steps on which the learning rate rises.
        seeds: one training each; seed k uses split k modulo `dataset.splits`.
        race: whether a candidate of a search that is clearly worse than the best one, by the validation rows of two
            seeds or more, is not trained on the rest of the seeds. The choice is among those trained on all.
        precision: float32, or bfloat16 autocast; penalties are computed in float32 in any case.
    """

    steps: int = Field(default=1000, ge=1)
    batch_size: int = Field(default=128, ge=1)
    transfer_batch_size: int = Field(default=256, ge=FEWEST_ROWS)
    unlabelled: bool = True
    augment: dict[str, dict[str, Any]] = Field(default_factory=dict)
    labelled_views: bool = False
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    class_weights: Literal["balanced"] | dict[str, float] | None = None
    warmup: float = Field(default=0.05, ge=0, lt=1)
    seeds: list[int] = Field(default=[0, 1, 2, 3, 4], min_length=1)
    race: bool = True
    precision: Literal["float32", "bfloat16"] = "float32"

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
        values = self.params.section("train") | self.run.train | changes
        return parse(TrainSettings, values, f"{self.params.source}: train (for {self.name})")

    def augmentations(self, settings: TrainSettings) -> tuple[Augmentation, ...]:
        """Those of these settings, in the order in which they are applied. Raises `UserError`: one is wrong."""
        return read_augmentations(settings.augment, f"{self.params.source}: train.augment (for {self.name})")

    @property
    def where(self) -> str:
        """The run's place in params.yaml, for messages."""
        return f"{self.params.source}: runs.{self.name}"
