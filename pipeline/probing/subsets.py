"""Choosing teachers before any student is trained: what each of them, and subsets of them, know of the task.

Every subset is scored on every draw of the splits, its features side by side: by a linear probe, by nearest neighbours
and by LogME. Labels come from the labelled training rows; validation rows choose strengths, numbers of neighbours and
the recommendation; test rows are scored for the reader and choose nothing. Pairs of teachers, and teachers and
untrained students, are compared by debiased CKA, which needs no labels.

Labelled and validation features are held in memory, as the probe needs them; test rows pass in blocks, and neighbours
are searched and kernels compared on samples of a bounded size.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from pipeline.data.dataset import Dataset
from pipeline.errors import UserError
from pipeline.functional import logistic
from pipeline.functional.agreement import gain, one_right
from pipeline.functional.kernels import centre, debiased_cka, gram
from pipeline.functional.knn import unit, vote
from pipeline.functional.logme import logme
from pipeline.functional.metrics import accuracy
from pipeline.machine import Machine
from pipeline.params import Params, Settings
from pipeline.probing import assessment
from pipeline.probing.assessment import Assessment, Pair, Score, Start, Subset, Teacher
from pipeline.probing.probes import ProbeSettings, load_probe, training_labels
from pipeline.probing.recommendation import order, recommend
from pipeline.progress import progress
from pipeline.store import FeatureStore
from pipeline.students import student_outputs, student_recipe

BLOCK = 1024
"""Rows whose features, and whose cosines with the bank, are held at a time."""

Names = tuple[str, ...]


class AssessSettings(Settings):
    """The `assess` section; the strengths of the probes are those of the `probe` section.

    Attributes:
        neighbours: candidates for how many neighbours vote; one is chosen on val.
        neighbour_rows: labelled rows that neighbours are searched in, at most.
        kernel_rows: training rows that CKA compares, at most; its time grows with their square.
        exhaustive: up to so many teachers all subsets are scored; of more, single ones, pairs, and from the best pair
            on the teacher that adds most, for as long as one adds anything on val.
    """

    neighbours: list[int] = Field(default=[1, 3, 5, 10, 20, 50], min_length=1)
    neighbour_rows: int = Field(default=10000, ge=1)
    kernel_rows: int = Field(default=2000, ge=4)
    exhaustive: int = Field(default=4, ge=1, le=10)


@dataclass(frozen=True)
class Scored:
    """A subset's scores, and per draw which val rows its probe has right."""

    scores: tuple[Score, ...]
    hits: tuple[np.ndarray, ...]
    seconds: float

    @property
    def val_accuracy(self) -> float:
        """Of the probe, mean over draws."""
        return float(np.mean([score.val_accuracy for score in self.scores]))


class SplitFeatures:
    """One draw of the splits, and the features of its rows as this draw's training rows scale them."""

    def __init__(
        self, number: int, data: Dataset, stores: dict[str, FeatureStore], probes: Path, settings: AssessSettings
    ):
        self.number, self.data, self.settings = number, data, settings
        self.split = data.split(number)
        if not len(self.split.val):
            raise UserError(f"{data.path}: no validation rows in draw {number} to choose by; set dataset.val")
        self.labels = training_labels(data, number)
        self.readers = {name: store.reader(store.head_name()) for name, store in stores.items()}
        # The probe stage has been through all training rows; its statistics are those of this draw, or it is refused.
        self.scales = {
            name: load_probe(probes / f"{name}.safetensors", number, data, store) for name, store in stores.items()
        }

    def raw(self, teacher: str, rows: np.ndarray) -> np.ndarray:
        """Features [n, D] as the teacher gave them, float32."""
        features: np.ndarray = self.readers[teacher](rows).astype(np.float32)
        return features

    def standardised(self, teachers: Names, rows: np.ndarray, alike: bool = False) -> np.ndarray:
        """Features side by side [n, sum of D], each at mean 0 and variance 1 over the training rows.

        With `alike` each teacher's rows are divided by their mean norm, so that a wide one counts no more than others.
        """
        parts = []
        for teacher in teachers:
            scale = self.scales[teacher]
            part = (self.raw(teacher, rows) - scale.mean) / scale.std
            parts.append(part / scale.row_norm if alike else part)
        return np.concatenate(parts, axis=1)

    @cached_property
    def bank(self) -> np.ndarray:
        """Places among the labelled rows that neighbours are searched in, sorted."""
        return _sample(len(self.split.labelled), self.settings.neighbour_rows, self.number)

    @cached_property
    def compared(self) -> np.ndarray:
        """The training rows that CKA compares, sorted."""
        return self.split.train[_sample(len(self.split.train), self.settings.kernel_rows, self.number)]


