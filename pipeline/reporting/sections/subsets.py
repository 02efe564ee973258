"""Choice of teachers: the record of `aft assess`, and its figure."""

import textwrap
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from pipeline.functional.statistics import Paired, standard_error
from pipeline.records import AssessmentRecord, Metric, SubsetRecord
from pipeline.reporting import figures
from pipeline.reporting.comparison import direction
from pipeline.reporting.inputs import ReportInputs
from pipeline.reporting.text import change, change_unit, interval, number, scaled, score, score_with_unit
from pipeline.sources import Source

MOST = 16
"""Subsets in the figure, the best ones; the table has all."""


def context(inputs: ReportInputs) -> dict[str, Any] | None:
    """A figure and a table of subsets, and a table of pairs; None without an assessment."""
    found = inputs.assessment
    if found is None:
        return None
    metric = found.primary
    return {
        "found": found,
        "metric": metric,
        "units": change_unit(metric),
        "figures": _figures(found, metric),
        "views": [
            {
                "name": views.name,
                "count": views.count,
                "spread": _mean_and_error(views.spread),
                "val": score(fmean(views.val), metric),
            }
            for views in found.views
        ],
        "drawn": min(MOST, len(found.subsets)),
        "rows": [_row(subset, found, inputs) for subset in found.subsets],
        "alike": [
            {
                "name": pair.name,
                "key": f"alike {pair.name}",
                "cka": _mean_and_error(pair.cka),
                "one_right": _share(pair.one_right),
                "by_chance": _share(pair.by_chance),
            }
            for pair in found.pairs
        ]
        + [
            {
                "name": f"{start.source} and {start.student}, untrained",
                "key": f"start {start.source} {start.student}",
                "cka": _mean_and_error(start.cka),
                "one_right": "—",
                "by_chance": "—",
            }
            for start in found.starts
        ],
    }


def _row(subset: SubsetRecord, found: AssessmentRecord, inputs: ReportInputs) -> dict[str, Any]:
    metric = found.primary
    values = [value for of in subset.scores if (value := of.val.get(metric.name)) is not None]
    error = standard_error(values)
    return {
        "name": subset.name,
        "recommended": subset.sources == found.recommended,
        "val": score(subset.mean("val", metric.name), metric),
        "error": "" if error is None else score(error, metric),
        "against": _difference(subset.against_best, metric),
        "gain": _difference(subset.gain, metric),
        "knn": score(subset.mean("knn_val", metric.name), metric),
        "logme": number(subset.logme),
        "width": subset.width,
        "bytes": round(subset.bytes_per_row),
        "rate": number(_rows_per_second(subset, inputs)),
        "test": score(subset.mean("test", metric.name), metric),
    }


def _rows_per_second(subset: SubsetRecord, inputs: ReportInputs) -> float | None:
    """Of extraction, the teachers one after the other; None where a log is missing."""
    seconds = 0.0
    for teacher in {Source.parse(source).teacher for source in subset.sources}:
        log = inputs.logs.get(("extract", teacher))
        if log is None or not log.rows or not log.seconds:
            return None
        seconds += log.seconds / log.rows
    return 1 / seconds


def _difference(difference: Paired | None, metric: Metric) -> tuple[str, str]:
    if difference is None:
        return "—", ""
    bounds = interval(difference.low, difference.high, lambda value: score(value, metric))
    return change(difference.mean, metric), bounds


def _mean_and_error(values: Sequence[float]) -> tuple[str, str]:
    error = standard_error(values)
    return number(fmean(values)), "" if error is None else number(error)


def _share(values: Sequence[float]) -> str:
    return f"{100 * fmean(values):.2f}" if values else "—"


def _figures(found: AssessmentRecord, metric: Metric) -> dict[str, str] | None:
    """The best subsets against the best one, for a screen and for a phone; None where there is one subset."""

    # As `pipeline.probing.recommendation`, whose room needs torch; the report does not.
    def order(subset: SubsetRecord) -> tuple[float, int, float, tuple[str, ...]]:
        mean = subset.mean("val", metric.name)
        worse = float("inf") if mean is None else -direction(metric) * mean
        return worse, len(subset.sources), subset.bytes_per_row, subset.sources

    shown = sorted(found.subsets, key=order)[:MOST]
    if len(shown) == 1:
        return None
    values = ", ".join(f"{of.name} {score_with_unit(of.mean('val', metric.name), metric)}" for of in shown)
    label = f"Validation {metric.label} of the linear probes of subsets of teachers: {values}"
    axis = f"validation {metric.label} minus that of the best" + (f", {change_unit(metric)}" if metric.unit else "")
    return {
        kind: figures.differences(
            [_dots(subset, shown[0], metric, 36 if kind == "narrow" else 26) for subset in shown],
            f"t{kind}",
            label,
            axis,
            "the best",
            narrow=kind == "narrow",
        )
        for kind in ("wide", "narrow")
    }


def _dots(subset: SubsetRecord, best: SubsetRecord, metric: Metric, letters: int) -> figures.Dots:
    pairs = zip(subset.scores, best.scores, strict=True)
    differences = [(one.val.get(metric.name) or 0.0) - (other.val.get(metric.name) or 0.0) for one, other in pairs]
    against = subset.against_best
    bounds, between = None, ""
    if against is not None and against.low is not None and against.high is not None:
        bounds = (scaled(against.low, metric), scaled(against.high, metric))
        between = f"{score(against.low, metric)}, {score(against.high, metric)}"
    return figures.Dots(
        name=textwrap.fill(subset.name, letters),
        seeds=[scaled(x, metric) for x in differences],
        mean=scaled(fmean(differences), metric),
        written=change(fmean(differences), metric),
        interval=bounds,
        bounds=between,
        reference=None,
        muted=not subset.inside_noise,
    )
