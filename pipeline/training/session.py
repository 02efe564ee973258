"""The data that the trials of a run share: the dataset, the stores of its teachers, and one split at a time."""

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from functools import cache, cached_property, lru_cache
from importlib import import_module
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.augmentations import Augmented, Augmenter, check_kind
from pipeline.data import Dataset, Split, open_labelled
from pipeline.errors import UserError
from pipeline.methods import Context, Directions, Reads, TeacherOutput, TeacherProfile
from pipeline.params import parse, plugin
from pipeline.probing import SavedProbe
from pipeline.provenance import digest_of
from pipeline.runs import Candidate, Run, Term, open_features, probe_digest, run_views
from pipeline.sources import Source
from pipeline.store import FeatureStore, Reader, SourceFeatures
from pipeline.students import Blueprint, Inputs, Student, place, student_blueprint, student_outputs
from pipeline.training.config import FEWEST_ROWS, Plan, TrialSettings, check_student
from pipeline.training.parallel import Group

if TYPE_CHECKING:
    from pipeline.training.live import LiveTeachers

BLOCK = 8192
"""The number of rows of teachers' logits in memory while they are compared with labels."""


class Session:
    """What the trials of a run share. It may be pickled: a copy in another process opens the same files again.

    A session of the same project may be made like another one: it then uses the dataset and the stores that this one
    has opened, as far as both read the same.

    Attributes:
        plan: the run.
        refit: whether students learn from the labels of validation rows, too, after all was chosen.
        run: the run with the settings that `weight: auto` searches; see `pipeline.methods`.
        device: where students are trained.
        data: the dataset.
        task: what is learned.
        metric: what the run's candidates are chosen by, and trainings stopped.
        sources: the features of the run's sources, by name.
        views: of the rows, which the run's teachers and its student see besides the clean ones; None without.
        features: of all sources that the run reads: its teachers, and their own outputs where a method follows those.
        heads, readers: by source, the heads of its store, and readers of them: that of the clean rows, then one a view.
        feature_readers: the same by number of the source, as methods count them.
        output_readers: likewise, of teachers' own outputs, by what `logits` of methods say.

    Raises:
        UserError: a setting of a method is wrong, or a store is not what the run needs.
    """

    def __init__(self, plan: Plan, refit: bool = False, like: "Session | None" = None):
        self.plan, self.refit = plan, refit
        self.modules = {term.name: plugin("methods", term.name) for term in plan.run.methods}
        self.run = self._with_auto_settings()
        for combination in self.run.combinations():
            for term in self.run.methods:
                self.method(term, combination)
        self.device = plan.machine.torch_device()
        same_rows = like and like.plan.project == plan.project
        self.data: Dataset = (
            like.data if like and same_rows else open_labelled(plan.project.data, plan.project.labelled)
        )
        self.task = self.data.task
        self.metric = self.task.metric(plan.settings({}).val)
        same = like and (like.plan.run.reads, like.device) == (plan.run.reads, self.device)
        self.features: dict[Source, SourceFeatures] = (
            like.features if like and same else open_features(plan.run, plan.project, self.data)
        )
        self.sources = {source.name: self.features[source] for source in plan.run.sources}
        self.views = run_views(plan.params, plan.name, plan.run)
        seen = self.views.records(self.data) if self.views and not self.live else []
        self.heads = {source: (source.head, *found.check_views(seen)) for source, found in self.features.items()}
        self.readers: dict[Source, tuple[Reader, ...]] = (
            like.readers if like and same and like.heads == self.heads else self._open_readers()
        )
        self.feature_readers = [self.readers[source] for source in plan.run.sources]
        self.output_readers = {
            logits: [self.readers[source] for source in own] for logits, own in plan.run.own_outputs.items()
        }

    @property
    def live(self) -> bool:
        """Whether teachers compute what methods read, in every step."""
        return self.plan.run.teacher == "live"

    @cached_property
    def live_teachers(self) -> "LiveTeachers":
        """The teachers of a run that has live ones.

        Raises:
            UserError: one cannot be loaded, or is not that of the store.
        """
        # Everything else in this room works from the stores alone, and does not depend on the code of teachers.
        module = import_module("pipeline.training.live")
        found: LiveTeachers = module.LiveTeachers(self.plan.params, self.data, self.features, self.views)
        return found

    @property
    def free(self) -> int:
        """Bytes of `machine.device_memory` that features leave for the student's images."""
        kept = [
            len(self.features[source].store) * self.features[source].store.heads[head].row_bytes
            for source, heads in self.heads.items()
            for head, reader in zip(heads, self.readers[source], strict=True)
            if reader.mode == "device"
        ]
        return int(self.plan.machine.device_memory * 2**30) - sum(kept)

    def _open_readers(self) -> dict[Source, tuple[Reader, ...]]:
        budget = int(self.plan.machine.device_memory * 2**30)
        wanted = [(self.features[source].store, head) for source, heads in self.heads.items() for head in heads]
        opened = iter(open_readers(wanted, self.device, budget))
        return {source: tuple(islice(opened, len(heads))) for source, heads in self.heads.items()}

    def __reduce__(self) -> tuple[Any, ...]:
        return Session, (self.plan, self.refit)

    def split(self, number: int) -> Split:
        """The rows of each role in a split. In a refit, validation rows are also labelled training rows."""
        split = self.data.split(number)
        if not self.refit:
            return split
        return replace(split, labelled=np.sort(np.concatenate([split.labelled, split.val])))

    def settings(self, seed: int, candidate: Candidate) -> TrialSettings:
        """The `train` section of one trial."""
        return self._settings(seed, candidate.of("train"))

    def _settings(self, seed: int, changes: dict[str, Any]) -> TrialSettings:
        split = self.split(seed % self.data.splits)
        settings = self.plan.settings(changes).of_trial(split, bool(self.views))
        # A refit has no rows left to stop by.
        return settings.model_copy(update={"early_stopping": None}) if self.refit else settings

    @contextmanager
    def threads(self) -> Iterator[None]:
        """Inside, torch has the threads of a training on a CPU. Their number decides how sums round."""
        before = torch.get_num_threads()
        if self.device.type == "cpu":
            torch.set_num_threads(self.plan.machine.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def verify_in_background(self) -> None:
        """Start the comparison that `verified` waits for, in background threads."""
        for reader in chain(*self.readers.values()):
            reader.verify_in_background()

    def verified(self) -> None:
        """Make sure, by checksums, that the features are what was extracted. Call it before results are kept.

        Raises:
            UserError: a shard is damaged.
        """
        for reader in chain(*self.readers.values()):
            reader.verified()

    @property
    def reading(self) -> list[str]:
        """Where each teacher's features are read, and why, one line each."""
        if self.live:
            return [f"{name} runs in every step" for name in dict.fromkeys(source.teacher for source in self.readers)]
        lines = []
        for source, (reader, *_) in self.readers.items():
            slow = (
                "; steps take rows in random order, so the disk or the network sets the pace"
                if reader.mode == "window"
                else ""
            )
            lines.append(f"{source} {reader.why}{slow}")
        return lines

    def check_own_outputs(self) -> None:
        """Compare the outputs of teachers' own heads with the labels of training and validation rows, of every split.

        Each row with its own label, even where the run shuffles teachers. Validation rows count, too, since a few
        training rows alone could speak against a good head.

        Raises:
            UserError: a head scores no better than constant outputs.
        """
        if not self.output_readers:
            return
        splits = {seed % self.data.splits for seed in self.plan.settings({}).seeds}
        roles = [self.data.split(number) for number in splits]
        rows = np.unique(np.concatenate([part for split in roles for part in (split.labelled, split.val)]))
        task, labels = self.task, self.data.labels
        constant = task.baseline(labels[rows])
        blocks = [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]

        def mean(scores: list[np.ndarray]) -> float:
            return float(np.concatenate(scores).mean())

        baseline = mean([task.row_scores(np.tile(constant, (len(block), 1)), labels[block]) for block in blocks])
        for source in chain(*self.plan.run.own_outputs.values()):
            reader = self.readers[source][0]
            score = mean(
                [task.row_scores(gather(reader, block, self.device).cpu().numpy(), labels[block]) for block in blocks]
            )
            if not task.better(score, baseline):
                why = (
                    "the model may not know these names; give others in `zero_shot.names`"
                    if self.features[source].has_outputs
                    else f"its outputs are likely in another order than `outputs` in {self.data.path}/manifest.json; "
                    "train it on that order"
                )
                raise UserError(
                    f"{self.features[source].store.path}: head `{source.head}` has {task.primary.label} {score:.4f} on "
                    f"{len(rows):,} training and validation rows, and the same prediction for every row "
                    f"{baseline:.4f}: {why}, or set `logits: probe`"
                )

    def method(self, term: Term, candidate: Candidate) -> Any:
        """The settings of a method, with those that the candidate tries.

        Raises:
            UserError: one is wrong.
        """
        tried = candidate.of(f"methods.{term.name}")
        return parse(self.modules[term.name].Settings, term.options | tried, self.where(term, bool(tried)))

    def head_digests(self, source: Source) -> dict[str, str]:
        """Digests of the features that the run reads of a source, by head of its store."""
        store = self.features[source].store
        return {head: store.head_digest(head) for head in self.heads[source]}

    def probe_digest(self, source: Source) -> str:
        """A digest of the probes of a source."""
        return probe_digest(self.plan.project, source)

    def where(self, term: Term, searched: bool = False) -> str:
        """Where a method's settings are, for messages."""
        return f"{self.plan.where}.methods.{term.name}" + (f" (with runs.{self.plan.name}.search)" if searched else "")

    def blueprint(self, split: int, candidate: Candidate) -> Blueprint:
        """The student that a candidate trains on a split.

        Raises:
            UserError: a setting of the student is wrong, or it cannot learn by the run's methods.
        """
        return self._blueprint(split, json.dumps(candidate.of("student")))

    def fitted_digest(self, split: int, candidate: Candidate) -> str:
        """A digest of what the student's family fitted on the training rows of a split."""
        return self._fitted_digest(split, json.dumps(candidate.of("student")))

    @cache  # noqa: B019  (a session lives as long as its process)
    def _fitted_digest(self, split: int, changes: str) -> str:
        return digest_of(self._blueprint(split, changes).fitted)

    @cache  # noqa: B019  (a session lives as long as its process)
    def _blueprint(self, split: int, changes: str) -> Blueprint:
        plan, tried = self.plan, json.loads(changes)
        where = f"{plan.params.source}: students.{plan.run.student}"
        where += f" (with runs.{plan.name}.search)" if tried else ""
        section = plan.params.section(f"students.{plan.run.student}") | tried
        check_student(plan.run, section["family"], plan.where)
        roles = self.split(split)
        rows, task = roles.train, self.task.fitted(self.data.labels[roles.labelled])
        return student_blueprint(section, where, self.data, rows, self.sources, task)

    def trial_data(self, seed: int, candidate: Candidate) -> "TrialData":
        """What depends on the seed, on its split, and on the settings that the candidate tries."""
        return self._trial_data(seed, json.dumps(candidate.of("student")), json.dumps(candidate.of("train")))

    @lru_cache(maxsize=1)  # noqa: B019  (a session lives as long as its process)
    def _trial_data(self, seed: int, student: str, train: str) -> "TrialData":
        blueprint = self._blueprint(seed % self.data.splits, student)
        settings, where = self._settings(seed, json.loads(train)), f"{self.plan.params.source}: train"
        where = f"{where} (for {self.plan.name})"
        settings.check(where, blueprint.reads, blueprint.settings, bool(self.run.methods))
        settings.check_device(where, self.device.type)
        settings.check_task(where, self.task)
        settings.check_views(where, None if self.live else self.views)
        return TrialData(self, seed, blueprint, settings)

    def _with_auto_settings(self) -> Run:
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
        blueprint: of the student.
        settings: of the trial.

    Attributes:
        split: the rows of every role.
        task: as the labels of the split scale it.
        labels: of all rows [rows], missing where training must not see them.
        strata: the class of each labelled row, for balanced sampling.
        probes: of each source, on this split.
        profiles: what is known of each source before training.
        stand_in: the row whose teachers' features and outputs each row is given [rows]; the row itself, unless
            teachers are shuffled.
    """

    def __init__(self, session: Session, seed: int, blueprint: Blueprint, settings: TrialSettings):
        data, plan = session.data, session.plan
        number = seed % data.splits
        self.session, self.seed, self.blueprint, self.settings = session, seed, blueprint, settings
        self.split = session.split(number)
        self.strata = data.task.strata(data.labels[self.split.labelled])
        self.task = data.task.fitted(data.labels[self.split.labelled], settings.class_weights, settings.label_smoothing)
        self.labels = np.full_like(data.labels, data.task.missing)
        self.labels[self.split.labelled] = data.labels[self.split.labelled]
        if plan.run.methods:
            self._check_batch()
        where = f"{plan.params.source}: train.augment (for {plan.name})"
        check_kind(plan.augmentations(self.settings), blueprint.reads, where)
        self.probes = tuple(
            SavedProbe(plan.project, features, number, data, session.heads[features.source][1:])
            for features in session.sources.values()
        )
        self.profiles = tuple(
            _profile(name, saved, session.device) for name, saved in zip(session.sources, self.probes, strict=True)
        )
        self.stand_in = np.arange(len(data))
        if plan.run.shuffle_teachers:
            # Among training rows only, and the same for every weight, so that nothing else differs.
            self.stand_in[self.split.train] = np.random.default_rng([seed, 2]).permutation(self.split.train)

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
        apart = self.settings.unlabelled and len(split.unlabelled)
        name, rows = ("transfer_batch_size", split.train) if apart else ("batch_size", split.labelled)
        size, parts = getattr(self.settings, name), self.settings.accumulate
        if min(size, len(rows)) < FEWEST_ROWS * parts:
            cut = f" in {parts} parts" if parts > 1 else ""
            unless = "" if apart else "where no row without a label is used, methods see the labelled batch, and "
            raise UserError(
                f"{where}: {name}: {size}{cut}: {unless}methods learn nothing from so few; set it to "
                f"{FEWEST_ROWS * parts} or more"
            )

    @cached_property
    def augmenter(self) -> Augmenter | None:
        """The augmentations of labelled rows, if there are any."""
        augmentations = self.session.plan.augmentations(self.settings)
        return Augmenter(augmentations, self.seed, self.split.labelled) if augmentations else None

    def augmented(self, rows: np.ndarray, labelled: int, step: int) -> Augmented | None:
        """What augmentations make of the rows of a step; None without any.

        An epoch is a pass over the labelled rows, and for those that methods see, if they are augmented, over these.
        """
        if self.augmenter is None:
            return None
        settings, split = self.settings, self.split

        def epoch(of: np.ndarray, size: int) -> int:
            return step // (len(of) // min(size, len(of)))

        # Balanced batches take rows of rare classes more often than once an epoch, and not always the same way.
        own = step if settings.sampling == "balanced" else epoch(split.labelled, settings.batch_size)
        if not settings.augment_transfer:
            return self.augmenter.draw(rows, labelled, own)
        apart = settings.unlabelled and len(split.unlabelled) > 0
        seen = epoch(split.train, settings.transfer_batch_size) if apart else own
        return self.augmenter.draw(rows, labelled, own, seen)

    @cached_property
    def inputs(self) -> Inputs:
        """The dataset as the student reads it."""
        views = self.session.views
        if views and self.session.live:
            views = replace(views, count=0)  # too many to prepare any
        inputs = self.blueprint.inputs(self.session.data, self.session.sources, views)
        inputs.keep_on(self.session.device, self.session.free)
        return inputs

    def shared(self, group: Group) -> "TrialData":
        """The same, with the student's inputs of this process's rows alone, where several train together."""
        found = copy(self)
        found.inputs = group.share(self.inputs)
        return found

    def draw_views(self, rows: np.ndarray, labelled: int, step: int, methods: bool) -> np.ndarray | None:
        """A view for each row of a step, the clean row being one of them; None where all are clean.

        Rows that methods see have views; those of the labelled batch, if methods do not see it, with `labelled_views`.
        A view of two rows is replaced by the clean row if the other one is not a training row.

        Args:
            rows: of the step [n], the labelled batch first.
            labelled: rows in the labelled batch.
            step: its number. Views follow from it and the seed, so they are the same for all methods.
            methods: whether any method is at work.
        """
        views, apart = self.session.views, labelled < len(rows)
        if views is None or not (methods or self.settings.labelled_views):
            return None
        count = views.count if self.settings.views is None else self.settings.views
        drawn = np.zeros(len(rows), np.int64)
        for stream, part, seen in (
            (3, drawn[:labelled], self.settings.labelled_views or not apart),
            (4, drawn[labelled:], True),
        ):
            if seen:
                part[:] = np.random.default_rng([self.seed, stream, step]).integers(0, count + 1, len(part))
        drawn[~np.isin(views.partners(self.session.data, rows, drawn), self.split.train)] = 0
        return drawn

    def teacher_features(
        self, teacher: int, rows: np.ndarray, views: np.ndarray | None = None
    ) -> Float[Tensor, "n teacher"]:
        """Raw features of one source, float32, on the device; of clean rows, or of the view that each row has."""
        return gather_views(
            self.session.feature_readers[teacher], self.stand_in[rows], views, self.session.device
        ).float()

    def teacher_outputs(
        self, kind: TeacherOutput, teacher: int, rows: np.ndarray, views: np.ndarray | None = None
    ) -> Float[Tensor, "n c"]:
        """Outputs of one source for the task, float32, on the device. Its own need a method that follows them."""
        rows, device = self.stand_in[rows], self.session.device
        if kind == "head" or kind == "zero_shot":
            return gather_views(self.session.output_readers[kind][teacher], rows, views, device).float()
        return place(torch.from_numpy(self.probes[teacher].outputs(rows, kind, views)), device)

    def teachers(
        self, rows: np.ndarray, reads: Collection[Reads], views: np.ndarray | None = None
    ) -> tuple[tuple[Float[Tensor, "n _"], ...], dict[TeacherOutput, tuple[Float[Tensor, "n c"], ...]]]:
        """What methods read of every source for rows: raw features, and outputs by kind; see `Signals`."""
        if self.session.live and reads:
            return self._live(self.stand_in[rows], reads, views)
        numbers, kinds = range(len(self.profiles)), [kind for kind in reads if kind != "features"]
        features = tuple(self.teacher_features(k, rows, views) for k in numbers) if "features" in reads else ()
        return features, {kind: tuple(self.teacher_outputs(kind, k, rows, views) for k in numbers) for kind in kinds}

    def _live(
        self, rows: np.ndarray, reads: Collection[Reads], views: np.ndarray | None
    ) -> tuple[tuple[Float[Tensor, "n _"], ...], dict[TeacherOutput, tuple[Float[Tensor, "n c"], ...]]]:
        """As `teachers`, computed now."""
        run, device = self.session.plan.run, self.session.device
        said = self.session.live_teachers(rows, views, device)
        features = tuple(said[source] for source in run.sources)

        def outputs(kind: TeacherOutput) -> tuple[Tensor, ...]:
            if kind == "head" or kind == "zero_shot":
                return tuple(said[source] for source in run.own_outputs[kind])
            pairs = zip(self.probes, features, strict=True)
            return tuple(place(probe.outputs_for(of.cpu(), rows, kind), device) for probe, of in pairs)

        return features if "features" in reads else (), {kind: outputs(kind) for kind in reads if kind != "features"}

    def context(self, student: Student) -> Context:
        """Everything that methods may use before training."""

        def student_features(rows: np.ndarray) -> Tensor:
            batches = student_outputs(student, self.inputs, rows, self.session.device)
            return torch.cat([features.float() for features, _ in batches]).clone()

        return Context(
            student_width=student.width,
            task=self.task,
            teachers=self.profiles,
            train_rows=self.split.train,
            labelled_rows=self.split.labelled,
            val_rows=self.split.val,
            labels=torch.from_numpy(self.labels).to(self.session.device),
            teacher_features=self.teacher_features,
            teacher_outputs=self.teacher_outputs,
            student_features=student_features,
            seed=self.seed,
        )


def open_readers(wanted: Sequence[tuple[FeatureStore, str]], device: torch.device, budget: int) -> list[Reader]:
    """Readers of heads of stores, in the order given: on a GPU, as long as there is room in `budget` bytes of it."""
    readers = []
    for store, head in wanted:
        if device.type == "cpu":
            readers.append(store.reader(head))
            continue
        readers.append(store.reader(head, device=str(device), device_memory=budget))
        if readers[-1].mode == "device":
            budget -= len(store) * store.heads[head].row_bytes
    return readers


def gather_views(
    readers: Sequence[Reader], rows: np.ndarray, views: np.ndarray | None, device: torch.device
) -> Float[Tensor, "n *shape"]:
    """Rows as `gather`, each from the reader of its view; from the first, that of the clean rows, if there are none."""
    if views is None:
        return gather(readers[0], rows, device)
    found: Tensor | None = None
    for number in np.unique(views).tolist():
        at = np.flatnonzero(views == number)
        values = gather(readers[number], rows[at], device)
        if found is None:
            found = values.new_empty((len(rows), *values.shape[1:]))
        found[place(torch.from_numpy(at), device)] = values
    return gather(readers[0], rows, device) if found is None else found


def gather(reader: Reader, rows: np.ndarray, device: torch.device) -> Float[Tensor, "n *shape"]:
    """Rows of a reader, on the device, in the reader's precision; a copy to a CUDA GPU is not waited for."""
    if reader.mode == "device":
        return cast(Tensor, reader(rows))
    if device.type != "cuda":
        # Memory is pinned for CUDA alone.
        return torch.from_numpy(reader(rows)).to(device)
    # torch keeps pinned memory from being used again before what was copied from it has arrived.
    dtype = torch.from_numpy(np.empty(0, reader.dtype)).dtype
    pinned = torch.empty((len(rows), *reader.shape), dtype=dtype, pin_memory=True)
    reader(rows, out=pinned.numpy())
    return pinned.to(device, non_blocking=True)


def _profile(name: str, saved: SavedProbe, device: torch.device) -> TeacherProfile:
    probe = saved.module
    return TeacherProfile(
        name=name,
        mean=probe.mean.to(device),
        std=probe.std.to(device),
        row_norm=probe.row_norm.item(),
        better=probe.better,
        directions={
            kind: Directions(*(constant.to(device) for constant in probe.directions(kind)))
            for kind in ("linear", "kernel")
        },
    )
