"""Stage one: run a frozen teacher over a dataset once, and write its features to a feature store."""

from pipeline.extraction.extractor import Extraction, extract
from pipeline.extraction.settings import ExtractSettings

__all__ = ["ExtractSettings", "Extraction", "extract"]
