"""The report: reads what the runs left, renders the sections, and writes the page.

The page is one file without scripts. `metrics.json` is for `dvc metrics show`, `curves.csv` for `dvc plots show`. The
same records and logs give the same bytes.
"""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import jinja2
from markupsafe import Markup

from pipeline.files import cell, write_atomically
from pipeline.functional.statistics import standard_error
from pipeline.params import Params
from pipeline.project import Project
from pipeline.reporting import text
from pipeline.reporting.comparison import Outcome
from pipeline.reporting.inputs import ReportInputs, Stored, read_inputs
from pipeline.reporting.sections import SECTIONS
from pipeline.reporting.sentences import seeds, sentence
from pipeline.reporting.text import counted, listed

TEMPLATES = Path(__file__).parent / "sections"


@dataclass(frozen=True)
class Report:
    """What `report` returns.

    Attributes:
        page: the HTML page.
        metrics: the content of metrics.json, by run.
        summary: a sentence per run, as on the page.
        warnings: what to check before any number is used.
        missing: one line each: what is not trained, not evaluated, damaged or outdated, with the command to run.
    """

    page: Path
    metrics: dict[str, dict[str, Any]]
    summary: list[str]
    warnings: list[str]
    missing: list[str]

    def __str__(self) -> str:
        lines = [*(f"warning: {w}" for w in self.warnings), *(f"missing: {line}" for line in self.missing)]
        return "\n".join([*lines, *self.summary, f"report: {self.page}"])


def report(params: Params, project: Project = Project(), stores: Sequence[Stored] = ()) -> Report:
    """Compare the finished runs of params.yaml; write `index.html`, `metrics.json` and `curves.csv` to `report/`.

    Runs that are not finished, and records that cannot be read, are listed and do not stop the others.

    Args:
        params: all settings; the page shows the runs of its section `runs`, in this order.
        project: where the files are.
        stores: the feature stores that are there, for their sizes.

    Raises:
        UserError: no run is finished.
    """
    inputs = read_inputs(params, project, stores)
    outcomes = inputs.outcomes
    warnings = [warning for outcome in outcomes for warning in _warnings(outcome)]
    metrics = {outcome.name: _metrics(outcome) for outcome in outcomes}
    page = project.report / "index.html"
    write_atomically(page, _page(inputs, warnings))
    write_atomically(project.report / "metrics.json", json.dumps(metrics, indent=1, allow_nan=False) + "\n")
    write_atomically(project.report / "curves.csv", _curves(outcomes))
    return Report(page, metrics, [f"{o.name}: {sentence(o)}" for o in outcomes], warnings, list(inputs.missing))


def render(section: ModuleType, inputs: ReportInputs) -> str:
    """One section as HTML; empty where it is left out."""
    variables: dict[str, Any] | None = section.context(inputs)
    name = section.__name__.rpartition(".")[2]
    return "" if variables is None else _environment().get_template(f"{name}.html.j2").render(variables)


def _page(inputs: ReportInputs, warnings: Sequence[str]) -> str:
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            title=_title(inputs),
            subtitle=_subtitle(inputs),
            style=(TEMPLATES / "style.css").read_text(encoding="utf-8"),
            warnings=warnings,
            missing=inputs.missing,
            sections=[Markup(render(section, inputs)) for section in SECTIONS],
        )
    )


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        name: getattr(text, name) for name in ("count", "counted", "duration", "heading", "p_value")
    }
    return environment


def _title(inputs: ReportInputs) -> str:
    """The students that have teachers, and these; of plain training alone, all students."""
    every = [(comparison.student.name, comparison.outcomes) for comparison in inputs.comparisons]
    taught = [name for name, outcomes in every if any(outcome.run.sources for outcome in outcomes)]
    if not taught:
        return f"{listed([name for name, _ in every])}, plain training"
    return f"{listed(taught)}, taught by {listed(inputs.sources)}"


def _subtitle(inputs: ReportInputs) -> str:
    outcome = inputs.outcomes[0]
    run, parts = outcome.run, []
    if (manifest := inputs.manifest) is not None:
        source = manifest.settings.get("source")
        parts.append(str(source.get("family", manifest.kind)) if isinstance(source, dict) else manifest.kind)
        if manifest.classes:
            parts.append(counted(len(manifest.classes), "class", "classes"))
    rows = f"{text.count(run.labelled)} labelled and {text.count(run.unlabelled)} unlabelled training rows"
    return ", ".join([*parts, rows, seeds(outcome)])


def _warnings(outcome: Outcome) -> list[str]:
    if not outcome.collapsed:
        return []
    which = "seed" if len(outcome.collapsed) == 1 else "seeds"
    numbers = listed([str(seed) for seed in outcome.collapsed])
    return [
        f"{outcome.name}: the student predicts the same for every row on {which} {numbers}. "
        "Its scores show a collapse and not the method; lower the weight or the learning rate, or normalise its "
        "features (LayerNorm)."
    ]


def _metrics(outcome: Outcome) -> dict[str, Any]:
    """A run's entry in metrics.json: scores as they are recorded, and null for what is not known."""
    difference, gap = outcome.difference, outcome.gap
    first, *others = outcome.evaluation.metrics
    return {
        first.name: outcome.score,
        "standard_error": standard_error(outcome.scores),
        **{metric.name: outcome.mean(metric.name) for metric in others},
        "difference": difference and difference.mean,
        "low": difference and difference.low,
        "high": difference and difference.high,
        "gap_closed": gap and gap.share,
        "weight": outcome.weight,
        "seconds": outcome.log and outcome.log.seconds,
    }


def _curves(outcomes: Sequence[Outcome]) -> str:
    """The validation score per run and step, as CSV."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["run", "step", "val_score", "standard_error", "seeds"])
    for outcome in outcomes:
        for point in outcome.curve:
            writer.writerow([cell(outcome.name), point.step, point.mean, point.standard_error, point.seeds])
    return file.getvalue()
