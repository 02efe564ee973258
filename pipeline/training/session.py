"""What the trials of a run share: the dataset, the stores of its teachers, and one split of the rows at a time."""

import json
from collections.abc import Sequence
from functools import cache, cached_property, lru_cache
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.data.dataset import Dataset, Split
from pipeline.errors import UserError
from pipeline.functional import linear
from pipeline.methods import Context, KernelProfile, TeacherProfile
from pipeline.params import parse, plugin
from pipeline.probing import probes
from pipeline.provenance import digest_files
from pipeline.runs import config
from pipeline.store import FeatureStore, Reader
from pipeline.students import Inputs, Recipe, Student, student_outputs, student_recipe
from pipeline.training.config import FEWEST_ROWS, Plan

BLOCK = 8192
"""Rows of teachers' logits held at a time while they are compared with labels."""


class Session:
    """What the trials of a run share. It may be pickled: a copy in another process opens the same files again.

    Attributes:
        plan: the run.
        run: the run with the settings that `weight: auto` searches; see `pipeline.methods`.
        device: where students are trained.
        data: the dataset.
        task: what is learned.
        stores: the feature stores of the run's teachers, by name.
        readers, heads: readers of the teachers' features, and of their own logits where a method follows those.

    Raises:
        UserError: a setting of a method is wrong, or a store is not what the run needs.
    """

    def __init__(self, plan: Plan):
        self.plan = plan
        self.modules = {term.name: plugin("methods", term.name) for term in plan.run.methods}
        self.run = self._with_auto_settings()
        for combination in self.run.combinations():
            for term in self.run.methods:
                self.method(term, combination)
        self.device = plan.machine.torch_device()
        self.data = Dataset.open(plan.project.data)
        self.task = self.data.task
        self.stores = {name: FeatureStore.open(plan.project.store(name)) for name in plan.run.teachers}
        for name, store in self.stores.items():
            store.check(dataset=self.data.digest, ids=self.data.ids)
            config.check_heads(plan.run, name, store, len(self.data.task.outputs))
        budget = int(plan.machine.device_memory * 2**30)
        readers = open_readers(tuple(self.stores.values()), self.device, budget, plan.run.heads)
        self.readers, self.heads = readers[: len(self.stores)], readers[len(self.stores) :]

    def __reduce__(self) -> tuple[Any, ...]:
        return Session, (self.plan,)

    @property
    def reading(self) -> list[str]:
        """Where each teacher's features are read, and why, a line each."""
        lines = []
        names = [*self.stores, *(f"{name} ({head})" for head in self.plan.run.heads for name in self.stores)]
        for name, reader in zip(names, [*self.readers, *self.heads], strict=True):
            slow = "; steps take rows in random order, so the disk sets the pace" if reader.mode == "window" else ""
            lines.append(f"{name} {reader.why}{slow}")
        return lines

    def check_heads(self) -> None:
        """Compare the logits of teachers' own heads with the labels of training rows, of every split that the run uses.

        Each row with its own label, even where the run shuffles teachers.

        Raises:
            UserError: a head is right no more often than the most frequent class.
        """
        if not self.heads:
            return
        splits = {seed % self.data.splits for seed in self.plan.settings({}).seeds}
        rows = np.unique(np.concatenate([self.data.split(number).labelled for number in splits]))
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
                    f"rows, and always saying {self.data.task.outputs[counts.argmax()]!r} on {counts.max()}: its classes "
                    f"are likely in another order than in {self.data.path}/manifest.json; train it on that "
                    "order, or set `logits: probe`"
                )

    def method(self, term: config.Term, candidate: config.Candidate) -> Any:
        """The settings of a method, with those that the candidate tries.

        Raises:
            UserError: one is wrong.
        """
        tried = candidate.of(f"methods.{term.name}")
        return parse(self.modules[term.name].Settings, term.options | tried, self.where(term, bool(tried)))

    def head_digests(self, store: str) -> dict[str, str]:
        """Digests of what the run reads of a store, by head."""
        found = self.stores[store]
        return {head: found.head_digest(head) for head in (found.head_name(), *self.run.heads)}

    def probe_digest(self, store: str) -> str:
        """A digest of the probes of a store."""
        return digest_files(self.plan.project.probes / f"{store}.safetensors")

    def where(self, term: config.Term, searched: bool = False) -> str:
        """Where a method's settings are, for messages."""
        return f"{self.plan.where}.methods.{term.name}" + (
            f" (with runs.{self.plan.name}.search)" if searched else ""
        )

    def recipe(self, split: int, candidate: config.Candidate) -> Recipe:
        """The student that a candidate trains on a split.

        Raises:
            UserError: a setting of the student is wrong, or it cannot learn by the run's methods.
        """
        return self._recipe(split, json.dumps(candidate.of("student")))

    @cache  # noqa: B019  (a session lives as long as its process)
    def _recipe(self, split: int, changes: str) -> Recipe:
        plan, tried = self.plan, json.loads(changes)
        where = f"{plan.params.source}: students.{plan.run.student}"
        where += f" (with runs.{plan.name}.search)" if tried else ""
        section = plan.params.section(f"students.{plan.run.student}") | tried
        recipe = student_recipe(section, where, self.data, self.data.split(split).train, self.stores)
        if recipe.reads == "features" and (plan.run.methods or plan.run.shuffle_teachers):
            raise UserError(
                f"{plan.where}: a {recipe.family} student reads its teachers' features, which do not train; drop "
                "`methods` and `shuffle_teachers`, or choose another student"
            )
        return recipe

    def trial_data(self, seed: int, candidate: config.Candidate) -> "TrialData":
        """What depends on the seed, on its split, and on the settings that the candidate tries."""
        return self._trial_data(seed, json.dumps(candidate.of("student")), json.dumps(candidate.of("train")))

    @lru_cache(maxsize=1)  # noqa: B019  (a session lives as long as its process)
    def _trial_data(self, seed: int, student: str, train: str) -> "TrialData":
        recipe = self._recipe(seed % self.data.splits, student)
        return TrialData(self, seed, recipe, json.loads(train))

    def _with_auto_settings(self) -> config.Run:
        """The run, with what `weight: auto` searches of its methods' settings, where the run does not set them."""
        run = self.plan.run
        search = {
            f"methods.{term.name}.{key}": values
            for term in run.methods
            if term.weight == "auto"
            for key, values in getattr(self.modules[term.name], "AUTO", {}).items()
            if key not in term.options and f"methods.{term.name}.{key}" not in run.search
        }
        # Last, so that they change fastest: combinations that differ in them alone share what is read of the data.
        return run.model_copy(update={"search": run.search | search})


