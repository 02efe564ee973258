"""What a run is, and what its result depends on. Needs no torch."""

from pipeline.runs.bundle import Bundles, join, probe_digest
from pipeline.runs.config import LOGITS, Candidate, Run, Term, label, open_features, read_run, run_views, settings_label
from pipeline.runs.points import (
    NAME,
    Point,
    Search,
    Sweep,
    every_point,
    make_point,
    point_label,
    points,
    range_of,
    read_sweep,
    sweep_names,
    value_label,
)

__all__ = [
    "LOGITS",
    "NAME",
    "Bundles",
    "Candidate",
    "Point",
    "Run",
    "Search",
    "Sweep",
    "Term",
    "every_point",
    "join",
    "label",
    "make_point",
    "open_features",
    "point_label",
    "points",
    "probe_digest",
    "range_of",
    "read_run",
    "read_sweep",
    "run_views",
    "settings_label",
    "sweep_names",
    "value_label",
]
