"""Stage two: train students from a feature store, and evaluate them."""

from pipeline.training.candidates import trials_of
from pipeline.training.choice import choose, scores_of
from pipeline.training.config import Plan, TrainSettings, train_settings
from pipeline.training.evaluation import evaluate
from pipeline.training.failure import Replay
from pipeline.training.ledger import Ledger, Trial
from pipeline.training.outputs import SavedOutputs, read_outputs
from pipeline.training.parallel import Group, joined
from pipeline.training.race import FEWEST_SEEDS, Race, clearly_worse
from pipeline.training.refit import refit
from pipeline.training.result import Training
from pipeline.training.run import count_trials, replay_trial, train, unused_trials
from pipeline.training.session import Session
from pipeline.training.worker import TrialWorker, follow

__all__ = [
    "FEWEST_SEEDS",
    "Group",
    "Ledger",
    "Plan",
    "Race",
    "Replay",
    "SavedOutputs",
    "Session",
    "TrainSettings",
    "Training",
    "Trial",
    "TrialWorker",
    "choose",
    "clearly_worse",
    "count_trials",
    "evaluate",
    "follow",
    "joined",
    "read_outputs",
    "refit",
    "replay_trial",
    "scores_of",
    "train",
    "train_settings",
    "trials_of",
    "unused_trials",
]
