"""Accuracy against speed: what students score, and how many rows a second they serve, next to teachers with probes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.functional.statistics import Paired, paired
from pipeline.records import ModelCost
from pipeline.reporting import figures
from pipeline.reporting.comparison import Outcome
from pipeline.reporting.inputs import ReportInputs
from pipeline.reporting.text import count, counted, heading, interval, number, scaled, score
from pipeline.sources import Source

BATCH = 32
"""Rows in a batch, of the speeds in the figure."""


def context(inputs: ReportInputs) -> dict[str, Any] | None:
    """A figure and a table; None where `aft cost` measured no run. Controls are left out."""
    measured = [outcome for outcome in inputs.outcomes if outcome.name in inputs.costs and not outcome.control]
    if not measured:
        return None
    metric, models = inputs.metric, [*_teachers(measured, inputs), *_students(measured, inputs)]
    record = inputs.costs[measured[0].name]
    sizes = [batch.rows for batch in record.models[0].batches]
    drawn = [
        figures.Plotted(
            model.name,
            model.student or model.name,
            model.speeds[sizes.index(BATCH)],
            scaled(model.score.mean, metric),
            None
            if model.score.low is None or model.score.high is None
            else (scaled(model.score.low, metric), scaled(model.score.high, metric)),
            teacher=not model.student,
        )
        for model in models
    ]
    axis, across = f"test {heading(metric)}", f"rows a second, in batches of {BATCH}"
    title = f"Test {metric.label} of students, and of their teachers with probes, against rows a second"
    return {
        "figure": {
            form: figures.speeds(drawn, f"{form}-speed", title, axis, across, narrow=form == "narrow")
            for form in ("wide", "narrow")
        },
        "rows": [
            {
                "name": model.name,
                "teacher": not model.student,
                "parameters": count(model.parameters),
                "speeds": [number(speed) for speed in model.speeds],
                "score": score(model.score.mean, metric),
                "interval": interval(model.score.low, model.score.high, lambda value: score(value, metric)),
            }
            for model in models
        ],
        "sizes": sizes,
        "axis": axis,
        "machine": f"{record.device}, {counted(record.threads, 'thread')}",
        "unmeasured": [o.name for o in inputs.outcomes if o.name not in inputs.costs and not o.control],
    }


@dataclass(frozen=True)
class Rated:
    """What serves: its name, the student's (empty for teachers), its size, rows a second by batch, and its score."""

    name: str
    student: str
    parameters: int
    speeds: list[float]
    score: Paired


def _students(measured: Sequence[Outcome], inputs: ReportInputs) -> list[Rated]:
    lines = []
    for outcome in measured:
        model = inputs.costs[outcome.name].models[0]
        student = outcome.run.student.name
        lines.append(Rated(outcome.name, student, model.parameters, _speeds([model]), paired(outcome.scores)))
    return lines


def _teachers(measured: Sequence[Outcome], inputs: ReportInputs) -> list[Rated]:
    """The linear probe of every set of teachers among the runs, served by the teachers: medians over these runs."""
    found: dict[str, list[tuple[Outcome, list[ModelCost]]]] = {}
    for outcome in measured:
        served = {model.name: model for model in inputs.costs[outcome.name].models[1:]}
        teachers = dict.fromkeys(f"teacher {Source.parse(source).teacher}" for source in outcome.run.sources)
        if outcome.probe_scores and served.keys() >= teachers.keys():
            found.setdefault(outcome.teachers, []).append((outcome, [served[name] for name in teachers]))
    lines = []
    for name, runs in found.items():
        outcome, models = runs[0]
        speeds = np.median([_speeds(of) for _, of in runs], axis=0).tolist()
        parameters = sum(model.parameters for model in models)
        lines.append(Rated(f"probe of {name}", "", parameters, speeds, paired(outcome.probe_scores)))
    return lines


def _speeds(models: Sequence[ModelCost]) -> list[float]:
    """Rows a second by batch. Models that are used together are run one after the other."""
    batches = zip(*(model.batches for model in models), strict=True)
    return [1 / sum(1 / batch.rows_per_second for batch in each) for each in batches]
