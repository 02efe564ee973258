"""A search: points are proposed by multivariate TPE from the scores of those before; see `Search`.

Proposals follow from the settings and the scores alone. So a search that was killed proposes the same points again,
finds their trials in the ledger, and continues; nothing but the ledger has to be kept. The journal is for other tools,
such as optuna-dashboard.
"""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.files import make_folder
from pipeline.runs import Sweep, range_of


class Proposer:
    """Proposes values by key, and is told what came of them.

    Args:
        sweep: with a search.
        higher_is_better: of the scores.
        journal: the file for Optuna's journal; what it holds of an earlier call is replaced.

    Raises:
        UserError: Optuna is not installed.
    """

    def __init__(self, sweep: Sweep, higher_is_better: bool, journal: Path):
        try:
            import optuna
            from optuna.storages.journal import JournalFileBackend
        except ImportError:
            raise UserError('a sweep with `search` needs Optuna; run pip install "optuna>=4.5"') from None
        assert sweep.search is not None
        (self.over,) = sweep.over
        self._states = optuna.trial.TrialState
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        make_folder(journal.parent)
        journal.unlink(missing_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study = optuna.create_study(
                study_name="sweep",
                direction="maximize" if higher_is_better else "minimize",
                storage=optuna.storages.JournalStorage(JournalFileBackend(str(journal))),
                sampler=optuna.samplers.TPESampler(seed=sweep.search.seed, multivariate=True, constant_liar=True),
            )

    def ask(self, number: int) -> list[tuple[Any, dict[str, Any]]]:
        """So many proposals, each with its values by key. One takes those before it into account."""
        found = []
        for _ in range(number):
            trial = self.study.ask()
            found.append((trial, {key: self._suggest(trial, key, values) for key, values in self.over.items()}))
        return found

    def _suggest(self, trial: Any, key: str, values: Sequence[Any]) -> Any:
        if len(values) > 1:
            # Lists and mappings are no choices to Optuna.
            return json.loads(trial.suggest_categorical(key, [json.dumps(value) for value in values]))
        if (found := range_of(values[0])) is None:
            return values[0]
        suggest = trial.suggest_int if found.whole else trial.suggest_float
        return suggest(key, found.low, found.high, log=found.log)

    def tell(self, trial: Any, scores: Sequence[float], outcome: str) -> None:
        """What came of a proposal: the mean of its scores, if it was trained on all seeds; or of those that it has."""
        for seeds in range(1, len(scores) + 1):
            trial.report(sum(scores[:seeds]) / seeds, seeds)
        if outcome == "done":
            self.study.tell(trial, sum(scores) / len(scores))
        else:
            self.study.tell(trial, state=self._states.PRUNED if outcome == "dropped" else self._states.FAIL)
