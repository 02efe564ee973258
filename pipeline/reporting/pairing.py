"""Two runs, or points of sweeps, compared seed by seed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pipeline.errors import UserError
from pipeline.functional.statistics import Paired, paired
from pipeline.params import Params
from pipeline.project import Project
from pipeline.records import Metric, RunRecord, SweepRecord
from pipeline.reporting.comparison import direction, mismatch_of, pair
from pipeline.reporting.inputs import Records, read_outcome
from pipeline.reporting.text import change, change_unit, heading, interval, p_value, score
from pipeline.terminal import table


@dataclass(frozen=True)
class Pairing:
    """Two runs or points on the same splits.

    Attributes:
        names: of both.
        rows: the rows that they are compared on, `test` or `validation`.
        metric: of the scores.
        seeds: that both were trained on.
        scores: of both, by seed.
        difference: the first minus the second; `wins` counts the seeds on which the first is better.
    """

    names: tuple[str, str]
    rows: str
    metric: Metric
    seeds: tuple[int, ...]
    scores: tuple[tuple[float, ...], tuple[float, ...]]
    difference: Paired

    def __str__(self) -> str:
        metric, found = self.metric, self.difference
        rows = [
            (str(seed), score(one, metric), score(other, metric), change(one - other, metric))
            for seed, one, other in zip(self.seeds, *self.scores, strict=True)
        ]
        lines = [f"{self.rows} {heading(metric)}", table(("seed", *self.names, "difference"), rows, [True] * 4)]
        reach = interval(found.low, found.high, lambda value: change(value, metric))
        more = f" (95 % interval {reach}, p {p_value(found.p)})" if reach else " (one seed: no interval)"
        lines.append(
            f"{self.names[0]} - {self.names[1]}: {change(found.mean, metric)} {change_unit(metric)}{more}, better on "
            f"{found.wins} of {found.n}"
        )
        if self.scores[0] == self.scores[1]:
            lines.append("All scores are equal, as those of one and the same training are.")
        elif reach and found.inside_noise:
            lines.append("The interval contains 0: these seeds do not tell the two apart.")
        if self.rows == "validation":
            lines.append("Validation rows have chosen settings, so these scores are optimistic; `aft evaluate` tests.")
        return "\n".join(lines)


def pair_runs(
    one: str, other: str, params: Params, project: Project = Project(), say: Callable[[str], None] = lambda line: None
) -> Pairing:
    """Compare two runs, or points of sweeps such as `sizes/3`: on test rows if both are evaluated, else on validation.

    Args:
        one, other: of both.
        params: all settings.
        project: where the records are.
        say: takes a line about each record that is missing or damaged, if runs are compared on validation rows for it.

    Raises:
        UserError: one is not trained or not in params.yaml, both are one, or they cannot be paired, because seeds,
            splits or data differ.
    """
    if one == other:
        raise UserError(f"{one}: given twice; name another run to compare it with")
    for name in (one, other):
        if "/" not in name:
            params.section(f"runs.{name}")
    reader = Records(project)
    outcomes = [None if "/" in name else read_outcome(name, params, reader) for name in (one, other)]
    first, second = outcomes
    if first is not None and second is not None:
        if mismatch := mismatch_of(first, second):
            raise UserError(f"{one} and {other} cannot be paired: their {mismatch}; train both with the same settings")
        difference = pair(first, second).difference
        assert difference is not None
        scores = (tuple(first.scores), tuple(second.scores))
        return Pairing((one, other), "test", first.metric, first.run.seeds, scores, difference)
    for line in reader.missing:
        say(line)
    sides = [_validated(name, project) for name in (one, other)]
    data, metric, seeds, own = sides[0]
    of_other, its_metric, its_seeds, others = sides[1]
    for what, mine, theirs in (
        ("data", data, of_other), ("metrics", metric, its_metric), ("seeds", tuple(seeds), tuple(its_seeds)),
    ):  # fmt: skip
        if mine != theirs:
            raise UserError(
                f"{one} and {other} cannot be paired: their {what} differ; train both with the same settings"
            )
    differences = [x - y for x, y in zip(own, others, strict=True)]
    found = replace(paired(differences), wins=sum(direction(metric) * x > 0 for x in differences))
    return Pairing((one, other), "validation", metric, tuple(seeds), (tuple(own), tuple(others)), found)


def _validated(name: str, project: Project) -> tuple[str, Metric, Sequence[int], Sequence[float]]:
    """Data, metric, seeds and validation scores of a run, or of a point."""
    sweep, slash, number = name.partition("/")
    if not slash:
        run = RunRecord.read(project.run(name) / "run.json", name)
        return run.data, run.metric, run.seeds, run.chosen_scores
    if not sweep:
        raise UserError(f"{name}: neither a run nor a point of a sweep, which is written sizes/3")
    record = SweepRecord.read(project.sweep(sweep), sweep)
    if not number.isdecimal() or int(number) >= len(record.points):
        raise UserError(
            f"{name}: no such point; `aft runs --sweep {sweep}` lists {len(record.points):,}, from {sweep}/0"
        )
    point = record.points[int(number)]
    if point.outcome != "done":
        raise UserError(f"{name}: {point.outcome}, so it lacks scores of some seeds; choose another point")
    return record.data, record.metric, record.seeds, point.val_scores
