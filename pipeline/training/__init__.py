"""Stage two: train students from a feature store, and evaluate them."""

from pipeline.training.evaluation import Evaluation, evaluate
from pipeline.training.sweep import Training, count, train, unused_trials

__all__ = ["Evaluation", "Training", "count", "evaluate", "train", "unused_trials"]
