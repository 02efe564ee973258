"""Stage `assess`: all teachers' features and labels -> assessments/teachers.json, which recommends teachers."""

import sys
from typing import TYPE_CHECKING

from stages import command, entry

if TYPE_CHECKING:
    from pipeline.records import AssessmentRecord, Metric, SubsetRecord


def main(params: command.File = command.PARAMS, overrides: command.Set = None, as_json: command.Json = False) -> None:
    """Score the teachers, alone and combined.

    Uses probes, nearest neighbours, LogME and CKA; recommends teachers by their scores on validation rows.
    """
    from pipeline.probing import assess

    loaded = command.settings(params, overrides)
    command.note_changes(loaded, command.teachers_of(loaded))
    with command.alone("assess"), command.log("assess"):
        found = assess(loaded)
    if sys.stdout.isatty() and not as_json:
        _print_table(found)
        if found.views:
            _print_views(found)
    command.show(found, as_json)


def _print_table(found: "AssessmentRecord") -> None:
    """The subsets as a table, the recommended one in bold."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    metric = found.primary
    caption = f"probe, kNN: {metric.label} on validation rows; test: of the probe, only shown"
    table = Table("sources", box=box.SIMPLE, caption=caption)
    for column in ("probe", "kNN", "LogME", "width", "B/row", "test"):
        table.add_column(column, justify="right", no_wrap=True)
    for subset in found.subsets:
        cells = [_cell(subset, "val", metric), _cell(subset, "knn_val", metric), f"{subset.logme:.3f}"]
        cells += [f"{subset.width:,}", f"{subset.bytes_per_row:,.0f}", _cell(subset, "test", metric)]
        table.add_row(subset.name, *cells, style="bold" if subset.sources == found.recommended else None)
    Console().print(table)


def _print_views(found: "AssessmentRecord") -> None:
    """The views of each source, the smallest spread first."""
    from statistics import fmean

    from rich import box
    from rich.console import Console
    from rich.table import Table

    metric = found.primary
    caption = f"spread of the probe's mean prediction, smaller is better; {metric.label} on views of validation rows"
    table = Table("views", box=box.SIMPLE, caption=caption)
    for column in ("count", "spread", metric.label):
        table.add_column(column, justify="right", no_wrap=True)
    for views in found.views:
        table.add_row(views.name, str(views.count), f"{views.mean_spread:.4g}", _score(fmean(views.val), metric))
    Console().print(table)


def _cell(subset: "SubsetRecord", what: str, metric: "Metric") -> str:
    score = subset.mean(what, metric.name)
    return "—" if score is None else _score(score, metric)


def _score(score: float, metric: "Metric") -> str:
    return f"{100 * score:.1f}%" if metric.unit == "%" else f"{score:.4g}"


if __name__ == "__main__":
    entry.single(main)
