"""What a run is, and what its result depends on; read without torch."""

from pipeline.runs.bundle import Bundles, join, probe_digest
from pipeline.runs.config import Candidate, Run, Term

__all__ = ["Bundles", "Candidate", "Run", "Term", "join", "probe_digest"]
