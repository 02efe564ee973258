"""More scores, by which nothing is chosen: of every run, and for the best run of each class and the confusion."""

from typing import Any

import numpy as np

from pipeline.records import DetailsRecord, mean_score
from pipeline.reporting.comparison import Outcome, direction
from pipeline.reporting.inputs import ReportInputs
from pipeline.reporting.text import count, heading, percent, score

MOST_CLASSES = 30
"""How many classes are shown: those with the lowest F1."""

NAMES = {"rows": "test rows", "average_precision": "average precision", "f1": "F1"}
"""The names of class scores in the table, where they differ from those in records."""


def context(inputs: ReportInputs) -> dict[str, Any] | None:
    """Tables of text, means over seeds; None where no run has such scores."""
    outcomes = [outcome for outcome in inputs.outcomes if outcome.evaluation.details]
    if not outcomes or not outcomes[0].evaluation.more:
        return None
    metrics = outcomes[0].evaluation.more
    best = max(outcomes, key=lambda outcome: (not outcome.control, direction(outcome.metric) * outcome.score))
    return {
        "headings": [heading(metric) for metric in metrics],
        "rows": [
            (
                outcome.name,
                [score(mean_score((of.scores for of in outcome.evaluation.details), m.name), m) for m in metrics],
            )
            for outcome in outcomes
        ],
        "temperature": any(metric.name == "temperature" for metric in metrics),
        "best": best.name,
        **_classes(best.evaluation.details),
        "confusion": _confusion(best),
    }


def _classes(details: tuple[DetailsRecord, ...]) -> dict[str, Any]:
    """A line for each class."""
    lines = []
    for number, first in enumerate(details[0].classes):
        of_class = [seed.classes[number].scores for seed in details]
        lines.append((first.name, {name: mean_score(of_class, name) for name in first.scores}))
    shown = sorted(lines, key=lambda line: line[1].get("f1") or 0.0)[:MOST_CLASSES]
    names = list(shown[0][1]) if shown else []
    return {
        "class_headings": [NAMES.get(name, name) + ("" if name == "rows" else ", %") for name in names],
        "classes": [(name, [_value(key, value) for key, value in scores.items()]) for name, scores in shown],
        "left_out": len(lines) - len(shown),
    }


def _value(name: str, value: float | None) -> str:
    return count(round(value)) if name == "rows" and value is not None else percent(value)


def _confusion(outcome: Outcome) -> dict[str, Any] | None:
    """Rows of each class by prediction, summed over seeds; None if there is none, or it is too wide for a page."""
    details = outcome.evaluation.details
    if not details[0].confusion or len(details[0].confusion) > MOST_CLASSES:
        return None
    total = np.sum([seed.confusion for seed in details], axis=0)
    names = [each.name for each in details[0].classes]
    lines = zip(names, total.tolist(), strict=True)
    return {"names": names, "lines": [(name, [count(number) for number in line]) for name, line in lines]}
