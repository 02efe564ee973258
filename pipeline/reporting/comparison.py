"""Runs side by side: read what the stages recorded, and pair every run with plain training of its student.

Reads runs/<run>/ and evaluations/<run>.json. Knows nothing of pages and drawings.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from pipeline.errors import UserError
from pipeline.functional.statistics import Paired, Share, gap_closed, holm, paired, standard_error
from pipeline.runs.config import label, settings_label


class Record(BaseModel):
    """A record on disk, checked when it is read. Keys that nobody here needs are left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class Student(Record):
    """The student of a run: its name in params.yaml, its family, what that reads, its size."""

    name: str
    family: str
    reads: str = ""
    parameters: int
    width: int


class Method(Record):
    """A method of a run and its own settings."""

    name: str
    settings: dict[str, Any] = Field(default_factory=dict)


class Candidate(Record):
    """A weight per method and the settings tried beside it, and what every seed reached on validation rows.

    A seed on which the training diverged reached nothing, and its candidate cannot be chosen.
    """

    weights: tuple[float, ...]
    settings: dict[str, Any] = Field(default_factory=dict)
    val_accuracy: tuple[float | None, ...] = Field(min_length=1)

    @property
    def reached(self) -> tuple[float, ...]:
        """The accuracy of every seed; empty where it diverged on any."""
        known = tuple(score for score in self.val_accuracy if score is not None)
        return known if len(known) == len(self.val_accuracy) else ()

    @property
    def label(self) -> str:
        """Its name in tables and in curves.csv."""
        return label(self.weights, self.settings)


class Level(Record):
    """A method's penalty at the last step, without its weight, and what it would be with teachers of other rows."""

    end: float
    chance: float


class Guard(Record):
    """How one seed's training behaved: whether it collapsed, and how hard the methods pulled."""

    seed: int
    one_class: bool
    largest_class_share: float
    gradient_ratio_start: float | None = None
    gradient_ratio_end: float | None = None
    feature_spread_start: float | None = None
    feature_spread_end: float | None = None
    penalties: dict[str, Level] = Field(default_factory=dict)


class Run(Record):
    """runs/<run>/run.json."""

    run: str
    student: Student
    teachers: tuple[str, ...]
    methods: tuple[Method, ...]
    shuffled_teacher: bool
    seeds: tuple[int, ...] = Field(min_length=1)
    labelled: int
    unlabelled: int
    steps: int
    candidates: tuple[Candidate, ...] = Field(min_length=1)
    chosen: tuple[float, ...]
    chosen_settings: dict[str, Any] = Field(default_factory=dict)
    seconds: float
    trainings: int
    guards: tuple[Guard, ...]
    provenance: dict[str, Any]

    @model_validator(mode="after")
    def _whole(self) -> "Run":
        if len(self.chosen) != len(self.methods) or self.label not in [c.label for c in self.candidates if c.reached]:
            raise ValueError("the chosen weights are not one per method, or not among the candidates, or diverged")
        return self

    @property
    def label(self) -> str:
        """The chosen candidate's name in tables and in curves.csv."""
        return label(self.chosen, self.chosen_settings)


class Result(Record):
    """One seed's student on the test rows of its split."""

    seed: int
    split: int
    accuracy: float = Field(ge=0, le=1)
    macro_f1: float
    log_loss: float
    largest_class_share: float


class ProbeResult(Record):
    """What the probe of the run's teachers reaches on the test rows of one seed."""

    seed: int
    accuracy: float = Field(ge=0, le=1)


class Evaluation(Record):
    """evaluations/<run>.json."""

    run: str
    student: str
    teachers: tuple[str, ...]
    classes: tuple[str, ...]
    test_rows: int
    results: tuple[Result, ...] = Field(min_length=1)
    probe: tuple[ProbeResult, ...] | None
    seconds: float


@dataclass(frozen=True)
class Point:
    """Validation accuracy at one step: the mean over the seeds that were measured there, and its standard error."""

    step: int
    mean: float
    standard_error: float | None
    seeds: int


