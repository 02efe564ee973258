"""One page that compares runs honestly, from the records of the other stages."""

from pipeline.reporting.page import report

__all__ = ["report"]
