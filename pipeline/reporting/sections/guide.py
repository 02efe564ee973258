"""How to read the page: what a run, an interval, the probe, a weight and a control are."""

from typing import Any

from pipeline.reporting.inputs import ReportInputs


def context(inputs: ReportInputs) -> dict[str, Any]:
    """The metric's label; the rest is in the template."""
    return {"label": inputs.metric.label}
