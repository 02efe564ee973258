"""Choosing sources before any student is trained: how useful each source, and each subset, is for the task.

Every subset is scored on every split, with concatenated features, by a linear probe, nearest neighbours and LogME. All
are fitted on the labelled training rows. Validation rows choose strengths, numbers of neighbours and the
recommendation. Test scores are only shown. Pairs of sources, and sources and untrained students, are compared by
debiased CKA, which needs no labels.

Labelled and validation features are held in memory for the probe; test rows are read in blocks. Neighbours and kernels
use samples of a bounded size.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from pipeline.data import Dataset
from pipeline.errors import UserError
from pipeline.functional.agreement import gain, one_right
from pipeline.functional.kernels import centre, debiased_cka, gram
from pipeline.functional.knn import unit, vote
from pipeline.functional.logme import logme
from pipeline.machine import Machine
from pipeline.params import Params, Settings
from pipeline.probing.own_outputs import own_scores
from pipeline.probing.policies import rank_views
from pipeline.probing.probes import ProbeSettings, training_labels
from pipeline.probing.recommendation import ranking_key, recommend, zero_shot
from pipeline.probing.saved import SavedProbe
from pipeline.progress import progress
from pipeline.project import Project
from pipeline.records import (
    AssessmentRecord,
    Metric,
    PairRecord,
    Scores,
    SourceRecord,
    StartRecord,
    SubsetRecord,
    SubsetScores,
    mean_score,
)
from pipeline.sources import POOLED, Source
from pipeline.store import SourceFeatures
from pipeline.students import is_solved, student_blueprint, student_outputs

BLOCK = 1024
"""Rows whose features, and cosines with the bank, are in memory at a time."""

Names = tuple[str, ...]


class AssessSettings(Settings):
    """The `assess` section; the strengths of the probes are those of the `probe` section.

    Attributes:
        neighbours: candidates for how many neighbours vote; one is chosen on validation rows.
        neighbour_rows: labelled rows that neighbours are searched in, at most.
        kernel_rows: training rows that CKA compares, at most; its time grows with their square.
        exhaustive: with up to this many sources, all subsets are scored. With more: single sources, pairs, and then,
            from the best pair on, the source that adds most, as long as one adds anything on validation rows.
    """

    neighbours: list[int] = Field(default=[1, 3, 5, 10, 20, 50], min_length=1)
    neighbour_rows: int = Field(default=10000, ge=1)
    kernel_rows: int = Field(default=2000, ge=4)
    exhaustive: int = Field(default=4, ge=1, le=10)


@dataclass(frozen=True)
class Scored:
    """A subset on all splits.

    Attributes:
        scores: one per split.
        val: per split, the primary score of every validation row.
        correct: per split, which validation rows its probe has right; None for a task without right and wrong.
    """

    scores: tuple[SubsetScores, ...]
    val: tuple[np.ndarray, ...]
    correct: tuple[np.ndarray | None, ...]

    def mean(self, metric: Metric) -> float:
        """Of the probe on validation rows, over splits."""
        return float(np.mean([score.val[metric.name] for score in self.scores]))


class SplitFeatures:
    """One split, and the features of its rows as its training rows scale them."""

    def __init__(
        self,
        number: int,
        data: Dataset,
        sources: dict[str, SourceFeatures],
        project: Project,
        settings: AssessSettings,
    ):
        self.number, self.data, self.settings = number, data, settings
        self.split = data.split(number)
        if not len(self.split.val):
            raise UserError(f"{data.path}: no validation rows in split {number} to choose by; set dataset.val")
        self.labels = training_labels(data, number)
        self.targets = data.task.targets(self.labels)
        self.scaled_targets = data.split_task(number).targets(self.labels)
        self.readers = {name: features.reader() for name, features in sources.items()}
        # The means and deviations over all training rows; probes of another split are refused.
        self.probes = {name: SavedProbe(project, features, number, data).module for name, features in sources.items()}

    def raw(self, source: str, rows: np.ndarray) -> np.ndarray:
        """Features [n, D] as they are stored, float32."""
        features: np.ndarray = self.readers[source](rows).astype(np.float32)
        return features

    def standardised(self, sources: Names, rows: np.ndarray, equal_norms: bool = False) -> np.ndarray:
        """Concatenated features [n, sum of D], each with mean 0 and variance 1 over the training rows.

        With `equal_norms`, each source's rows are divided by their mean norm, so that wide sources do not count more.
        """
        blocks = []
        for source in sources:
            probe = self.probes[source]
            block = (self.raw(source, rows) - probe.mean.numpy()) / probe.std.numpy()
            blocks.append(block / probe.row_norm.item() if equal_norms else block)
        return np.concatenate(blocks, axis=1)

    @cached_property
    def bank(self) -> np.ndarray:
        """Places among the labelled rows that neighbours are searched in, sorted."""
        return _sample(len(self.split.labelled), self.settings.neighbour_rows, self.number)

    @cached_property
    def compared(self) -> np.ndarray:
        """The training rows that CKA compares, sorted."""
        return self.split.train[_sample(len(self.split.train), self.settings.kernel_rows, self.number)]


def assess(params: Params, project: Project = Project()) -> AssessmentRecord:
    """Score sources and subsets of them; write assessments/teachers.json.

    The sources are the pooled features of every teacher of params.yaml, and those that runs name.

    Args:
        params: all settings; the section `assess` may be missing.
        project: where data, features and probes are.

    Raises:
        UserError: a setting is wrong, there are no teachers, or a store or a probe is missing or of another dataset.
    """
    settings = params.read(AssessSettings, "assess") if "assess" in params.values else AssessSettings()
    if any(number < 1 for number in settings.neighbours):
        raise UserError(f"{params.source}: assess.neighbours: {settings.neighbours}; give whole numbers from 1")
    strengths = params.read(ProbeSettings, "probe").strengths
    data = Dataset.open(project.data)
    sources = {source.name: SourceFeatures.open(project, source) for source in assessed_sources(params)}
    for features in sources.values():
        features.store.check(dataset=data.digest, ids=data.ids)
    names: Names = tuple(sources)
    splits = [SplitFeatures(number, data, sources, project, settings) for number in range(data.splits)]
    few = len(names) <= settings.exhaustive
    with progress("assess", (2 ** len(names) - 1) * len(splits) if few else None, "probes") as advance:

        def score(subset: Names) -> Scored:
            found = []
            for split in splits:
                found.append(_score(split, subset, strengths, settings.neighbours))
                advance(1)
            scores, val, correct = zip(*found, strict=True)
            return Scored(scores, val, correct)

        scored = _search(names, score, few, data.task.primary)
    for reader in splits[0].readers.values():
        reader.verified()
    kept = tuple(
        SourceRecord(name=name, width=features.width, bytes_per_row=features.nbytes / len(data))
        for name, features in sources.items()
    )
    subsets = _subsets(scored, kept, data.task.primary)
    pairs, starts = _alignments(splits, names, scored, params)
    chosen, reasons = recommend(subsets, pairs, data.task.primary)
    first = splits[0]
    found = AssessmentRecord(
        data=data.manifest.files_digest,
        stores={name: features.digest for name, features in sources.items()},
        metrics=data.task.metrics,
        splits=len(splits),
        labelled=len(first.split.labelled),
        val=len(first.split.val),
        test=len(first.split.test),
        bank_rows=len(first.bank),
        cka_rows=len(first.compared),
        sources=kept,
        subsets=subsets,
        pairs=pairs,
        starts=starts,
        views=tuple(
            record
            for features in sources.values()
            for record in rank_views(features, data, project, [split.compared for split in splits])
        ),
        recommended=chosen.sources,
        reasons=(
            *reasons,
            *_zero_shot(project, dict.fromkeys(features.source.teacher for features in sources.values()), data),
        ),
    )
    found.write(project.assessment)
    return found


def _zero_shot(project: Project, teachers: Iterable[str], data: Dataset) -> list[str]:
    """A sentence about each teacher's outputs for the classes, of those that have any."""
    sentences = []
    for features in (features for teacher in teachers for features in SourceFeatures.all_of(project, teacher)):
        if features.has_outputs:
            scores: list[Scores] = [{**own_scores(features, data, split)[0]} for split in range(data.splits)]
            sentences.append(zero_shot(features.name, mean_score(scores, data.task.primary.name), data.task.primary))
    return sentences


