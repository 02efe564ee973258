"""What a training stands on: the plan of a run, the data and stores it opens, one draw of the splits."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from pipeline.data.dataset import Dataset, Split
from pipeline.errors import UserError
from pipeline.functional import linear
from pipeline.machine import Machine
from pipeline.methods import Context, KernelProfile, TeacherProfile
from pipeline.params import Params, Settings, parse
from pipeline.probing import probes
from pipeline.runs import config
from pipeline.store import FeatureStore, Reader
from pipeline.students import Inputs, Student, student_outputs, student_recipe

LEAST = 3
"""Rows that methods must see at a time: fewer have no kernel to learn from."""

BLOCK = 8192
"""Rows of teachers' logits held at a time while they are compared with labels."""


class TrainSettings(Settings):
    """The `train` section.

    Attributes:
        steps: of the optimiser, AdamW.
        batch_size: labelled rows per step; at least 3 where methods see these.
        transfer_batch_size: rows per step that the methods see, drawn from labelled and unlabelled training rows
            together; where all training rows have labels, the methods see the labelled batch instead.
        unlabelled: whether methods see unlabelled rows at all; if not, they see the labelled batch.
        learning_rate: of the student, at its peak; then a cosine down to 0.
        weight_decay: of the student.
        warmup: share of the steps on which the learning rate rises.
        seeds: one training each; seed k uses draw k of the splits.
        precision: float32, or bfloat16 autocast; penalties are computed in float32 in any case.
    """

    steps: int = Field(default=1000, ge=1)
    batch_size: int = Field(default=128, ge=1)
    transfer_batch_size: int = Field(default=256, ge=LEAST)
    unlabelled: bool = True
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    warmup: float = Field(default=0.05, ge=0, lt=1)
    seeds: list[int] = Field(default=[0, 1, 2, 3, 4], min_length=1)
    precision: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class Plan:
    """All that determines a run; small enough to send to a worker process, which opens the data itself."""

    name: str
    params: Params
    root: Path
    run: config.Run
    machine: Machine
    id: str
    """Of this call of `train`."""

    def settings(self, changes: dict[str, Any]) -> TrainSettings:
        """The `train` section, as this run changes it, and then a candidate."""
        values = self.params.section("train") | self.run.train | changes
        return parse(TrainSettings, values, f"{self.params.source}: train (for {self.name})")

    @property
    def out(self) -> Path:
        """Where the run is written, until it is whole."""
        return self.root / "runs" / f".{self.name}.partial"


