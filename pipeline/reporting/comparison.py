"""Runs compared with plain training of their student, seed by seed: statistics of records, without files or figures."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np

from pipeline.functional.statistics import Paired, Share, gap_closed, holm, paired, standard_error
from pipeline.records import EvaluationRecord, LogRecord, Metric, PenaltyRecord, RunRecord, SeedScores, StudentRecord
from pipeline.runs import settings_label


@dataclass(frozen=True)
class CurvePoint:
    """The validation score at one step: mean over the seeds that were measured there, and its standard error."""

    step: int
    mean: float
    standard_error: float | None
    seeds: int


@dataclass(frozen=True)
class Outcome:
    """One run, and how it compares with plain training.

    Attributes:
        run, evaluation: its records.
        log: how long its training took and where; None where the log is not there.
        curve: validation score along training, at the chosen weights.
        gates: per source and seed, the learned gates [features]; empty for methods without.
        differences: per seed, the test score minus the baseline's; empty for the baseline, or where there is none.
        difference: the same, summarised; `wins` counts the seeds on which the run is better.
        p: its p-value, adjusted after Holm for all comparisons made together; None where there is nothing to test.
        references: per seed, the score of the teachers' linear probe minus the baseline's; empty without teachers.
        gap: the share of the way from the baseline to the linear probe that the run closes.
    """

    run: RunRecord
    evaluation: EvaluationRecord
    log: LogRecord | None = None
    curve: tuple[CurvePoint, ...] = ()
    gates: dict[str, tuple[tuple[float, ...], ...]] = field(default_factory=dict)
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
    def metric(self) -> Metric:
        """The metric that runs are compared by."""
        return self.evaluation.primary

    @property
    def teachers(self) -> str:
        """Its sources of features: `lite0 + lite2`; empty without."""
        return " + ".join(self.run.sources)

    @property
    def plain(self) -> bool:
        """Whether it is plain training: no method, and a student that does not read features."""
        return not self.run.methods and self.run.student.reads != "features"

    @property
    def control(self) -> bool:
        """Whether its teachers' rows were shuffled, so that nothing they know can have helped."""
        return self.run.shuffled_teacher

    @property
    def scores(self) -> list[float]:
        """The primary test score per seed."""
        return _values(self.evaluation.results, self.metric)

    @property
    def score(self) -> float:
        """The primary test score, mean over seeds."""
        return float(np.mean(self.scores))

    @property
    def probe_scores(self) -> list[float]:
        """The same of the teachers' linear probe; empty without teachers."""
        return _values(self.evaluation.probe or (), self.metric)

    @property
    def verdict(self) -> str:
        """What the seeds allow to say: plain | unpaired | zero | single | noise | gain | loss."""
        if self.difference is None:
            return "plain" if self.plain else "unpaired"
        if self.run.methods and not any(self.run.chosen):
            return "zero"
        if self.difference.n == 1:
            return "single"
        if self.difference.inside_noise:
            return "noise"
        return "gain" if direction(self.metric) * self.difference.mean > 0 else "loss"

    @property
    def identical(self) -> bool:
        """Whether every seed scores exactly as plain training, as with weight 0: then nothing is tested."""
        return bool(self.differences) and not any(self.differences)

    @property
    def collapsed(self) -> list[int]:
        """The seeds whose student predicts the same for every row, on validation or on test rows."""
        found = {diagnostics.seed for diagnostics in self.run.diagnostics if diagnostics.collapsed}
        return sorted(found | {result.seed for result in self.evaluation.results if result.collapsed})

    def mean(self, metric: str) -> float | None:
        """The mean over seeds of a test score; None where it is not finite on one of them."""
        values = [result.scores.get(metric) for result in self.evaluation.results]
        return float(np.mean([v for v in values if v is not None])) if None not in values else None

    def diagnostic(self, what: str) -> float | None:
        """The mean over seeds of a field of `DiagnosticsRecord`; None where it was not measured."""
        values = [value for of in self.run.diagnostics if (value := getattr(of, what)) is not None]
        return float(np.mean(values)) if values else None

    @property
    def penalties(self) -> list[tuple[str, float, float]]:
        """Per method its name, its penalty at the last step, and its chance level; means over seeds."""
        found: dict[str, list[PenaltyRecord]] = {}
        for of in self.run.diagnostics:
            for name, penalty in of.penalties.items():
                found.setdefault(name, []).append(penalty)
        return [
            (name, float(np.mean([of.end for of in penalties])), float(np.mean([of.chance for of in penalties])))
            for name, penalties in found.items()
        ]

    @property
    def weight(self) -> str:
        """The chosen weights, then settings: `10`, or `aft 10, kd 1, dropout 0.5`; empty without either."""
        run = self.run
        weights = [f"{m.name} {weight:g}" for m, weight in zip(run.methods, run.chosen, strict=True)]
        if len(weights) == 1:
            weights = [f"{run.chosen[0]:g}"]
        return ", ".join(filter(None, [*weights, settings_label(run.chosen_settings)]))


