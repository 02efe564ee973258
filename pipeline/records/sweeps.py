"""Records of `aft sweep`."""

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.records.record import Metric, Record


class PointRecord(Record):
    """One point of a sweep, and what came of it.

    Attributes:
        values: by key of the sweep.
        run: the run that it is, as a section of `runs` in params.yaml.
        trials: the names of its trainings in the ledger.
        chosen: the candidate, where the run has several; as in tables.
        outcome: `done`; `diverged` on a seed; or `dropped`, not trained on all seeds, because it was clearly worse.
        val_scores: of the chosen candidate, by seed, in the sweep's order; as far as it was trained.
        line: why it diverged.
    """

    values: dict[str, Any]
    run: dict[str, Any]
    trials: tuple[str, ...]
    chosen: str = ""
    outcome: Literal["done", "diverged", "dropped"]
    val_scores: tuple[float, ...] = ()
    line: str = ""

    @property
    def mean(self) -> float | None:
        """The mean validation score; None where it does not have that of every seed."""
        return sum(self.val_scores) / len(self.val_scores) if self.outcome == "done" else None


class SweepRecord(Record):
    """sweeps/<sweep>.json: all points of a sweep, in its order.

    Attributes:
        data: digest of the prepared dataset.
        metric: of the scores, on validation rows.
        seeds: of every point.
        points: all of them.
        settings, defaults: that it was trained with; see `LogRecord`.
    """

    command: ClassVar[str] = "aft sweep {name}"
    named: ClassVar[str] = "sweep"

    sweep: str
    data: str
    metric: Metric
    seeds: tuple[int, ...] = Field(min_length=1)
    points: tuple[PointRecord, ...] = Field(min_length=1)
    settings: dict[str, Any] | None = None
    defaults: dict[str, Any] = Field(default_factory=dict)

    @property
    def ranked(self) -> list[PointRecord]:
        """The points that were trained on all seeds, the best first."""
        sign = -1 if self.metric.higher_is_better else 1
        known = [(sign * round(point.mean, 9), point) for point in self.points if point.mean is not None]
        return [point for _, point in sorted(known, key=lambda pair: pair[0])]

    @model_validator(mode="after")
    def _done_on_every_seed(self) -> "SweepRecord":
        if any(len(point.val_scores) != len(self.seeds) for point in self.points if point.outcome == "done"):
            raise ValueError("a point that is done has not one score a seed")
        return self


class SweepStatus(Record):
    """.aft/sweeps/<sweep>.json: how far a sweep is, for whoever watches it.

    Attributes:
        points: in all; of a search, those that were proposed so far.
        trials, done, failed: trainings in all, finished, and failed.
        found: of those that are done, how many were in the ledger before.
        seconds_left: as far as it can be told.
        best: the labels of the best points so far, with their mean validation scores.
        lines: what failed.
    """

    command: ClassVar[str] = "aft sweep {name}"

    sweep: str
    metric: Metric
    points: int
    trials: int
    done: int
    found: int
    failed: int
    seconds_left: float | None = None
    best: tuple[tuple[str, float], ...] = ()
    lines: tuple[str, ...] = ()