class Session:
    """What a run's trainings share: the dataset, the stores of its teachers, the student's view of the data."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.device = plan.machine.torch_device()
        self.data = Dataset.open(plan.root / "data")
        self.stores = {name: FeatureStore.open(plan.root / "features" / f"{name}.zarr") for name in plan.run.teachers}
        for name, store in self.stores.items():
            store.check(dataset=self.data.digest, ids=self.data.ids)
            config.check_heads(plan.run, name, store, len(self.data.classes))
        budget = int(plan.machine.device_memory * 2**30)
        readers = open_readers(tuple(self.stores.values()), self.device, budget, plan.run.heads)
        self.readers, self.heads = readers[: len(self.stores)], readers[len(self.stores) :]

    @property
    def reading(self) -> list[str]:
        """Where each teacher's features are read, and why, a line each."""
        lines = []
        names = [*self.stores, *(f"{name} ({head})" for head in self.plan.run.heads for name in self.stores)]
        for name, reader in zip(names, [*self.readers, *self.heads], strict=True):
            slow = "; steps take rows in random order, so the disk sets the pace" if reader.mode == "window" else ""
            lines.append(f"{name} {reader.why}{slow}")
        return lines

    def check_what_heads_say(self) -> None:
        """Compare what teachers' own heads say with the labels of training rows, of every draw that the run uses.

        Of each row itself, even where the run gives it another one's.

        Raises:
            UserError: a head is right no more often than one that always says the same.
        """
        if not self.heads:
            return
        draws = {seed % self.data.splits for seed in self.plan.settings({}).seeds}
        rows = np.unique(np.concatenate([self.data.split(number).labelled for number in draws]))
        counts = np.bincount(self.data.labels[rows])
        for store, reader in zip(self.stores.values(), self.heads, strict=True):
            right = 0
            for start in range(0, len(rows), BLOCK):
                block = rows[start : start + BLOCK]
                said = gather(reader, block, self.device).argmax(1).cpu().numpy()
                right += int((said == self.data.labels[block]).sum())
            if right <= counts.max():
                raise UserError(
                    f"{store.path}: head `{config.LOGITS}` is right on {right} of {len(rows):,} labelled training "
                    f"rows, and always saying {self.data.classes[counts.argmax()]!r} on {counts.max()}: its classes "
                    f"are likely in another order than in {self.data.path}/manifest.json; train it on that "
                    "order, or set `logits: probe`"
                )

    def draw(self, seed: int, candidate: config.Candidate) -> "TrialData":
        """What depends on the seed, on its draw of the splits, and on the settings that the candidate tries."""
        return self._draw(seed, json.dumps(candidate.of("student")), json.dumps(candidate.of("train")))

    @lru_cache(maxsize=1)  # noqa: B019  (a world lives as long as its process)
    def _draw(self, seed: int, student: str, train: str) -> "TrialData":
        return TrialData(self, seed, json.loads(student), json.loads(train))


class TrialData:
    """One draw of the splits: who is what, the student's inputs, the teachers' profiles and features.

    Args:
        world: what all trainings share.
        seed: of the training.
        student, train: the settings of the student and of `train` that a candidate tries.
    """

    def __init__(self, world: Session, seed: int, student: dict[str, Any], train: dict[str, Any]):
        data, plan = world.data, world.plan
        number = seed % data.splits
        self.world, self.seed = world, seed
        self.split: Split = data.split(number)
        self.labels = data.visible_labels(number)
        self.settings = plan.settings(train)
        if plan.run.methods:
            self._check_batch()
        where = f"{plan.params.source}: students.{plan.run.student}"
        where += f" (with runs.{plan.name}.search)" if student else ""
        section = plan.params.section(f"students.{plan.run.student}") | student
        self.recipe = student_recipe(section, where, data, self.split.train, world.stores)
        if self.recipe.reads == "features" and (plan.run.methods or plan.run.shuffle_teachers):
            raise UserError(
                f"{plan.params.source}: runs.{plan.name}: the features of a {self.recipe.family} student are its "
                "teachers' own and do not train; drop `methods` and `shuffle_teachers`, or choose another student"
            )
        self.profiles = tuple(
            _profile(
                name, probes.load_probe(plan.root / "probes" / f"{name}.safetensors", number, data, store), world.device
            )
            for name, store in world.stores.items()
        )
        self.stand_in = np.arange(len(data))
        if plan.run.shuffle_teachers:
            # Among training rows only, and the same way for every weight, so that nothing else differs.
            self.stand_in[self.split.train] = np.random.default_rng([seed, 2]).permutation(self.split.train)
        folds = np.full(len(data), -1)
        folds[self.split.labelled] = linear.folds(data.labels[self.split.labelled], number)
        self.folds = folds[self.stand_in]

    def _check_batch(self) -> None:
        """Refuse batches from which no method learns: two rows, once centred, are opposite whatever they are.

        Raises:
            UserError: methods would see fewer than `LEAST` rows at a time.
        """
        plan, split = self.world.plan, self.split
        where = f"{plan.params.source}: train (for {plan.name})"
        if len(split.train) < LEAST:
            raise UserError(f"{where}: methods need {LEAST} training rows, and there are {len(split.train)}; add rows")
        if not (self.settings.unlabelled and len(split.unlabelled)) and self.settings.batch_size < LEAST:
            raise UserError(
                f"{where}: batch_size: {self.settings.batch_size}: where no row without a label is used, methods "
                f"see the labelled batch, and learn nothing from so few; set it to {LEAST} or more"
            )

    @cached_property
    def inputs(self) -> Inputs:
        """The dataset as the student reads it."""
        return self.recipe.inputs(self.world.data, self.world.stores)

    def teacher_features(self, teacher: int, rows: np.ndarray) -> Float[Tensor, "n teacher"]:
        """Raw features of one teacher, float32, on the device."""
        return gather(self.world.readers[teacher], self.stand_in[rows], self.world.device).float()

    def head_logits(self, teacher: int, rows: np.ndarray) -> Float[Tensor, "n classes"]:
        """What one teacher's own head says, float32, on the device; where the run has methods that follow it."""
        return gather(self.world.heads[teacher], self.stand_in[rows], self.world.device).float()

    def context(self, student: Student) -> Context:
        """What methods may look at before training."""

        def student_features(rows: np.ndarray) -> Tensor:
            batches = student_outputs(student, self.inputs, rows, self.world.device)
            return torch.cat([features.float() for features, _ in batches]).clone()

        return Context(
            student_width=student.width,
            classes=len(self.recipe.classes),
            teachers=self.profiles,
            train_rows=self.split.train,
            labelled_rows=self.split.labelled,
            val_rows=self.split.val,
            labels=torch.from_numpy(self.labels).to(self.world.device),
            folds=torch.from_numpy(self.folds).to(self.world.device),
            teacher_features=self.teacher_features,
            student_features=student_features,
            seed=self.seed,
        )


