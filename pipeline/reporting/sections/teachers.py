"""Teachers: how well the probes of every source of features do."""

from typing import Any

from pipeline.functional.statistics import standard_error
from pipeline.records import Metric, ProbeRecord, Scores, mean_score
from pipeline.reporting.inputs import ReportInputs
from pipeline.reporting.text import number, score


def context(inputs: ReportInputs) -> dict[str, Any] | None:
    """A line for each source; None where the runs have no teachers."""
    if not inputs.probes:
        return None
    own = [probe for probe in inputs.probes if probe.splits[0].own_val or probe.splits[0].own_test]
    return {
        "metric": inputs.probes[0].primary,
        "rows": [_row(probe) for probe in inputs.probes] + [_own(probe) for probe in own],
        "own": bool(own),
    }


def _row(probe: ProbeRecord) -> dict[str, Any]:
    metric, splits = probe.primary, probe.splits
    linear, kernel = [split.test for split in splits], [split.kernel_test for split in splits]
    return {
        "source": probe.source,
        "splits": len(splits),
        "rows": splits[0].train_rows,
        "val": _mean([split.val for split in splits], metric),
        "test": _mean(linear, metric),
        "error": _error(linear, metric),
        "kernel": _mean(kernel, metric),
        "kernel_error": _error(kernel, metric),
        "strengths": ", ".join(number(strength) for strength in sorted({split.strength for split in splits})),
    }


def _own(probe: ProbeRecord) -> dict[str, Any]:
    """The line of a source's own outputs, which no label has changed."""
    metric, test = probe.primary, [split.own_test for split in probe.splits]
    return {
        "source": f"{probe.source}, without a probe",
        "splits": len(probe.splits),
        "rows": 0,
        "val": _mean([split.own_val for split in probe.splits], metric),
        "test": _mean(test, metric),
        "error": _error(test, metric),
        "kernel": "—",
        "kernel_error": "",
        "strengths": "—",
    }


def _mean(scores: list[Scores], metric: Metric) -> str:
    return score(mean_score(scores, metric.name), metric)


def _error(scores: list[Scores], metric: Metric) -> str:
    values = [value for of in scores if (value := of.get(metric.name)) is not None]
    found = standard_error(values)
    return "" if found is None else score(found, metric)
