"""Learning curves: the validation score of every run along training, with that of plain training."""

from statistics import fmean
from typing import Any

from pipeline.records import Metric
from pipeline.reporting import figures
from pipeline.reporting.comparison import Comparison, Outcome
from pipeline.reporting.inputs import ReportInputs
from pipeline.reporting.text import heading, scaled


def context(inputs: ReportInputs) -> dict[str, Any]:
    """A panel for each run, by student. A student that is solved for has no steps."""
    several = len(inputs.comparisons) > 1
    blocks = [
        {
            "title": f"Learning curves of {comparison.student.name}" if several else "Learning curves",
            "baseline": comparison.baseline is not None,
            "metric": comparison.outcomes[0].run.metric,
            "panels": _panels(comparison, f"s{number}"),
        }
        for number, comparison in enumerate(inputs.comparisons)
        if not comparison.student.solved
    ]
    return {"blocks": blocks}


def _panels(comparison: Comparison, name: str) -> list[dict[str, str]]:
    panels = []
    shared = limits(comparison)
    plain = _band(comparison.baseline) if comparison.baseline else None
    for number, outcome in enumerate(comparison.outcomes):
        other = None if outcome is comparison.baseline else plain
        metric = outcome.run.metric
        label = f"Validation {metric.label} of {outcome.name} along training"
        svg = figures.curve(_band(outcome), other, shared, f"{name}c{number}", label, f"validation {heading(metric)}")
        panels.append({"title": outcome.name, "svg": svg, "note": _mixed(outcome)})
    return panels


def _mixed(outcome: Outcome) -> str:
    """What the curve does not show: how the last layer was mixed after training; empty where it was not."""
    mixtures = [of.mixture for of in outcome.run.diagnostics if of.mixture]
    if not mixtures:
        return ""
    trained, fitted = (fmean(getattr(of, share) for of in mixtures) for share in ("trained", "fitted"))
    return (
        f"The curve is of the student before its last layer was mixed: {trained:.2f} times that layer and {fitted:.2f} "
        "times one that was fitted to the labels, means over seeds."
    )


def limits(comparison: Comparison) -> tuple[float, float]:
    """The range of the vertical axis, the same for all runs of a student."""
    shown = (*comparison.outcomes, *filter(None, [comparison.baseline]))
    metric: Metric = comparison.outcomes[0].run.metric
    points = [point for outcome in shown for point in outcome.curve]
    lowest = min(point.mean - (point.standard_error or 0.0) for point in points)
    highest = max(point.mean + (point.standard_error or 0.0) for point in points)
    margin = 0.05 * (highest - lowest) or 0.01
    low, high = lowest - margin, highest + margin
    if metric.unit == "%":
        low, high = max(0.0, low), min(1.0, high)
    return scaled(low, metric), scaled(high, metric)


def _band(outcome: Outcome) -> figures.Band:
    metric = outcome.run.metric
    errors = [point.standard_error for point in outcome.curve]
    return figures.Band(
        steps=[point.step for point in outcome.curve],
        mean=[scaled(point.mean, metric) for point in outcome.curve],
        error=None if None in errors else [scaled(error or 0.0, metric) for error in errors],
    )
