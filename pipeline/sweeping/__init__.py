"""Sweeps: many runs from one section of params.yaml, trained side by side through the ledger that all runs share."""

from pipeline.sweeping.board import line_of, rendered, watch
from pipeline.sweeping.planning import trials_of_sweeps
from pipeline.sweeping.sweep import Swept, sweep

__all__ = ["Swept", "line_of", "rendered", "sweep", "trials_of_sweeps", "watch"]