class TrialData:
    """What one seed trains on: who has which role, the student's inputs, the teachers' profiles and features.

    Args:
        session: what all trials share.
        seed: of the trial.
        recipe: of the student.
        changes: the settings of `train` that a candidate tries.

    Attributes:
        split: the rows of every role.
        labels: of all rows [rows], missing where training must not see them.
        settings: the `train` section.
        profiles: what is known of each teacher before training.
        stand_in: the row whose teachers' features each row is given [rows]; the row itself, unless teachers are
            shuffled.
        folds: per row, the fold of the labelled rows that its teachers' row is in, or -1 [rows].
    """

    def __init__(self, session: Session, seed: int, recipe: Recipe, changes: dict[str, Any]):
        data, plan = session.data, session.plan
        number = seed % data.splits
        self.session, self.seed, self.recipe = session, seed, recipe
        self.split: Split = data.split(number)
        self.labels = data.visible_labels(number)
        self.settings = plan.settings(changes)
        if plan.run.methods:
            self._check_batch()
        self.profiles = tuple(
            _profile(
                name,
                probes.load_probe(plan.project.probes / f"{name}.safetensors", number, data, store),
                session.device,
            )
            for name, store in session.stores.items()
        )
        self.stand_in = np.arange(len(data))
        if plan.run.shuffle_teachers:
            # Among training rows only, and the same for every weight, so that nothing else differs.
            self.stand_in[self.split.train] = np.random.default_rng([seed, 2]).permutation(self.split.train)
        folds = np.full(len(data), -1)
        folds[self.split.labelled] = linear.folds(data.labels[self.split.labelled], number)
        self.folds = folds[self.stand_in]

    def _check_batch(self) -> None:
        """Refuse batches from which no method learns.

        Raises:
            UserError: methods would see fewer than `FEWEST_ROWS` rows at a time.
        """
        plan, split = self.session.plan, self.split
        where = f"{plan.params.source}: train (for {plan.name})"
        if len(split.train) < FEWEST_ROWS:
            raise UserError(
                f"{where}: methods need {FEWEST_ROWS} training rows, and there are {len(split.train)}; add rows"
            )
        if not (self.settings.unlabelled and len(split.unlabelled)) and self.settings.batch_size < FEWEST_ROWS:
            raise UserError(
                f"{where}: batch_size: {self.settings.batch_size}: where no row without a label is used, methods "
                f"see the labelled batch, and learn nothing from so few; set it to {FEWEST_ROWS} or more"
            )

    @cached_property
    def inputs(self) -> Inputs:
        """The dataset as the student reads it."""
        return self.recipe.inputs(self.session.data, self.session.stores)

    def teacher_features(self, teacher: int, rows: np.ndarray) -> Float[Tensor, "n teacher"]:
        """Raw features of one teacher, float32, on the device."""
        return gather(self.session.readers[teacher], self.stand_in[rows], self.session.device).float()

    def head_logits(self, teacher: int, rows: np.ndarray) -> Float[Tensor, "n classes"]:
        """The logits of one teacher's own head, float32, on the device; where the run has methods that follow it."""
        return gather(self.session.heads[teacher], self.stand_in[rows], self.session.device).float()

    def context(self, student: Student) -> Context:
        """What methods may look at before training."""

        def student_features(rows: np.ndarray) -> Tensor:
            batches = student_outputs(student, self.inputs, rows, self.session.device)
            return torch.cat([features.float() for features, _ in batches]).clone()

        return Context(
            student_width=student.width,
            classes=len(self.recipe.classes),
            teachers=self.profiles,
            train_rows=self.split.train,
            labelled_rows=self.split.labelled,
            val_rows=self.split.val,
            labels=torch.from_numpy(self.labels).to(self.session.device),
            folds=torch.from_numpy(self.folds).to(self.session.device),
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
