"""A search proposes, drops and continues; without Optuna it says what to install."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.project import Project
from pipeline.records import SweepRecord
from pipeline.runs import read_sweep
from pipeline.sweeping import search, sweep

from .test_sweep import SCRIPT

OVER = {
    "student": "bag",
    "teachers": "wise",
    "methods": ["kd", "aft"],
    "weight": {"low": 0.1, "high": 100.0, "log": True},
    "student.width": {"low": 4, "high": 16},
}


def searching(params: Params, over: Any = OVER, seeds: int = 1, **more: Any) -> Params:
    train = {"train": params.values["train"] | {"steps": 2, "seeds": [*range(seeds)]}}
    return Params(params.values | train | {"sweep": {"mine": {"over": over, "search": {"points": 5} | more}}})


def run(project: Path, params: Params) -> Any:
    return sweep("mine", params, Project(project), jobs=1)


def record_of(project: Path) -> bytes:
    return Project(project).sweep("mine").read_bytes()


def test_a_search_without_optuna_says_what_to_install(project: Path, params: Params, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r'a sweep with `search` needs Optuna; run pip install "optuna>=4.5"'):
        run(project, searching(params))
    assert not (project / "trials").exists()


def test_what_cannot_be_trained_anywhere_in_the_space_is_refused_first(project: Path, params: Params):
    with pytest.raises(UserError, match="no 'kdd' in pipeline/methods/"):
        run(project, searching(params, OVER | {"methods": ["kd", "kdd"]}))
    with pytest.raises(UserError, match="a search has no list to select from"):
        sweep("mine", searching(params), Project(project), where="weight>1")
    assert not (project / "trials").exists()


class TestWithOptuna:
    @pytest.fixture(autouse=True)
    def _optuna(self):
        pytest.importorskip("optuna")

    def test_a_search_that_was_stopped_proposes_the_same_points_again(
        self, project: Path, params: Params, monkeypatch: pytest.MonkeyPatch
    ):
        mine = searching(params, together=2)
        tell, told = search.Proposer.tell, []

        def interrupted(self: Any, *given: Any) -> None:
            told.append(1)
            if len(told) == 3:
                raise KeyboardInterrupt
            tell(self, *given)

        with monkeypatch.context() as kept, pytest.raises(KeyboardInterrupt):
            kept.setattr(search.Proposer, "tell", interrupted)
            run(project, mine)
        first = {path.name for path in (project / "trials").iterdir()}
        assert len(first) == 4 and not Project(project).sweep("mine").exists()
        swept = run(project, mine)
        assert (swept.trained, swept.found, len(swept.record.points)) == (1, 4, 5)
        whole = record_of(project)
        assert run(project, mine).trained == 0 and record_of(project) == whole
        shutil.rmtree(project / "trials")
        assert run(project, mine).trained == 5 and record_of(project) == whole
        journal = Project(project).sweep_journal("mine").read_text().splitlines()
        assert len([line for line in journal if json.loads(line)["op_code"] == 4]) == 5, "one line a proposal"
        for point in SweepRecord.read(Project(project).sweep("mine"), "mine").points:
            assert 0.1 <= point.values["weight"] <= 100 and point.values["student.width"] in range(4, 17)

    @pytest.mark.slow
    def test_a_search_that_was_killed_trains_nothing_twice_and_ends_as_if_it_had_not_been(
        self, project: Path, params: Params
    ):
        mine = searching(params, seeds=3, points=4, together=2)
        (project / "params.yaml").write_text(yaml.safe_dump(mine.values, sort_keys=False))
        ended = subprocess.run([sys.executable, "-c", SCRIPT, project], capture_output=True, text=True)
        killed, interrupted, found, whole = ended.stdout.splitlines()
        assert (killed, interrupted) == (f"{-signal.SIGKILL} 2 False", "130 4 False"), ended.stderr
        trials = len([path for path in (project / "trials").iterdir() if not path.name.startswith(".")])
        assert (found, whole) == (f"{trials - 4} 4", f"0 {trials} True"), ended.stderr
        content, journal = record_of(project), Project(project).sweep_journal("mine").read_text().splitlines()
        assert [json.loads(line)["op_code"] for line in journal].count(4) == 4, "one line a proposal"
        shutil.rmtree(project / "trials")
        assert run(project, mine).trained == trials and record_of(project) == content

    def test_it_goes_where_the_scores_are(self, params: Params, tmp_path: Path):
        over = {"student": ["bag", "wide"], "train.warmup": {"low": 0.0, "high": 1.0}}
        proposer = search.Proposer(
            read_sweep(searching(params, over, points=60), "mine"), False, tmp_path / "mine.journal"
        )
        tried = []
        for _ in range(15):
            asked = proposer.ask(4)
            assert len({json.dumps(values) for _, values in asked}) == 4
            for trial, values in asked:
                tried.append((values["train.warmup"] - 0.7) ** 2 + (values["student"] == "bag"))
                proposer.tell(trial, [tried[-1]], "done")
        assert np.mean(tried[-20:]) < 0.6 * np.mean(tried[:10])

    def test_a_point_that_is_clearly_worse_is_not_trained_on_all_seeds(self, project: Path, params: Params):
        over = {"student": "bag", "train.learning_rate": [0.03, 1e-9], "train.steps": [60]}
        mine = searching(params, over, seeds=4, points=6, together=6)
        swept = run(project, mine)
        outcomes = {p.values["train.learning_rate"]: (p.outcome, len(p.val_scores)) for p in swept.record.points}
        assert outcomes == {0.03: ("done", 4), 1e-9: ("dropped", 2)}
        assert swept.trained == 6 and "dropped  student=bag, train.learning_rate=1e-09" in str(swept)
