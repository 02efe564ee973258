"""Serving: export a student to a standalone folder with a model card, and predict new files with it."""

from pipeline.serving.cost import measure_cost
from pipeline.serving.inputs import ImageInputs, TextInputs, lines
from pipeline.serving.package import Export, export
from pipeline.serving.predictions import Predicted, predict_to

__all__ = ["Export", "ImageInputs", "Predicted", "TextInputs", "export", "lines", "measure_cost", "predict_to"]
