"""Stage one: run a frozen teacher over a dataset once, and write its features to a feature store."""

from pipeline.extraction.extractor import Extraction, extract
from pipeline.extraction.loader import Batch, Loader, slices
from pipeline.extraction.replicas import Replicas
from pipeline.extraction.settings import ExtractSettings, place_of_features
from pipeline.extraction.speed import MODEL_BOUND
from pipeline.extraction.teacher import load_teacher, reload_teacher, teacher_alone
from pipeline.extraction.worker import recipe_of, stored_heads

__all__ = [
    "MODEL_BOUND",
    "Batch",
    "ExtractSettings",
    "Extraction",
    "Loader",
    "Replicas",
    "extract",
    "load_teacher",
    "place_of_features",
    "recipe_of",
    "reload_teacher",
    "slices",
    "stored_heads",
    "teacher_alone",
]
