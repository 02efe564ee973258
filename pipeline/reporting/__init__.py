"""What the records of the other stages say: a page that compares runs with plain training, tables for a terminal."""

from pipeline.reporting.inputs import Stored
from pipeline.reporting.listing import list_points, list_runs, list_trials, show_run
from pipeline.reporting.page import Report, report
from pipeline.reporting.pairing import pair_runs

__all__ = ["Report", "Stored", "list_points", "list_runs", "list_trials", "pair_runs", "report", "show_run"]