def assessed_sources(params: Params) -> list[Source]:
    """The sources to assess: per teacher its pooled features, or its first head if it keeps none, and those of runs.

    Raises:
        UserError: there are no teachers, or a run names a source in another form than TEACHER or TEACHER/HEAD.
    """
    teachers = params.section("teachers")
    if not teachers:
        raise UserError(f"{params.source}: `teachers` is empty; name one or more to assess")
    found: dict[Source, None] = {}
    for teacher, settings in teachers.items():
        heads = list(settings.get("heads") or [POOLED])
        found[Source(teacher, POOLED if POOLED in heads else heads[0])] = None
    for run, settings in (params.values.get("runs") or {}).items():
        for text in settings.get("teachers") or ():
            found[Source.parse(str(text), f"{params.source}: runs.{run}.teachers").clean] = None
    # Grouped by teacher, in the order of `teachers`.
    return sorted(found, key=lambda source: list(teachers).index(source.teacher) if source.teacher in teachers else -1)


def _search(sources: Names, score: Callable[[Names], Scored], few: bool, metric: Metric) -> dict[Names, Scored]:
    """The scores of all subsets if there are few sources; otherwise of single ones, pairs, and the best additions."""
    scored: dict[Names, Scored] = {}
    for size in range(1, (len(sources) if few else 2) + 1):
        scored |= {subset: score(subset) for subset in combinations(sources, size)}
    if few:
        return scored

    def worth(subset: Names) -> float:
        return scored[subset].mean(metric) * (1 if metric.higher_is_better else -1)

    path: Names = max((subset for subset in scored if len(subset) == 2), key=worth)
    while len(path) < len(sources):
        grown = [tuple(t for t in sources if t in path or t == new) for new in sources if new not in path]
        scored |= {subset: score(subset) for subset in grown}
        longer = max(grown, key=worth)
        if worth(longer) <= worth(path):
            break
        path = longer
    return scored


