"""Stage two: train students from a feature store, and evaluate them."""

from pipeline.training.config import TrainSettings
from pipeline.training.evaluation import evaluate
from pipeline.training.outputs import SavedOutputs, read_outputs
from pipeline.training.refit import refit
from pipeline.training.result import Training
from pipeline.training.run import count_trials, train, unused_trials

__all__ = [
    "SavedOutputs",
    "TrainSettings",
    "Training",
    "count_trials",
    "evaluate",
    "read_outputs",
    "refit",
    "train",
    "unused_trials",
]