@dataclass(frozen=True)
class Outcome:
    """One run, and where it stands against plain training.

    Attributes:
        run, evaluation: its records.
        curve: validation accuracy along training, at the chosen weights.
        gates: per teacher and seed, the learned gates; empty for methods without.
        differences: per seed, test accuracy minus the baseline's; empty for the baseline, or where there is none.
        difference: the same, summed up.
        p: its p-value, adjusted after Holm for all comparisons made together; None where there is nothing to test.
        references: per seed, the accuracy of the teachers' probe minus the baseline's; empty without teachers.
        gap: the share of the way from the baseline to the probe that the run goes.
    """

    run: Run
    evaluation: Evaluation
    curve: tuple[Point, ...]
    gates: dict[str, list[list[float]]]
    differences: tuple[float, ...] = ()
    difference: Paired | None = None
    p: float | None = None
    references: tuple[float, ...] = ()
    gap: Share | None = None

    @property
    def name(self) -> str:
        """The run's name."""
        return self.run.run

    @property
    def plain(self) -> bool:
        """Whether nothing of any teacher is in it."""
        return not self.run.methods and self.run.student.reads != "features"

    @property
    def control(self) -> bool:
        """Whether its teachers were shuffled, so that nothing they know can have helped."""
        return self.run.shuffled_teacher

    @property
    def accuracies(self) -> list[float]:
        """Test accuracy per seed."""
        return [result.accuracy for result in self.evaluation.results]

    @property
    def accuracy(self) -> float:
        """Mean test accuracy over seeds."""
        return self.mean("accuracy")

    @property
    def verdict(self) -> str:
        """What the seeds allow to say: plain | unpaired | aside | single | noise | gain | loss."""
        if self.difference is None:
            return "plain" if self.plain else "unpaired"
        if self.run.methods and not any(self.run.chosen):
            return "aside"
        if self.difference.n == 1:
            return "single"
        if self.difference.inside_noise:
            return "noise"
        return "gain" if self.difference.mean > 0 else "loss"

    @property
    def identical(self) -> bool:
        """Whether every seed equals plain training to the last row, as after standing aside: then nothing is tested."""
        return bool(self.differences) and not any(self.differences)

    @property
    def collapsed(self) -> list[int]:
        """The seeds whose student predicts one class only, on validation or on test rows."""
        guards = {guard.seed for guard in self.run.guards if guard.one_class}
        return sorted(guards | {r.seed for r in self.evaluation.results if r.largest_class_share == 1})

    def mean(self, metric: str) -> float:
        """The mean over seeds of a field of `Result`."""
        return float(np.mean([getattr(result, metric) for result in self.evaluation.results]))

    def guard(self, what: str) -> float | None:
        """The mean over seeds of a field of `Guard`, None where it was not measured."""
        values = [value for guard in self.run.guards if (value := getattr(guard, what)) is not None]
        return float(np.mean(values)) if values else None

    @property
    def penalties(self) -> list[tuple[str, float, float]]:
        """Per method its name, its penalty at the last step, and that by chance; means over seeds."""
        found: dict[str, list[Level]] = {}
        for guard in self.run.guards:
            for name, level in guard.penalties.items():
                found.setdefault(name, []).append(level)
        return [
            (name, float(np.mean([at.end for at in levels])), float(np.mean([at.chance for at in levels])))
            for name, levels in found.items()
        ]

    @property
    def weight(self) -> str:
        """The chosen weights in words: `10`, or `aft 10, kd 1`; empty without methods. Then settings: `dropout 0.5`."""
        run = self.run
        weights = [f"{m.name} {weight:g}" for m, weight in zip(run.methods, run.chosen, strict=True)]
        if len(weights) == 1:
            weights = [f"{run.chosen[0]:g}"]
        return ", ".join(filter(None, [*weights, settings_label(run.chosen_settings)]))


@dataclass(frozen=True)
class Reference:
    """The probe of the teachers of some runs, on the test rows of those runs.

    Attributes:
        name: the teachers.
        mean, standard_error: its test accuracy over seeds.
        difference: that mean minus the baseline's; None without a baseline.
    """

    name: str
    mean: float
    standard_error: float | None
    difference: float | None


@dataclass(frozen=True)
class Comparison:
    """The runs of one student: plain training first, where there is one, and controls last.

    A student that reads the teachers' features has no plain training: its baseline is that of another student, and is
    not among the outcomes.
    """

    student: Student
    baseline: Outcome | None
    outcomes: tuple[Outcome, ...]

    @property
    def references(self) -> list[Reference]:
        """The probe of every set of teachers among the runs."""
        found = {}
        for outcome in self.outcomes:
            if outcome.evaluation.probe:
                accuracies = [score.accuracy for score in outcome.evaluation.probe]
                difference = float(np.mean(outcome.references)) if outcome.references else None
                name = " + ".join(outcome.run.teachers)
                found[name] = Reference(name, float(np.mean(accuracies)), standard_error(accuracies), difference)
        return list(found.values())


