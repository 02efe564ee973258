"""One page that compares runs with plain training, from the records of the other stages."""

from pipeline.reporting.inputs import Stored
from pipeline.reporting.page import Report, report

__all__ = ["Report", "Stored", "report"]
