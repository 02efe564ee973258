"""Data: the rows, where they come from, and what was left out."""

from typing import Any

from pipeline.reporting.inputs import ReportInputs
from pipeline.reporting.text import count, counted

MOST_CLASSES = 30
"""With more classes there is no table of their rows."""


def context(inputs: ReportInputs) -> dict[str, Any] | None:
    """The dataset as facts, and the rows of every class in the first split; None without a manifest."""
    manifest = inputs.manifest
    if manifest is None:
        return None
    roles = manifest.rows_of_class[0] if manifest.rows_of_class else {}
    shown = bool(roles) and 0 < len(manifest.classes) <= MOST_CLASSES
    return {
        "facts": _facts(inputs),
        "roles": list(roles),
        "rows": [(name, [rows[k] for rows in roles.values()]) for k, name in enumerate(manifest.classes)]
        if shown
        else [],
        "splits": manifest.splits,
    }


def _facts(inputs: ReportInputs) -> list[tuple[str, str]]:
    manifest, outcome = inputs.manifest, inputs.outcomes[0]
    assert manifest is not None
    run = outcome.run
    source = manifest.settings.get("source")
    classes = f" in {counted(len(manifest.classes), 'class', 'classes')}" if manifest.classes else ""
    dropped = "; ".join(f"{reason}: {count(rows)}" for reason, rows in manifest.dropped.items() if rows)
    facts = {
        "source": ", ".join(f"{key} {value}" for key, value in source.items()) if isinstance(source, dict) else "",
        "rows": f"{count(manifest.rows)}{classes}, {count(manifest.without_label)} without a label",
        "training": f"{counted(run.labelled, 'row')} with a label, {count(run.unlabelled)} without",
        "test": counted(outcome.evaluation.test_rows, "row"),
        "splits": f"{count(manifest.splits)}: which rows train, validate and test",
        "left out": f"{dropped}. Every row is listed in data/quarantine.csv." if dropped else "nothing",
        "notes": "; ".join(manifest.notes),
    }
    return [(term, fact) for term, fact in facts.items() if fact]