def _score(
    split: SplitFeatures, subset: Names, strengths: Sequence[float], numbers: Sequence[int]
) -> tuple[SubsetScores, np.ndarray, np.ndarray | None]:
    """The scores of a subset on one split; its probe's primary score on every validation row, and which are right."""
    task, rows = split.data.task, split.split
    val_labels, test_labels = split.data.labels[rows.val], split.data.labels[rows.test]
    train, val = (split.standardised(subset, some) for some in (rows.labelled, rows.val))
    fitted = task.linear.fit(train, split.labels, val, val_labels, strengths)
    val_outputs = fitted.outputs(val)
    del train, val
    bank = unit(split.standardised(subset, rows.labelled[split.bank], equal_norms=True))
    tried = sorted({min(number, len(bank)) for number in numbers})

    def neighbours(some: np.ndarray, numbers: Sequence[int]) -> np.ndarray:
        """Outputs [k, n, C]: the mean of the neighbours' targets."""
        near = [
            vote(bank, split.targets[split.bank], unit(split.standardised(subset, block, equal_norms=True)), numbers)
            for block in _blocks(some)
        ]
        return np.concatenate(near, axis=1)

    knn = [task.score(outputs, val_labels) for outputs in neighbours(rows.val, tried)]
    best = 0  # among ties, the fewest neighbours
    for number, score in enumerate(knn):
        best = number if task.better(score, knn[best]) else best
    test: dict[str, float] = {}
    knn_test: dict[str, float] = {}
    if len(rows.test):
        outputs = [fitted.outputs(split.standardised(subset, block)) for block in _blocks(rows.test)]
        test = task.scores(np.concatenate(outputs), test_labels)
        knn_test = {task.primary.name: task.score(neighbours(rows.test, [tried[best]])[0], test_labels)}
    scores = SubsetScores(
        split=split.number,
        strength=fitted.strength,
        val=task.scores(val_outputs, val_labels),
        test=test,
        neighbours=tried[best],
        knn_val={task.primary.name: knn[best]},
        knn_test=knn_test,
        logme=logme(_raw(split, subset), torch.from_numpy(split.scaled_targets)).score,
    )
    return scores, task.row_scores(val_outputs, val_labels), task.correct(val_outputs, val_labels)


