"""One canonical local copy of a dataset: scanned, without duplicates, with all splits."""

from pipeline.data.dataset import Dataset, Role, Split
from pipeline.data.labels import open_labelled
from pipeline.data.preparation import Preparation, PrepareSettings, prepare, scan_sources
from pipeline.data.scan import Scan
from pipeline.data.sources import Sources, read_sources

__all__ = [
    "Dataset",
    "Preparation",
    "PrepareSettings",
    "Role",
    "Scan",
    "Sources",
    "Split",
    "open_labelled",
    "prepare",
    "read_sources",
    "scan_sources",
]
