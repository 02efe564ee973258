"""Training diagnostics: signs that a training went wrong."""

from typing import Any

from pipeline.reporting.comparison import Outcome
from pipeline.reporting.inputs import ReportInputs
from pipeline.reporting.text import counted, number, share


def context(inputs: ReportInputs) -> dict[str, Any]:
    """A line for each run."""
    return {
        "rows": [_row(outcome) for outcome in inputs.outcomes],
        "shares": any(outcome.diagnostic("largest_share") is not None for outcome in inputs.outcomes),
    }


def _row(outcome: Outcome) -> dict[str, Any]:
    several = len(outcome.penalties) > 1
    ends = [f"{name} {number(end)}" if several else number(end) for name, end, _ in outcome.penalties]
    return {
        "run": outcome.name,
        "collapsed": f"{len(outcome.collapsed)} of {counted(len(outcome.scores), 'seed')}" if outcome.collapsed else "",
        "share": share(outcome.diagnostic("largest_share")),
        "ratio": _along(outcome, "gradient_ratio"),
        "spread": _along(outcome, "feature_spread"),
        "penalty": "; ".join(ends) or "—",
        "chance": "; ".join(number(chance) for _, _, chance in outcome.penalties) or "—",
    }


def _along(outcome: Outcome, what: str) -> str:
    """A value at the first and the last step."""
    start, end = (outcome.diagnostic(f"{what}_{when}") for when in ("start", "end"))
    return "—" if start is None and end is None else f"{number(start)} → {number(end)}"
