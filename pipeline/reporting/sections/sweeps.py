"""Sweeps: the best points, how many there are, and the score of each in the order in which they were tried."""

from typing import Any

from pipeline.functional.statistics import paired
from pipeline.records import SweepRecord
from pipeline.reporting import figures
from pipeline.reporting.inputs import ReportInputs
from pipeline.reporting.text import change, change_unit, counted, heading, interval, scaled, score
from pipeline.runs import value_label

SHOWN = 20
"""The largest number of points in a table."""


def context(inputs: ReportInputs) -> dict[str, Any] | None:
    """A table and a figure for each finished sweep; None without any."""
    return {"sweeps": [_sweep(record, f"p{n}") for n, record in enumerate(inputs.sweeps)]} if inputs.sweeps else None


def _sweep(record: SweepRecord, name: str) -> dict[str, Any]:
    metric, ranked = record.metric, record.ranked
    keys = list(dict.fromkeys(key for point in record.points for key in point.values))
    rows = []
    for point in ranked[:SHOWN]:
        difference = paired([x - y for x, y in zip(point.val_scores, ranked[0].val_scores, strict=True)])
        rows.append(
            {
                "point": f"{record.sweep}/{record.points.index(point)}",
                "values": [value_label(point.values[key]) if key in point.values else "" for key in keys],
                "score": score(point.mean, metric),
                "difference": "" if point is ranked[0] else change(difference.mean, metric),
                "interval": ""
                if point is ranked[0]
                else interval(difference.low, difference.high, lambda value: change(value, metric)),
            }
        )
    axis = f"validation {heading(metric)}"
    scores = [[scaled(value, metric) for value in point.val_scores] for point in record.points]
    apart = [number for number, point in enumerate(record.points) if point.outcome != "done"]
    best = record.points.index(ranked[0]) if ranked else None
    title = f"Validation {metric.label} of the points of {record.sweep}, in the order in which they were tried"
    return {
        "name": record.sweep,
        "columns": keys,
        "rows": rows,
        "axis": axis,
        "unit": change_unit(metric),
        "told": _told(record),
        "svg": figures.points(scores, apart, best, metric.higher_is_better, name, title, axis),
    }


def _told(record: SweepRecord) -> str:
    """How many points there are, and what became of those that are not in the table."""
    outcomes = [point.outcome for point in record.points]
    told = [f"{counted(len(outcomes), 'point')}, {counted(len(record.seeds), 'seed')} each"]
    if dropped := outcomes.count("dropped"):
        told.append(f"{dropped} clearly worse after some seeds and not trained on the others")
    if diverged := outcomes.count("diverged"):
        told.append(f"{diverged} diverged (NaN or inf)")
    if (done := outcomes.count("done")) > SHOWN:
        told.append(f"the table has the best {SHOWN} of {done}")
    crosses = " Crosses are means of points that do not have a score of every seed." if dropped or diverged else ""
    return "; ".join(told) + "." + crosses