def open_readers(
    stores: Sequence[FeatureStore], device: torch.device, budget: int, heads: Sequence[str] = ()
) -> list[Reader]:
    """Readers of the teachers' features, and then of further heads of theirs: on a GPU, one after the other, while
    `budget` bytes of it last."""
    readers = []
    for store, head in [(store, store.head_name(head)) for head in (None, *heads) for store in stores]:
        if device.type == "cpu":
            readers.append(store.reader(head))
            continue
        readers.append(store.reader(head, device=str(device), device_memory=budget))
        if readers[-1].mode == "device":
            budget -= len(store) * store.heads[head].row_bytes
    return readers


def gather(reader: Reader, rows: np.ndarray, device: torch.device) -> Float[Tensor, "n *shape"]:
    """Rows of a reader, on the device, in the reader's precision; a GPU's copy is not waited for."""
    if reader.mode == "device":
        return cast(Tensor, reader(rows))
    if device.type == "cpu":
        return torch.from_numpy(reader(rows))
    # torch keeps pinned memory from being used again before what was copied from it has arrived.
    dtype = torch.from_numpy(np.empty(0, reader.dtype)).dtype
    pinned = torch.empty((len(rows), *reader.shape), dtype=dtype, pin_memory=True)
    reader(rows, out=pinned.numpy())
    return pinned.to(device, non_blocking=True)


def _profile(name: str, fitted: probes.Probe, device: torch.device) -> TeacherProfile:
    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(device)

    return TeacherProfile(
        name=name,
        mean=tensor(fitted.mean),
        std=tensor(fitted.std),
        row_norm=fitted.row_norm,
        probe_weight=tensor(fitted.weight),
        probe_bias=tensor(fitted.bias),
        fold_weight=tensor(fitted.fold_weight),
        fold_bias=tensor(fitted.fold_bias),
        direction_std=tensor(fitted.direction_std),
        kernel=KernelProfile(
            tensor(fitted.kernel.landmarks),
            fitted.kernel.sharpness,
            tensor(fitted.kernel.weight),
            tensor(fitted.kernel.bias),
            tensor(fitted.kernel.fold_weight),
            tensor(fitted.kernel.fold_bias),
            tensor(fitted.kernel_std),
            fitted.kernel.val_log_loss < fitted.val_log_loss,
        ),
    )
