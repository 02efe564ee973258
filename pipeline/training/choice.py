"""Validation rows choose the candidate. One that diverges on any seed cannot be chosen."""

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.errors import UserError
from pipeline.records import Metric, TrialRecord
from pipeline.runs import Candidate
from pipeline.training.ledger import Trial


def choose(results: Mapping[Trial, TrialRecord], run: str, metric: Metric) -> Candidate:
    """The candidate with the best mean validation score over seeds; of those that tie, the smallest weights.

    Candidates that lack seeds, because they were dropped, are left out.

    Raises:
        UserError: every candidate diverged.
    """
    candidates = dict.fromkeys(trial.candidate for trial in results)
    scores = {candidate: scores_of(results, candidate, metric) for candidate in candidates}
    seeds = max(map(len, scores.values()))
    means = {candidate: mean for candidate, of in scores.items() if (mean := mean_over_seeds(of, seeds)) is not None}
    if not means:
        raise UserError(advice(run, next(record.diverged for record in results.values() if record.diverged)))
    sign = 1 if metric.higher_is_better else -1
    # Rounded, because the same predictions distributed over seeds in another way differ in the last digit of their
    # mean. max keeps the first, and candidates are sorted by weight.
    return max(means, key=lambda candidate: sign * round(means[candidate], 9))


def scores_of(results: Mapping[Trial, TrialRecord], candidate: Candidate, metric: Metric) -> tuple[float | None, ...]:
    """The validation score on every seed; None where the training diverged."""
    return tuple(record.scores.get(metric.name) for trial, record in results.items() if trial.candidate == candidate)


def mean_over_seeds(scores: Sequence[float | None], seeds: int) -> float | None:
    """The mean score over all seeds; None where there are fewer, or one diverged."""
    known = [score for score in scores if score is not None]
    return float(np.mean(known)) if len(known) == seeds else None


def advice(run: str, diverged: str) -> str:
    return f"{run}: {diverged}; lower train.learning_rate or the method's weight"