def compare(root: Path, runs: Sequence[str]) -> list[Comparison]:
    """Read runs and compare each with plain training of the same student, seed by seed.

    The baseline of a student is its run without methods; of several, the one that is called `none`, or the first. That
    of a student that reads the teachers' features is the first of the others' that can be paired with all of its runs.

    Args:
        root: the project's folder.
        runs: their names, in the order to keep.

    Raises:
        UserError: a record is missing or damaged, or runs cannot be paired, because their seeds, splits or test rows
            are not the same.
    """
    students: dict[str, list[Outcome]] = {}
    for name in runs:
        outcome = _read(root, name)
        students.setdefault(outcome.run.student.name, []).append(outcome)
    groups = []
    own = [_baseline(group) for group in students.values()]
    for group, baseline in zip(students.values(), own, strict=True):
        if group[0].run.student.reads == "features":
            others = (plain for plain in own if plain and not any(_mismatch(outcome, plain) for outcome in group))
            baseline = next(others, None)
        rest = [
            outcome if baseline is None else _pair(outcome, baseline) for outcome in group if outcome is not baseline
        ]
        rest.sort(key=lambda outcome: outcome.control)  # stable: otherwise the given order holds
        groups.append((baseline, [outcome for outcome in group if outcome is baseline], rest))
    tested = {
        outcome.name: outcome.difference.p
        for _, _, rest in groups
        for outcome in rest
        if outcome.difference is not None and outcome.difference.p is not None and not outcome.identical
    }
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    comparisons = []
    for baseline, first, rest in groups:
        done = (*first, *(replace(outcome, p=adjusted.get(outcome.name)) for outcome in rest))
        comparisons.append(Comparison(done[0].run.student, baseline, done))
    return comparisons


R = TypeVar("R")


def load(cls: type[R], path: Path, command: str) -> R:
    """Read a JSON record into a `Record` or a dataclass.

    Raises:
        UserError: it is missing or damaged; the line names the command to run.
    """
    try:
        return TypeAdapter(cls).validate_json(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run `{command}`") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        problem = f"{place}: {first['msg']}" if place else first["msg"]
        raise UserError(f"{path}: damaged, or of another version ({problem}); run `{command}` again") from None


def _read(root: Path, name: str) -> Outcome:
    folder, path = root / "runs" / name, root / "evaluations" / f"{name}.json"
    run = load(Run, folder / "run.json", f"aft train {name}")
    evaluation = load(Evaluation, path, f"aft evaluate {name}")
    seeds = [list(run.seeds), [result.seed for result in evaluation.results]]
    if evaluation.probe is not None:
        seeds.append([score.seed for score in evaluation.probe])
    if any(other != seeds[0] for other in seeds) or evaluation.student != run.student.name:
        raise UserError(f"{path}: not of the students that {folder} holds now; run `aft evaluate {name}` again")
    return Outcome(run, evaluation, _curve(folder / "curves.csv", run), _gates(folder / "gates.json", run))


def _curve(path: Path, run: Run) -> tuple[Point, ...]:
    scores: dict[int, list[float]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for line in csv.DictReader(file):
                if line["weight"] == run.label:
                    scores.setdefault(int(line["step"]), []).append(float(line["val_accuracy"]))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run `aft train {run.run}`") from None
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}); run `aft train {run.run}` again") from None
    if not scores:
        raise UserError(f"{path}: no lines for the chosen weight {run.label}; run `aft train {run.run}` again")
    return tuple(Point(s, float(np.mean(at)), standard_error(at), len(at)) for s, at in sorted(scores.items()))


def _gates(path: Path, run: Run) -> dict[str, list[list[float]]]:
    if not path.exists():
        return {}  # most methods have none
    try:
        gates = TypeAdapter(dict[str, list[list[float]]]).validate_json(path.read_bytes())
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise UserError(f"{path}: damaged ({problem}); run `aft train {run.run}` again") from None
    if any(len(seeds) != len(run.seeds) or len({len(seed) for seed in seeds} - {0}) != 1 for seeds in gates.values()):
        raise UserError(
            f"{path}: not the same number of gates for each of the run's seeds; run `aft train {run.run}` again"
        )
    return gates


def _baseline(group: Sequence[Outcome]) -> Outcome | None:
    plain = [outcome for outcome in group if outcome.plain]
    return next((outcome for outcome in plain if outcome.name == "none"), plain[0] if plain else None)


def _mismatch(outcome: Outcome, baseline: Outcome) -> str:
    """Why two runs cannot be paired; empty if they can."""
    one, other = outcome.evaluation, baseline.evaluation
    for what, mine, theirs in (
        ("seeds", [result.seed for result in one.results], [result.seed for result in other.results]),
        ("splits", [result.split for result in one.results], [result.split for result in other.results]),
        ("test rows", one.test_rows, other.test_rows),
        ("classes", list(one.classes), list(other.classes)),
    ):
        if mine != theirs:
            return f"their {what} are {mine} and {theirs}"
    return ""


def _pair(outcome: Outcome, baseline: Outcome) -> Outcome:
    if mismatch := _mismatch(outcome, baseline):
        raise UserError(
            f"runs {outcome.name} and {baseline.name} cannot be paired: {mismatch}; "
            "train and evaluate both with the same settings"
        )
    one = outcome.evaluation
    differences = tuple(x - y for x, y in zip(outcome.accuracies, baseline.accuracies, strict=True))
    references = tuple(r.accuracy - y for r, y in zip(one.probe or (), baseline.accuracies, strict=bool(one.probe)))
    gap = gap_closed(differences, references) if references else None
    return replace(outcome, differences=differences, difference=paired(differences), references=references, gap=gap)
