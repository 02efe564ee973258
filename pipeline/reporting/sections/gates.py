"""Learned gates: how much of each teacher feature a method uses, for methods that learn this."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from pipeline.reporting import figures
from pipeline.reporting.inputs import ReportInputs
from pipeline.reporting.text import counted


def context(inputs: ReportInputs) -> dict[str, Any] | None:
    """A panel for each run and source with gates; None where no method has any."""
    panels = []
    for number, outcome in enumerate(inputs.outcomes):
        for k, (source, gates) in enumerate(outcome.gates.items()):
            ordered = [sorted(values, reverse=True) for values in gates]
            svg = figures.gates(ordered, f"g{number}s{k}", f"Gates of {outcome.name} for {source}")
            panels.append({"title": f"{outcome.name}, {source}", "svg": svg, "note": _note(gates)})
    return {"panels": panels} if panels else None


def _note(gates: Sequence[Sequence[float]]) -> str:
    """How open the gates are, and whether the seeds agree on which."""
    # [seeds, features]
    values = np.asarray(gates, dtype=np.float64)
    low, middle, high = np.quantile(values, [0.1, 0.5, 0.9])
    text = f"{counted(values.shape[1], 'gate')}; median {middle:.2f}, the middle 80% from {low:.2f} to {high:.2f}."
    if len(values) < 2 or values.shape[1] < 3:
        return text
    ranks = stats.rankdata(values, axis=1)
    if (ranks.std(1) == 0).any():
        return f"{text} In one seed or more all gates are equal."
    agreement = np.corrcoef(ranks)[np.triu_indices(len(ranks), 1)].mean()
    return f"{text} Rank correlation between seeds: {agreement:.2f}.".replace("-", "\N{MINUS SIGN}")
