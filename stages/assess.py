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
    command.note_changes(loaded, loaded.section("teachers"))
    with command.alone("assess"), command.log("assess"):
        found = assess(loaded)
    if sys.stdout.isatty() and not as_json:
        _print_table(found)
        if found.views:
            _print_views(found)
    command.show(found, as_json)


def _print_table(found: "AssessmentRecord") -> None:
    """The subsets as a table."""
    from pipeline.terminal import table

    metric = found.primary
    rows = [
        (
            subset.name, _cell(subset, "val", metric), _cell(subset, "knn_val", metric), f"{subset.logme:.3f}",
            f"{subset.width:,}", f"{subset.bytes_per_row:,.0f}", _cell(subset, "test", metric),
        )
        for subset in found.subsets
    ]  # fmt: skip
    print(table(("sources", "probe", "kNN", "LogME", "width", "B/row", "test"), rows, [False] + 6 * [True]))
    print(f"(probe, kNN: {metric.label} on validation rows; test: of the probe, only shown)\n")


def _print_views(found: "AssessmentRecord") -> None:
    """The views of each source, the smallest spread first."""
    from statistics import fmean

    from pipeline.terminal import table

    metric = found.primary
    rows = [
        (views.name, str(views.count), f"{views.mean_spread:.4g}", _score(fmean(views.val), metric))
        for views in found.views
    ]
    print(table(("views", "count", "spread", metric.label), rows, [False] + 3 * [True]))
    print(f"(spread of the probe's mean prediction, smaller is better; {metric.label} on views of validation rows)\n")


def _cell(subset: "SubsetRecord", what: str, metric: "Metric") -> str:
    score = subset.mean(what, metric.name)
    return "—" if score is None else _score(score, metric)


def _score(score: float, metric: "Metric") -> str:
    return f"{100 * score:.1f}%" if metric.unit == "%" else f"{score:.4g}"


if __name__ == "__main__":
    entry.single(main)
