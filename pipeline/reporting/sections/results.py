"""Results: what the seeds allow to say of every run, against plain training."""

from typing import Any

import numpy as np

from pipeline.functional.statistics import standard_error
from pipeline.records import Metric
from pipeline.reporting import figures
from pipeline.reporting.comparison import Comparison, Outcome
from pipeline.reporting.inputs import ReportInputs
from pipeline.reporting.sentences import lead, probe, sentence
from pipeline.reporting.text import change, change_unit, counted, heading, interval, scaled, score, share


def context(inputs: ReportInputs) -> dict[str, Any]:
    """A block for each student: a paragraph, a sentence per run, a figure and a table."""
    several = len(inputs.comparisons) > 1
    return {
        "blocks": [_block(of, f"s{number}", several) for number, of in enumerate(inputs.comparisons)],
        "metric": inputs.metric,
        "units": change_unit(inputs.metric),
        "tests": sum(outcome.p is not None for outcome in inputs.outcomes),
    }


def _block(comparison: Comparison, name: str, several: bool) -> dict[str, Any]:
    metric = comparison.metric
    rows = [outcome for outcome in comparison.outcomes if outcome.difference is not None]
    return {
        "title": f"Results of {comparison.student.name}" if several else "Results",
        "comparison": comparison,
        "lead": lead(comparison),
        "sentences": [(outcome, sentence(outcome)) for outcome in comparison.others],
        "headings": [heading(other) for other in comparison.outcomes[0].evaluation.metrics[1:]],
        "rows": [_row(outcome) for outcome in comparison.outcomes],
        "references": [
            {
                "name": probe(of.name).removeprefix("the "),
                "score": score(of.mean, metric),
                "error": _error(of.standard_error, metric),
                "difference": change(of.difference, metric),
            }
            for of in comparison.references
        ],
        "figures": _figures(rows, name, metric) if rows else None,
        "controls": any(outcome.control for outcome in rows),
    }


def _error(value: float | None, metric: Metric) -> str:
    """A standard error as text; empty where there is none."""
    return "" if value is None else score(value, metric)


def _row(outcome: Outcome) -> dict[str, Any]:
    """A line of the table, as text."""
    metric, difference, gap = outcome.metric, outcome.difference, outcome.gap
    tested = difference is not None and not outcome.identical
    bounds, closed = "", ""
    if outcome.identical:
        bounds = "the same students"
    elif difference is not None:
        bounds = interval(difference.low, difference.high, lambda value: score(value, metric))
    if gap is not None and gap.share is not None and tested:
        closed = interval(gap.low, gap.high, share) or "no interval"
    return {
        "outcome": outcome,
        "score": score(outcome.score, metric),
        "error": _error(standard_error(outcome.scores), metric),
        "difference": change(difference.mean if difference else None, metric),
        "bounds": bounds,
        "wins": f"{difference.wins} of {difference.n}" if difference is not None and tested else "—",
        "gap": share(gap.share if gap else None),
        "closed": closed,
        "others": [score(outcome.mean(other.name), other) for other in outcome.evaluation.metrics[1:]],
    }


def _figures(rows: list[Outcome], name: str, metric: Metric) -> dict[str, str]:
    dots = [_dots(outcome) for outcome in rows]
    values = ", ".join(f"{row.name} {row.written}" for row in dots)
    axis = f"test {metric.label} minus that of plain training"
    axis += f", {change_unit(metric)}" if metric.unit else ""
    axis += "" if metric.higher_is_better else " (lower is better)"
    label = f"Difference in test {metric.label} to plain training, {counted(len(dots), 'run')}: {values}"
    return {
        kind: figures.differences(dots, f"{name}{kind}", label, axis, narrow=kind == "narrow")
        for kind in ("wide", "narrow")
    }


def _dots(outcome: Outcome) -> figures.Dots:
    difference, metric = outcome.difference, outcome.metric
    assert difference is not None
    bounds, between = None, ""
    if difference.low is not None and difference.high is not None and not outcome.identical:
        bounds = (scaled(difference.low, metric), scaled(difference.high, metric))
        between = f"{score(difference.low, metric)}, {score(difference.high, metric)}"
    return figures.Dots(
        name=outcome.name,
        seeds=[scaled(x, metric) for x in outcome.differences],
        mean=scaled(difference.mean, metric),
        written=change(difference.mean, metric),
        interval=bounds,
        bounds=between,
        reference=scaled(float(np.mean(outcome.references)), metric) if outcome.references else None,
        muted=outcome.control,
    )
