"""Stage two: train students from a feature store, and evaluate them."""

from pipeline.training.evaluation import Evaluation, evaluate
from pipeline.training.sweep import Training, train

__all__ = ["Evaluation", "Training", "evaluate", "train"]