@dataclass(frozen=True)
class Reference:
    """The linear probe of the teachers of some runs, on the test rows of those runs.

    Attributes:
        name: the teachers.
        mean, standard_error: its test score over seeds.
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

    student: StudentRecord
    baseline: Outcome | None
    outcomes: tuple[Outcome, ...]

    @property
    def metric(self) -> Metric:
        """The metric that its runs are compared by."""
        return self.outcomes[0].metric

    @property
    def others(self) -> list[Outcome]:
        """The runs that are compared with the baseline."""
        return [outcome for outcome in self.outcomes if outcome is not self.baseline]

    @property
    def references(self) -> list[Reference]:
        """The linear probe of every set of teachers among the runs."""
        found = {}
        for outcome in self.outcomes:
            if scores := outcome.probe_scores:
                difference = float(np.mean(outcome.references)) if outcome.references else None
                mean, error = float(np.mean(scores)), standard_error(scores)
                found[outcome.teachers] = Reference(outcome.teachers, mean, error, difference)
        return list(found.values())


def direction(metric: Metric) -> int:
    """1 where a higher score is better, otherwise -1."""
    return 1 if metric.higher_is_better else -1


def compare(outcomes: Sequence[Outcome]) -> tuple[list[Comparison], list[str]]:
    """Compare runs with plain training of the same student, seed by seed.

    The baseline of a student is its run without methods; of several, the one that is called `none`, or the first. That
    of a student that reads the teachers' features is the first of the others' that can be paired with all of its runs.

    Args:
        outcomes: runs in the order to keep.

    Returns:
        A comparison for each student, and a line for each run that cannot be paired with its baseline, because their
        seeds, splits, test rows or outputs are not the same.
    """
    students: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        students.setdefault(outcome.run.student.name, []).append(outcome)
    groups, problems = [], []
    own = [_baseline(group) for group in students.values()]
    for group, baseline in zip(students.values(), own, strict=True):
        if group[0].run.student.reads == "features":
            others = (plain for plain in own if plain and not any(mismatch_of(outcome, plain) for outcome in group))
            baseline = next(others, None)
        rest = []
        for outcome in group:
            if outcome is baseline:
                continue
            if baseline is None:
                rest.append(outcome)
            elif mismatch := mismatch_of(outcome, baseline):
                rest.append(outcome)
                problems.append(
                    f"{outcome.name}: not compared with {baseline.name}, because their {mismatch}; "
                    "train and evaluate both with the same settings"
                )
            else:
                rest.append(pair(outcome, baseline))
        # The sort is stable: otherwise the given order holds.
        rest.sort(key=lambda outcome: outcome.control)
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
    return comparisons, problems


def _baseline(group: Sequence[Outcome]) -> Outcome | None:
    plain = [outcome for outcome in group if outcome.plain]
    return next((outcome for outcome in plain if outcome.name == "none"), plain[0] if plain else None)


def mismatch_of(outcome: Outcome, baseline: Outcome) -> str:
    """Why two runs cannot be paired; empty if they can."""
    one, other = outcome.evaluation, baseline.evaluation
    for what, mine, theirs in (
        ("seeds", [result.seed for result in one.results], [result.seed for result in other.results]),
        ("splits", [result.split for result in one.results], [result.split for result in other.results]),
        ("numbers of test rows", one.test_rows, other.test_rows),
    ):
        if mine != theirs:
            return f"{what} are {mine} and {theirs}"
    return "outputs have other names" if one.outputs != other.outputs else ""


def pair(outcome: Outcome, baseline: Outcome) -> Outcome:
    """A run with its differences from a baseline, seed by seed; `mismatch_of` says whether they can be paired."""
    sign = direction(outcome.metric)
    differences = tuple(x - y for x, y in zip(outcome.scores, baseline.scores, strict=True))
    probe = outcome.probe_scores
    references = tuple(r - y for r, y in zip(probe, baseline.scores, strict=bool(probe)))
    gap = gap_closed([sign * x for x in differences], [sign * x for x in references]) if references else None
    difference = replace(paired(differences), wins=sum(sign * x > 0 for x in differences))
    return replace(outcome, differences=differences, difference=difference, references=references, gap=gap)


def _values(results: Sequence[SeedScores], metric: Metric) -> list[float]:
    # None is refused when the records are read.
    return [cast(float, result.scores[metric.name]) for result in results]
