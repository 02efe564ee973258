"""A sweep: points -> trials -> the ledger -> a record of all points and their validation scores."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.changed import defaults_of_sweep, settings_of
from pipeline.conditions import Condition, conditions, selected
from pipeline.errors import UserError, count
from pipeline.functional.statistics import paired
from pipeline.locks import Lock
from pipeline.params import Params
from pipeline.project import Project
from pipeline.records import Metric, PointRecord, SweepRecord
from pipeline.runs import LABELLED, Sweep, make_point, point_label, points, read_sweep
from pipeline.sweeping.board import Board
from pipeline.sweeping.planning import PlannedPoint, Planner, plan_grids
from pipeline.sweeping.search import Proposer
from pipeline.sweeping.slots import default_jobs
from pipeline.sweeping.worker import train_jobs
from pipeline.trackers import tracker
from pipeline.training import FEWEST_SEEDS, Group, Ledger, Race, TrainSettings, choose, clearly_worse, scores_of

LISTED = 10
"""The best points that are printed."""


@dataclass(frozen=True)
class Swept:
    """What `sweep` returns.

    Attributes:
        sweep: its name.
        record: all points and their scores.
        path: where the record was written; None if only some of the points were asked for, or some failed.
        trained, found: trials that were trained now, and that were in the ledger.
        failed: a line for each trial that could not be trained.
    """

    sweep: str
    record: SweepRecord
    path: Path | None
    trained: int
    found: int
    failed: list[str]

    def __str__(self) -> str:
        record, ranked = self.record, self.record.ranked
        lines = [
            f"{self.sweep}: {count(len(record.points), 'point')}, {count(self.trained + self.found, 'trial')}: "
            f"{self.trained:,} trained, {self.found:,} found, {len(self.failed):,} failed"
        ]
        for point in ranked[:LISTED]:
            lines.append(f"  {_score(point, ranked[0], record.metric)}  {_label(point)}")
        if len(ranked) > LISTED:
            lines.append(f"  and {len(ranked) - LISTED:,} more, in {self.path or 'the record'}")
        others = [point for point in record.points if point.outcome != "done"]
        lines += [f"  {point.outcome}  {_label(point)}{point.line and f': {point.line}'}" for point in others[:LISTED]]
        lines += [f"failed: {line}" for line in self.failed]
        if ranked:
            run = yaml.safe_dump({"best": ranked[0].run}, sort_keys=False, default_flow_style=None, width=1000)
            labelled = ranked[0].values.get(LABELLED)
            how = (
                "add it to `runs`; it is trained already:"
                if labelled is None
                else f"set {LABELLED}: {labelled} and add it to `runs`:"
            )
            lines += [
                f"The best of {count(len(record.points), 'point')} by validation {record.metric.label}, which is "
                f"optimistic about the one that it chose. To test and ship it, {how}",
                *(f"  {line}" for line in run.splitlines()),
            ]
        return "\n".join(lines)


def _label(point: PointRecord) -> str:
    return ", ".join(filter(None, [point_label(point.values), point.chosen and f"candidate {point.chosen}"]))


def _score(point: PointRecord, best: PointRecord, metric: Metric) -> str:
    """The mean score, and how far it is from the best, with its interval over seeds where there are several."""
    mean = point.mean
    assert mean is not None
    if point is best:
        return f"{mean:.4f}"
    differences = [one - other for one, other in zip(point.val_scores, best.val_scores, strict=True)]
    found = paired(differences)
    interval = "" if found.low is None or found.high is None else f", {found.low:+.4f} to {found.high:+.4f}"
    return f"{mean:.4f} ({found.mean:+.4f}{interval})"


def sweep(
    name: str,
    params: Params,
    project: Project = Project(),
    jobs: int | None = None,
    where: str = "",
    say: Callable[[str], None] = lambda line: None,
) -> Swept:
    """Train what is missing of the sweep `name`; write `sweeps/<name>.json` once all of it is there.

    Args:
        name: a key of `sweep`.
        params: all settings.
        project: where data, features and probes are.
        jobs: trainings at the same time; None chooses.
        where: conditions on the values of points; only those that meet them are trained, and no record is written.
        say: takes lines about the work.

    Raises:
        UserError: the sweep or a point of it is wrong, another process runs it, no point meets the conditions, or not
            one could be trained.
    """
    if (processes := Group.current().size) > 1:
        raise UserError(
            f"aft sweep: started as {processes} processes that train one student together; start it once, with --jobs"
        )
    settings = read_sweep(params, name)
    keys = dict.fromkeys(key for grid in settings.over for key in grid)
    wanted = conditions(where, list(keys))
    if settings.search and wanted:
        raise UserError(f"{params.source}: sweep.{name}: a search has no list to select from; leave --where out")
    lock = Lock(project.lock("sweep", name))
    if not lock.acquire():
        raise UserError(f"{lock.path}: {lock.owner()} runs the sweep `{name}`; see it with `aft sweep {name} --watch`")
    try:
        with Ledger(project).in_use():
            return _Sweep(name, params, project, settings, jobs, say).run(wanted)
    finally:
        lock.release()


class _Sweep:
    """One call of `sweep`."""

    def __init__(
        self,
        name: str,
        params: Params,
        project: Project,
        settings: Sweep,
        jobs: int | None,
        say: Callable[[str], None],
    ):
        self.name, self.params, self.project, self.settings, self.say = name, params, project, settings, say
        self.planner, self.ledger = Planner(params, project), Ledger(project)
        if track := self.planner.machine.track:
            tracker(track)
        self.jobs = jobs or default_jobs(self.planner.machine)
        self.trained: set[str] = set()
        self.failed: dict[str, str] = {}

    def run(self, where: Sequence[Condition]) -> Swept:
        """All of it."""
        if self.settings.search:
            # The ends of all ranges, so that what cannot be trained is refused now.
            corners = [self.planner.plan(point) for point in points(self.params, self.name)[0]]
            self.plan = self.planner.together(corners)
            with self._board() as self.board:
                found = self._search(self.settings.search.points, self.settings.search.together)
        else:
            planned = plan_grids(self.params, self.name, self.planner)
            found = [each for each in planned if selected(each.point.values, where)]
            if not found:
                raise UserError(
                    f"{self.params.source}: sweep.{self.name}: no point meets --where; see its keys and values"
                )
            self.plan = self.planner.together(found)
            with self._board() as self.board:
                self._add(found)
                self._train(found, self.plan.seeds)
        return self._write(found, partial=bool(where))

    def _tell(self, line: str) -> None:
        self.say(f"sweep {self.name}: {line}")

    def _board(self) -> Board:
        return Board(self.name, self.plan.metric, self.project)

    def _race(self, planned: PlannedPoint) -> Race:
        return Race(planned.plan, planned.trials, self.ledger, self.plan.primary)

    def _add(self, new: Sequence[PlannedPoint]) -> None:
        """Show new points, with what the ledger has of them."""
        known = {digest for planned in self.board.points for digest in planned.digests}
        self.board.points += new
        for planned in new:
            for digest in planned.digests:
                if digest not in known and (record := self.ledger.read(digest)):
                    known.add(digest)
                    self.board.finish(digest, record.diverged)
                    self.board.found += 1
            self._score(planned)
        self.board.show()

    def _score(self, planned: PlannedPoint) -> None:
        result = self._result(planned)
        if result is not None and result.mean is not None:
            self.board.means[planned.point.label] = result.mean

    def _train(self, new: Sequence[PlannedPoint], seeds: Sequence[int]) -> None:
        """Train what is missing of these points on some of the seeds. What fails is noted, and not tried again."""
        while True:
            jobs = {
                trial.digest: (position, trial)
                for position, planned in enumerate(new)
                for trial in self._race(planned).needed()
                if trial.seed in seeds and trial.digest not in self.ledger and trial.digest not in self.failed
            }
            if not jobs:
                return
            together = f"{self.jobs} at a time" if self.jobs else "as many at a time as there is room for"
            self.say(f"sweep {self.name}: {count(len(jobs), 'trial')} to train, {together}")
            folder = self.project.lock("sweep").parent
            events = train_jobs(new, list(jobs.values()), folder, self.jobs, self._tell)
            with closing(events):
                for event in events:
                    self.board.steps += event.steps
                    if event.failed and event.trial not in self.ledger:
                        self.failed[event.trial] = event.failed
                        self.board.failures[event.trial] = event.failed
                    elif event.ended and event.trial not in self.ledger:
                        self.board.dropped.add(event.trial)
                    elif event.ended and (record := self.ledger.read(event.trial)):
                        self.trained.add(event.trial)
                        self.board.finish(event.trial, record.diverged)
                        self._score(new[jobs[event.trial][0]])
                    self.board.show()
            needed = {trial.digest for planned in new for trial in self._race(planned).needed()}
            for digest in jobs.keys() & needed:
                if digest not in self.ledger:
                    self.failed.setdefault(digest, "damaged right after it was written; check the disk")

    def _search(self, number: int, together: int) -> list[PlannedPoint]:
        """Propose, train and drop points; returns those that were tried, each once."""
        metric = self.plan.metric
        proposer = Proposer(self.settings, metric.higher_is_better, self.project.sweep_journal(self.name))
        tried: dict[tuple[str, ...], PlannedPoint] = {}
        for start in range(0, number, together):
            asked = []
            for trial, values in proposer.ask(min(together, number - start)):
                planned = self.planner.plan(make_point(self.params, self.name, self.settings, values))
                asked.append((trial, tried.setdefault(planned.digests, planned)))
            group = list({planned.digests: planned for _, planned in asked}.values())
            self._add([planned for planned in group if planned not in self.board.points])
            self._race_points(group, list(tried.values()))
            for trial, planned in asked:
                result = self._result(planned)
                proposer.tell(trial, result.val_scores if result else (), result.outcome if result else "failed")
        return list(tried.values())

    def _race_points(self, group: Sequence[PlannedPoint], tried: Sequence[PlannedPoint]) -> None:
        """Train points seed by seed, and stop with those that are clearly worse than the best of all on these seeds."""
        seeds, alive = self.plan.seeds, list(group)
        for number in range(min(FEWEST_SEEDS, len(seeds)), len(seeds) + 1):
            self._train(alive, seeds[:number])
            rows = {planned.digests: self._rows(planned, seeds[:number]) for planned in tried}
            known = [scores for scores in rows.values() if scores]
            if number == len(seeds) or number < FEWEST_SEEDS or not known:
                continue
            best = max(known, key=lambda scores: float(sum(each.mean() for each in scores)))
            alive = [p for p in alive if (own := rows[p.digests]) and not clearly_worse(own, best)]

    def _rows(self, planned: PlannedPoint, seeds: Sequence[int]) -> list[Any] | None:
        """Per seed, what each validation row adds to the score of a point; None where it is not known of each seed.

        Larger is better. A point with several candidates is not known before one of them is chosen, and no point is by
        another score than the one that rows add up to.
        """
        if self.plan.metric != self.plan.primary:
            return None
        trials = [trial for trial in planned.trials if trial.seed in seeds]
        found = [rows for trial in trials if (rows := self.ledger.row_scores(trial.digest)) is not None]
        sign = 1 if self.plan.metric.higher_is_better else -1
        return [sign * rows for rows in found] if len(found) == len(seeds) == len(trials) else None

    def _result(self, planned: PlannedPoint) -> PointRecord | None:
        """What came of a point, as far as the ledger has it; None where a trial failed, or none is there."""
        needed = self._race(planned).needed()
        results = {trial: record for trial in needed if (record := self.ledger.read(trial.digest))}
        fields: dict[str, Any] = {
            "values": planned.point.values,
            "run": planned.point.section,
            "trials": planned.digests,
        }
        single = len({trial.candidate for trial in planned.trials}) == 1
        if diverged := next((record.diverged for record in results.values() if record.diverged and single), ""):
            return PointRecord(**fields, outcome="diverged", line=diverged)
        if not results or any(trial.digest in self.failed for trial in needed):
            return None
        if len(results) < len(needed):
            found = (record.scores.get(self.plan.metric.name) for record in results.values())
            known = tuple(score for score in found if score is not None)
            return PointRecord(**fields, outcome="dropped", val_scores=known if single else ())
        try:
            chosen = choose(results, planned.point.label, self.plan.metric)
        except UserError as error:
            return PointRecord(**fields, outcome="diverged", line=str(error))
        scores = tuple(score for score in scores_of(results, chosen, self.plan.metric) if score is not None)
        return PointRecord(**fields, outcome="done", val_scores=scores, chosen="" if single else chosen.label)

    def _write(self, planned: Sequence[PlannedPoint], partial: bool) -> Swept:
        """The record of all points.

        Raises:
            UserError: not one point could be trained.
        """
        results = [result for each in planned if (result := self._result(each)) is not None]
        lines = list(dict.fromkeys(self.board.label(digest) + f": {line}" for digest, line in self.failed.items()))
        if not results:
            raise UserError(f"{self.params.source}: sweep.{self.name}: no point could be trained: {lines[0]}")
        if all(result.outcome == "diverged" for result in results):
            raise UserError(
                f"{self.params.source}: sweep.{self.name}: every point diverged: {results[0].line}; lower "
                "train.learning_rate or the weights"
            )
        plan = self.plan
        record = SweepRecord(
            sweep=self.name, data=plan.data, metric=plan.metric, seeds=plan.seeds, points=tuple(results),
            settings=settings_of("sweep", self.name, self.params),
            defaults=defaults_of_sweep(self.params, self.name, TrainSettings),
        )  # fmt: skip
        path = None if partial or lines else self.project.sweep(self.name)
        if path:
            record.write(path)
        return Swept(self.name, record, path, len(self.trained), self.board.found, lines)
