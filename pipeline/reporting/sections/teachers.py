"""Teachers: how well the probes of every source of features do."""

from typing import Any

from pipeline.functional.statistics import standard_error
from pipeline.records import ProbeRecord, Scores, mean_score
from pipeline.reporting.inputs import ReportInputs
from pipeline.reporting.text import number, score


def context(inputs: ReportInputs) -> dict[str, Any] | None:
    """A line for each source; None where the runs have no teachers."""
    if not inputs.probes:
        return None
    return {"metric": inputs.probes[0].primary, "rows": [_row(probe) for probe in inputs.probes]}


def _row(probe: ProbeRecord) -> dict[str, Any]:
    metric, splits = probe.primary, probe.splits

    def mean(scores: list[Scores]) -> str:
        return score(mean_score(scores, metric.name), metric)

    def error(scores: list[Scores]) -> str:
        values = [value for of in scores if (value := of.get(metric.name)) is not None]
        found = standard_error(values)
        return "" if found is None else score(found, metric)

    linear, kernel = [split.test for split in splits], [split.kernel_test for split in splits]
    return {
        "source": probe.source,
        "splits": len(splits),
        "rows": splits[0].train_rows,
        "val": mean([split.val for split in splits]),
        "test": mean(linear),
        "error": error(linear),
        "kernel": mean(kernel),
        "kernel_error": error(kernel),
        "strengths": ", ".join(number(strength) for strength in sorted({split.strength for split in splits})),
    }
