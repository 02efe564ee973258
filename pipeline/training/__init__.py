"""Stage two: train students from a feature store, and evaluate them."""

from pipeline.training.config import TrainSettings, train_settings
from pipeline.training.evaluation import evaluate
from pipeline.training.failure import Replay
from pipeline.training.outputs import SavedOutputs, read_outputs
from pipeline.training.refit import refit
from pipeline.training.result import Training
from pipeline.training.run import count_trials, replay_trial, train, unused_trials

__all__ = [
    "Replay",
    "SavedOutputs",
    "TrainSettings",
    "Training",
    "count_trials",
    "evaluate",
    "read_outputs",
    "refit",
    "replay_trial",
    "train",
    "train_settings",
    "unused_trials",
]