def assess(params: Params, root: Path = Path(".")) -> Assessment:
    """Score all teachers of params.yaml and subsets of them; write `<root>/assessments/teachers.json`.

    Args:
        params: all settings; the section `assess` may be missing.
        root: the project's folder, which holds data/, features/ and probes/.

    Raises:
        UserError: a setting is wrong, there are no teachers, or a store or a probe is missing or of another dataset.
    """
    started = time.perf_counter()
    settings = params.read(AssessSettings, "assess") if "assess" in params.values else AssessSettings()
    if any(number < 1 for number in settings.neighbours):
        raise UserError(f"{params.source}: assess.neighbours: {settings.neighbours}; give whole numbers from 1")
    strengths = params.read(ProbeSettings, "probe").strengths
    names: Names = tuple(params.section("teachers"))
    if not names:
        raise UserError(f"{params.source}: `teachers` is empty; name one or more to assess")
    data = Dataset.open(root / "data")
    stores = {name: FeatureStore.open(root / "features" / f"{name}.zarr") for name in names}
    for store in stores.values():
        store.check(dataset=data.digest, ids=data.ids)
    draws = [SplitFeatures(number, data, stores, root / "probes", settings) for number in range(data.splits)]
    teachers = tuple(_teacher(name, store) for name, store in stores.items())
    few = len(names) <= settings.exhaustive
    with progress("assess", (2 ** len(names) - 1) * len(draws) if few else None, "probes") as advance:

        def score(subset: Names) -> Scored:
            began = time.perf_counter()
            found = []
            for draw in draws:
                found.append(_score(draw, subset, strengths, settings.neighbours))
                advance(1)
            scores, hits = zip(*found, strict=True)
            return Scored(scores, hits, time.perf_counter() - began)

        scored = _search(names, score, few)
    subsets = _subsets(scored, teachers)
    pairs, starts = _alignments(draws, names, scored, params)
    chosen, reasons = recommend(subsets, pairs)
    first = draws[0]
    found = Assessment(
        data.digest, {name: store.head_digest(store.head_name()) for name, store in stores.items()},
        len(draws), len(first.split.labelled), len(first.split.val), len(first.split.test), len(first.bank),
        len(first.compared), teachers, subsets, pairs, starts, chosen.teachers, reasons, time.perf_counter() - started,
    )  # fmt: skip
    _write(root / assessment.PATH, found)
    return found


def _teacher(name: str, store: FeatureStore) -> Teacher:
    head, rows = store.head_name(), len(store)
    width = int(np.prod(store.heads[head].shape))
    return Teacher(name, width, store.head_nbytes(head) / rows, store.seconds / rows if store.seconds else None)


def _search(teachers: Names, score: Callable[[Names], Scored], few: bool) -> dict[Names, Scored]:
    """The scores of all subsets of a few teachers; of many, of single ones, pairs, and the path of best additions."""
    scored: dict[Names, Scored] = {}
    for size in range(1, (len(teachers) if few else 2) + 1):
        scored |= {subset: score(subset) for subset in combinations(teachers, size)}
    if few:
        return scored

    def best(subsets: Sequence[Names]) -> Names:
        return max(subsets, key=lambda subset: scored[subset].val_accuracy)

    path = best([subset for subset in scored if len(subset) == 2])
    while len(path) < len(teachers):
        grown = [tuple(t for t in teachers if t in path or t == new) for new in teachers if new not in path]
        scored |= {subset: score(subset) for subset in grown}
        longer = best(grown)
        if scored[longer].val_accuracy <= scored[path].val_accuracy:
            break
        path = longer
    return scored


def _score(
    draw: SplitFeatures, subset: Names, strengths: Sequence[float], numbers: Sequence[int]
) -> tuple[Score, np.ndarray]:
    """A subset on one draw, and which val rows its probe has right."""
    data, split = draw.data, draw.split
    classes, val_labels = len(data.task.outputs), data.labels[split.val]
    train, val = (draw.standardised(subset, rows) for rows in (split.labelled, split.val))
    fitted = logistic.fit(train, draw.labels, val, val_labels, strengths)
    hits = fitted.outputs(val).argmax(1) == val_labels
    del train, val
    bank, bank_labels = (
        unit(draw.standardised(subset, split.labelled[draw.bank], alike=True)), draw.labels[draw.bank]
    )  # fmt: skip
    tried = sorted({min(number, len(bank)) for number in numbers})

    def votes(rows: np.ndarray, numbers: Sequence[int]) -> np.ndarray:
        near = [
            vote(bank, bank_labels, unit(draw.standardised(subset, block, alike=True)), numbers, classes)
            for block in _blocks(rows)
        ]
        return np.concatenate(near, axis=1)

    knn = [float(right.mean()) for right in votes(split.val, tried) == val_labels]
    best = int(np.argmax(knn))  # the fewest neighbours of those that tie
    test = knn_test = None
    if len(split.test):
        labels = data.labels[split.test]
        logits = [fitted.outputs(draw.standardised(subset, block)) for block in _blocks(split.test)]
        test = accuracy(np.concatenate(logits), labels)
        knn_test = float((votes(split.test, [tried[best]])[0] == labels).mean())
    evidence = logme(_raw(draw, subset), torch.from_numpy(draw.labels), classes).score
    score = Score(
        draw.number, fitted.strength, float(hits.mean()), fitted.val_loss, test, tried[best], knn[best], knn_test,
        evidence,
    )  # fmt: skip
    return score, hits


