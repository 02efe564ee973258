"""Runs: what each of them trains, learns from, and tried."""

from typing import Any

from pipeline.errors import count
from pipeline.records import CandidateRecord
from pipeline.reporting.comparison import Comparison, Outcome
from pipeline.reporting.inputs import ReportInputs
from pipeline.runs import label, settings_label, value_label

SWITCHES = {"mix": "mixed last layer"}
"""What settings of methods turn on, where their name does not say it."""


def context(inputs: ReportInputs) -> dict[str, Any]:
    """A table for each student."""
    several = len(inputs.comparisons) > 1
    return {"blocks": [_block(comparison, several) for comparison in inputs.comparisons]}


def _block(comparison: Comparison, several: bool) -> dict[str, Any]:
    return {
        "title": f"Runs of {comparison.student.name}" if several else "Runs",
        "student": comparison.student,
        "rows": [_row(outcome) for outcome in comparison.outcomes],
    }


def _row(outcome: Outcome) -> dict[str, str]:
    methods = []
    for method in outcome.run.methods:
        settings = ", ".join(_setting(key, value) for key, value in method.settings.items())
        methods.append(f"{method.name} ({settings})" if settings else method.name)
    return {
        "run": outcome.name,
        "methods": "; ".join(methods) or "none",
        "teachers": ", ".join(outcome.run.sources) + (", rows shuffled" if outcome.control else ""),
        "tried": tried(outcome) if len(outcome.run.candidates) > 1 else "",
    }


def _setting(key: str, value: Any) -> str:
    """A setting of a method: `scaling whitened`; of one that is on or off, `task directions`, `no task directions`."""
    if not isinstance(value, bool):
        return f"{key} {value}"
    name = SWITCHES.get(key, key.replace("_", " "))
    return name if value else f"no {name}"


def tried(outcome: Outcome) -> str:
    """What a search tried, as text: `0, 10, 100; dropout 0.5, 0.8; diverged: 100, dropout 0.5`."""
    candidates = outcome.run.candidates
    weights = list(dict.fromkeys(label(candidate.weights) for candidate in candidates if candidate.weights))
    settings: dict[str, list[str]] = {}
    for candidate in candidates:
        for key, value in candidate.settings.items():
            values = settings.setdefault(key.partition(".")[2], [])
            if value_label(value) not in values:
                values.append(value_label(value))
    parts = [", ".join(weights), *(f"{key} {', '.join(values)}" for key, values in settings.items())]
    if lost := diverged(outcome):
        parts.append(f"diverged: {lost}")
    return "; ".join(filter(None, parts))


def diverged(outcome: Outcome) -> str:
    """The candidates whose training diverged on a seed or more; empty if none did."""
    lost = [candidate for candidate in outcome.run.candidates if not candidate.finite]
    return " and ".join(map(_named, lost))


def dropped(outcome: Outcome) -> str:
    """The candidates that were clearly worse, and on how many seeds they were trained; empty if there are none."""
    fewer = [candidate for candidate in outcome.run.candidates if candidate.dropped and candidate.finite]
    return "; ".join(f"{_named(candidate)} ({count(len(candidate.finite), 'seed')})" for candidate in fewer)


def _named(candidate: CandidateRecord) -> str:
    """Its weights and settings; without methods, its settings."""
    if candidate.weights or not candidate.settings:
        return label(candidate.weights, candidate.settings)
    return settings_label(candidate.settings)