def _raw(split: SplitFeatures, subset: Names) -> Tensor:
    """Concatenated raw features of the labelled rows, each source's divided by their root mean square norm.

    LogME is defined on features that are not centred, and does not depend on a common scale. Without the division, the
    source with the longest rows would dominate.
    """
    blocks = [split.raw(source, split.split.labelled) for source in subset]
    return torch.from_numpy(
        np.concatenate([block / max(float(np.sqrt(np.square(block).sum(1).mean())), 1e-12) for block in blocks], axis=1)
    )


def _subsets(scored: dict[Names, Scored], sources: Sequence[SourceRecord], metric: Metric) -> tuple[SubsetRecord, ...]:
    """The scores, the cost of each subset, and its comparisons with the best one and with its own best part."""
    costs = {source.name: source for source in sources}
    key = ranking_key(metric)
    found: dict[Names, SubsetRecord] = {}
    for names, of in scored.items():
        parts = [found[part] for part in found if set(part) < set(names)]
        part = min(parts, key=key) if parts else None
        found[names] = SubsetRecord(
            sources=names,
            width=sum(costs[name].width for name in names),
            bytes_per_row=sum(costs[name].bytes_per_row for name in names),
            scores=of.scores,
            against_best=None,
            best_part=None if part is None else part.sources,
            gain=None if part is None else gain(of.val, scored[part.sources].val),
        )
    best = min(found.values(), key=key)
    return tuple(
        subset if subset is best else subset.model_copy(update={"against_best": gain(of.val, scored[best.sources].val)})
        for subset, of in zip(found.values(), scored.values(), strict=True)
    )


def _alignments(
    splits: Sequence[SplitFeatures], names: Names, scored: dict[Names, Scored], params: Params
) -> tuple[tuple[PairRecord, ...], tuple[StartRecord, ...]]:
    """Debiased CKA between sources, and between sources and untrained students, per split."""
    students = [name for name in params.values.get("students") or () if _reads_rows(name, params)]
    device = params.read(Machine, "machine").torch_device()
    pairs: dict[tuple[str, str], list[float]] = {pair: [] for pair in combinations(names, 2)}
    starts: dict[tuple[str, str], list[float]] = {(name, student): [] for name in names for student in students}
    for split in splits:
        kernels = {name: _kernel(torch.from_numpy(split.raw(name, split.compared))) for name in names}
        for one, other in pairs:
            pairs[one, other].append(float(debiased_cka(kernels[one], kernels[other])))
        for student in students:
            kernel = _kernel(_initial(student, split, params, device))
            for name in names:
                starts[name, student].append(float(debiased_cka(kernels[name], kernel)))
    return (
        tuple(_pair(pair, tuple(cka), scored) for pair, cka in pairs.items()),
        tuple(StartRecord(source=name, student=student, cka=tuple(cka)) for (name, student), cka in starts.items()),
    )


def _pair(pair: tuple[str, str], cka: tuple[float, ...], scored: dict[Names, Scored]) -> PairRecord:
    both = zip(*(scored[(name,)].correct for name in pair), strict=True)
    overlaps = [one_right(one, other) for one, other in both if one is not None and other is not None]
    return PairRecord(
        sources=pair,
        cka=cka,
        one_right=tuple(share for share, _ in overlaps),
        by_chance=tuple(chance for _, chance in overlaps),
    )


def _reads_rows(student: str, params: Params) -> bool:
    """Whether it computes features from rows before it is trained, instead of reading those of teachers."""
    family, _ = params.plugin("students", f"students.{student}")
    return bool(family.KIND != "features") and not is_solved(params.section(f"students.{student}")["family"])


def _kernel(features: Tensor) -> Tensor:
    return gram(centre(features))


def _initial(student: str, split: SplitFeatures, params: Params, device: torch.device) -> Tensor:
    """Features of the sample from an untrained student, initialised as in training with the split's number as seed."""
    where = f"students.{student}"
    blueprint = student_blueprint(params.section(where), f"{params.source}: {where}", split.data, split.split.train)
    torch.manual_seed(split.number)
    model = blueprint.build().to(device)
    batches = student_outputs(model, blueprint.inputs(split.data), split.compared, device)
    return torch.cat([features.float().cpu() for features, _ in batches])


def _sample(rows: int, most: int, seed: int) -> np.ndarray:
    """At most so many of `rows` places, sampled without replacement, sorted."""
    return np.sort(np.random.default_rng(seed).permutation(rows)[:most])


def _blocks(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]
