"""What a run is, and what its result depends on. Needs no torch."""

from pipeline.runs.bundle import Bundles, join, probe_digest
from pipeline.runs.config import LOGITS, Candidate, Run, Term, label, open_features, read_run, run_views, settings_label

__all__ = [
    "LOGITS",
    "Bundles",
    "Candidate",
    "Run",
    "Term",
    "join",
    "label",
    "open_features",
    "probe_digest",
    "read_run",
    "run_views",
    "settings_label",
]