def _raw(draw: SplitFeatures, subset: Names) -> Tensor:
    """Raw features of the labelled rows side by side, each teacher's divided by their root mean square norm.

    LogME is defined on features that are not centred, and is blind to their common scale. Of several teachers, the
    loudest would be the whole of it.
    """
    parts = [draw.raw(teacher, draw.split.labelled) for teacher in subset]
    return torch.from_numpy(
        np.concatenate([part / max(float(np.sqrt(np.square(part).sum(1).mean())), 1e-12) for part in parts], axis=1)
    )


def _subsets(scored: dict[Names, Scored], teachers: Sequence[Teacher]) -> tuple[Subset, ...]:
    """The scores with what each subset costs and how it compares with the best one and with its own best part."""
    costs = {teacher.name: teacher for teacher in teachers}
    found: dict[Names, Subset] = {}
    for names, of in scored.items():
        members = [costs[name] for name in names]
        seconds = [member.seconds_per_row for member in members]
        parts = [part for part in found if set(part) < set(names)]
        part = min((found[part] for part in parts), key=order) if parts else None
        found[names] = Subset(
            names, sum(m.width for m in members), sum(m.bytes_per_row for m in members),
            None if None in seconds else sum(filter(None, seconds)), of.scores, None,
            None if part is None else part.teachers,
            None if part is None else gain(of.hits, scored[part.teachers].hits), of.seconds,
        )  # fmt: skip
    best = min(found.values(), key=order)
    return tuple(
        subset if subset is best else replace(subset, against_best=gain(of.hits, scored[best.teachers].hits))
        for subset, of in zip(found.values(), scored.values(), strict=True)
    )


def _alignments(
    draws: Sequence[SplitFeatures], names: Names, scored: dict[Names, Scored], params: Params
) -> tuple[tuple[Pair, ...], tuple[Start, ...]]:
    """Debiased CKA between teachers, and of teachers to untrained students, draw by draw."""
    students = [name for name in params.values.get("students") or () if _reads_rows(name, params)]
    device = params.read(Machine, "machine").torch_device()
    pairs: dict[tuple[str, str], list[float]] = {pair: [] for pair in combinations(names, 2)}
    starts: dict[tuple[str, str], list[float]] = {(name, student): [] for name in names for student in students}
    for draw in draws:
        kernels = {name: _kernel(torch.from_numpy(draw.raw(name, draw.compared))) for name in names}
        for one, other in pairs:
            pairs[one, other].append(float(debiased_cka(kernels[one], kernels[other])))
        for student in students:
            kernel = _kernel(_initial(student, draw, params, device))
            for name in names:
                starts[name, student].append(float(debiased_cka(kernels[name], kernel)))
    overlaps = {
        pair: [one_right(*hits) for hits in zip(*(scored[(name,)].hits for name in pair), strict=True)]
        for pair in pairs
    }
    return (
        tuple(Pair(pair, tuple(cka), *zip(*overlaps[pair], strict=True)) for pair, cka in pairs.items()),
        tuple(Start(name, student, tuple(cka)) for (name, student), cka in starts.items()),
    )


def _reads_rows(student: str, params: Params) -> bool:
    """Whether it has a kernel of its own over the rows, instead of reading what teachers said of them."""
    family, _ = params.plugin("students", f"students.{student}")
    return bool(family.KIND != "features")


def _kernel(features: Tensor) -> Tensor:
    return gram(centre(features))


def _initial(student: str, draw: SplitFeatures, params: Params, device: torch.device) -> Tensor:
    """Features of the sample from the student as training with the draw's number for a seed would start it."""
    where = f"students.{student}"
    recipe = student_recipe(params.section(where), f"{params.source}: {where}", draw.data, draw.split.train)
    torch.manual_seed(draw.number)
    model = recipe.build().to(device)
    batches = student_outputs(model, recipe.inputs(draw.data), draw.compared, device)
    return torch.cat([features.float().cpu() for features, _ in batches])


def _sample(rows: int, most: int, seed: int) -> np.ndarray:
    """At most so many of `rows` places, drawn without replacement, sorted."""
    return np.sort(np.random.default_rng(seed).permutation(rows)[:most])


def _blocks(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]


def _write(path: Path, found: Assessment) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(found), indent=1) + "\n")
    partial.replace(path)
