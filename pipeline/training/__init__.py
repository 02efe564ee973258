"""Stage two: train students from a feature store, and evaluate them."""

from pipeline.training.config import TrainSettings
from pipeline.training.evaluation import evaluate
from pipeline.training.sweep import Training, count, train, unused_trials

__all__ = ["TrainSettings", "Training", "count", "evaluate", "train", "unused_trials"]
