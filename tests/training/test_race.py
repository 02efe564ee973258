"""Racing: what is clearly worse is dropped, what is close is not, and nothing but scores decides."""

import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import training
from pipeline.params import Params
from pipeline.project import Project
from pipeline.provenance import digest_files
from pipeline.records import RunRecord
from pipeline.runs import Candidate
from pipeline.training.race import ERRORS, clearly_worse, dropped

ROWS = 400
GOOD, CLOSE, BAD = (Candidate((weight,)) for weight in (1.0, 2.0, 3.0))


def rows(share: float, seed: int, rows: int = ROWS) -> np.ndarray:
    """Scores of a student that is right on this share of the validation rows, whichever they are."""
    right = np.arange(rows) < round(share * rows)
    return np.random.default_rng([seed, round(1000 * share)]).permutation(right).astype(np.float32)


def scores(seeds: int = 4, **shares: float) -> dict[Candidate, dict[int, np.ndarray | None]]:
    by_name = {"good": GOOD, "close": CLOSE, "bad": BAD}
    return {by_name[name]: {seed: rows(share, seed) for seed in range(seeds)} for name, share in shares.items()}


def test_a_hopeless_candidate_is_dropped_after_two_seeds_and_a_close_one_never():
    assert dropped(scores(good=0.7, close=0.69, bad=0.5), range(4)) == {BAD: 2}


def test_a_lower_score_may_be_the_better_one():
    assert dropped(scores(good=0.7, bad=0.5), range(4), higher_is_better=False) == {GOOD: 2}


@pytest.mark.parametrize("seeds", [1, 2])
def test_with_few_seeds_nothing_is_dropped(seeds: int):
    assert dropped(scores(seeds, good=0.9, bad=0.1), range(seeds)) == {}


def test_one_bad_seed_is_no_reason():
    """Rows alone would say that it is clearly worse; that the seeds differ so much says that two are not enough."""
    found = scores(3, good=0.7)
    found[CLOSE] = {0: rows(0.78, 0), 1: rows(0.40, 1), 2: rows(0.78, 2)}
    assert dropped(found, range(3)) == {}


def test_a_candidate_that_diverged_is_dropped_at_once():
    found = scores(good=0.7, close=0.7)
    found[BAD] = {0: None}
    assert dropped(found, range(4)) == {BAD: 1}
    assert dropped({BAD: {0: None}}, range(4)) == {BAD: 1}


def test_what_is_not_known_yet_drops_nobody_and_is_not_dropped():
    found = scores(good=0.7, close=0.69, bad=0.5)
    del found[GOOD][1], found[CLOSE][1]
    assert dropped(found, range(4)) == {}
    found[CLOSE][1] = rows(0.69, 1)
    assert dropped(found, range(4)) == {BAD: 2}


def test_scores_after_a_candidate_was_dropped_do_not_count():
    """They may be in the ledger, because another worker had begun: the result is the same with and without them."""
    found = scores(good=0.7, close=0.69, bad=0.5)
    found[BAD] |= {2: rows(1.0, 2), 3: rows(1.0, 3)}
    assert dropped(found, range(4)) == {BAD: 2}


def test_the_error_is_the_larger_one_of_rows_and_of_seeds():
    random = np.random.default_rng(0)
    outcomes = set()
    for shift in np.linspace(0, 0.3, 40):
        best = [random.normal(size=30) for _ in range(3)]
        one = [each - shift + random.normal(0, 0.3, 30) + random.normal(0, 0.1) for each in best]
        differences = [[float(b - o) for b, o in zip(x, y, strict=True)] for x, y in zip(best, one, strict=True)]
        every = [difference for each in differences for difference in each]
        means = [statistics.fmean(each) for each in differences]
        error = max(statistics.stdev(every) / math.sqrt(90), statistics.stdev(means) / math.sqrt(3))
        assert clearly_worse(one, best) == (statistics.fmean(every) > ERRORS * error)
        outcomes.add(clearly_worse(one, best))
    assert outcomes == {False, True}


def test_a_candidate_is_not_clearly_worse_than_itself():
    same = [rows(0.5, 0), rows(0.5, 1)]
    assert not clearly_worse(same, same)


@pytest.fixture
def race(params: Params) -> Params:
    """A run that tries a rate at which nothing is learned, a good one, and one that is nearly the same."""
    params.values["runs"]["none"]["search"] = {"train.learning_rate": [1e-9, 0.02, 0.0201]}
    params.values["train"] |= {"seeds": [0, 1, 2, 3], "steps": 40}
    return params


def train(project: Path, params: Params, **changes: Any) -> training.Training:
    params.values["train"] |= changes
    return training.train("none", params, Project(project))


def test_a_sweep_does_not_train_what_is_clearly_worse(project: Path, race: Params):
    result = train(project, race)
    record = RunRecord.read(Project(project).run("none") / "run.json")
    assert [(len(c.val_scores), c.dropped) for c in record.candidates] == [(2, True), (4, False), (4, False)]
    assert (result.trials, result.trained, record.trainings, result.dropped) == (12, 10, 10, 1)
    assert "10 of 12 trials trained, 0 found, 2 not needed: 1 candidate dropped" in str(result)
    assert result.candidates["none, learning_rate 1e-09"] is None
    assert len(list(Project(project).trials.iterdir())) == 10
    assert training.count_trials("none", race, Project(project))[:2] == (10, 0)
    again = train(project, race)
    assert (again.trained, again.found) == (0, 10)


def test_the_result_is_the_same_whatever_the_ledger_has_and_whoever_trains(project: Path, race: Params):
    run = Project(project).run("none")
    train(project, race)
    first = digest_files(run)
    every = train(project, race, race=False)
    assert (every.trained, every.dropped) == (2, 0)
    record = RunRecord.read(run / "run.json")
    assert [len(c.val_scores) for c in record.candidates] == [4, 4, 4]
    train(project, race, race=True)
    assert digest_files(run) == first
    for trial in Project(project).trials.iterdir():
        trial.rename(project / trial.name)
    race.values["machine"]["workers"] = 2
    train(project, race)
    assert digest_files(run) == first


def test_with_one_seed_all_candidates_are_trained(project: Path, race: Params):
    result = train(project, race, seeds=[1])
    assert (result.trained, result.dropped) == (3, 0)
