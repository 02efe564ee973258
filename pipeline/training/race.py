"""Racing: a candidate that is clearly worse than the best one is not trained on the rest of the seeds.

As in F-Race (Birattari et al., 2002), all candidates are trained on the same seeds in the same order, and after each
seed they are compared on the same rows. What is dropped depends on scores only, not on where and when trials ran.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.functional.statistics import standard_error
from pipeline.records import Metric
from pipeline.runs import Candidate
from pipeline.training.config import Plan
from pipeline.training.ledger import Ledger, Trial

ERRORS = 2.0
"""A candidate is dropped if it is worse by more than this many standard errors of the paired difference."""

FEWEST_SEEDS = 2
"""The least number of seeds: one seed does not show how much trainings vary."""

Scores = Mapping[Candidate, Mapping[int, np.ndarray | None]]
"""By candidate and seed, each validation row's contribution to the primary score; None if the training diverged."""


def dropped(scores: Scores, seeds: Sequence[int], higher_is_better: bool = True) -> dict[Candidate, int]:
    """The candidates that are not trained on all seeds, and on how many they are.

    A candidate that diverged cannot be chosen, so it is dropped at once.

    Args:
        scores: as far as they are known. An unknown score neither drops another candidate nor is dropped.
        seeds: in the order in which they are trained.
        higher_is_better: of the score.
    """
    found: dict[Candidate, int] = {}
    for count in range(1, len(seeds)):
        known = {
            candidate: [of[seed] for seed in seeds[:count]]
            for candidate, of in scores.items()
            if candidate not in found and all(seed in of for seed in seeds[:count])
        }
        finite = {
            candidate: [rows if higher_is_better else -rows for rows in each if rows is not None]
            for candidate, each in known.items()
        }
        racing = {candidate: each for candidate, each in finite.items() if len(each) == count}
        found |= {candidate: count for candidate in known if candidate not in racing}
        if count >= FEWEST_SEEDS and racing:
            best = max(racing.values(), key=_mean)
            found |= {candidate: count for candidate, each in racing.items() if clearly_worse(each, best)}
    return found


def clearly_worse(one: Sequence[np.ndarray], best: Sequence[np.ndarray]) -> bool:
    """Whether the mean of `one` is below that of `best` by more than `ERRORS` standard errors of the difference.

    There are two estimates of that error, from all rows together and from the means of the seeds. The first ignores
    that trainings vary, the second is based on few values: the larger one is used.

    Args:
        one, best: per seed, the scores of the same validation rows [val]; two seeds or more.
    """
    differences = [rows - others for rows, others in zip(best, one, strict=True)]
    means = [float(each.mean()) for each in differences]
    errors = [standard_error(np.concatenate(differences)), standard_error(means)]
    return float(np.mean(means)) > ERRORS * max(error or 0.0 for error in errors)


def _mean(scores: Sequence[np.ndarray]) -> float:
    return float(np.mean([rows.mean() for rows in scores]))


class Race:
    """Decides which trials a run needs, from those in the ledger.

    Args:
        plan: of the run.
        trials: all of the run, seed by seed.
        ledger: has the finished ones.
        primary: the task's score that rows add up to.
    """

    def __init__(self, plan: Plan, trials: Sequence[Trial], ledger: Ledger, primary: Metric):
        settings = plan.settings({})
        self.trials, self.ledger, self.seeds = trials, ledger, settings.seeds
        # Rows add up to the primary score alone.
        self._on = settings.race and settings.val in (None, primary.name)
        self._higher_is_better = primary.higher_is_better
        self._scores: dict[Candidate, dict[int, np.ndarray | None]] = {trial.candidate: {} for trial in trials}

    def dropped(self) -> dict[Candidate, int]:
        """The candidates that are dropped by now, and after how many seeds."""
        if not self._on:
            return {}
        for trial in self.trials:
            known = self._scores[trial.candidate]
            if trial.seed not in known and trial.digest in self.ledger:
                known[trial.seed] = self.ledger.row_scores(trial.digest)
        return dropped(self._scores, self.seeds, self._higher_is_better)

    def needed(self) -> list[Trial]:
        """The trials that the run's result consists of, as far as is known now."""
        last = self.dropped()
        return [
            trial for trial in self.trials if self.seeds.index(trial.seed) < last.get(trial.candidate, len(self.seeds))
        ]
