"""One canonical local copy of a dataset: scanned, without duplicates, with all splits."""

from pipeline.data.dataset import Dataset, Role, Split
from pipeline.data.preparation import Preparation, PrepareSettings, prepare

__all__ = ["Dataset", "Preparation", "PrepareSettings", "Role", "Split", "prepare"]
