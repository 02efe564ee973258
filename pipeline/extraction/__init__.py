"""Stage one: run a frozen teacher over a dataset once, and write its features to a feature store."""

from pipeline.extraction.extractor import Extraction, ExtractSettings, extract, recipe_of

__all__ = ["ExtractSettings", "Extraction", "extract", "recipe_of"]
