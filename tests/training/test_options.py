"""Options of a training through `train`: what they do to the record, the choice, and the identity of trials."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.project import Project
from pipeline.records import RunRecord, TrialRecord
from pipeline.runs import Candidate
from pipeline.students import Student, load_student
from pipeline.training import config, count_trials, train, trial
from pipeline.training.config import Plan
from pipeline.training.session import Session

from .pictures import of_pictures, write_project

ROOT = Path(__file__).parents[2]


def trained(project: Path, params: Params, run: str, **settings: Any) -> RunRecord:
    params.values["runs"][run]["train"] = {"seeds": [0], "steps": 8, **settings}
    if "epochs" in settings:
        del params.values["runs"][run]["train"]["steps"]
    train(run, params, Project(project))
    return RunRecord.read(Project(project).run(run) / "run.json")


def trials(project: Path) -> int:
    return len(list(Project(project).trials.glob("*/trial.json")))


def test_epochs_are_the_trial_of_as_many_steps(project: Path, params: Params):
    assert trained(project, params, "none", epochs=3.0).steps == 3  # 30 labelled rows are one batch of 16
    assert trials(project) == 1
    trained(project, params, "none", steps=3)
    assert trials(project) == 1


def test_automatic_steps_are_the_trial_of_as_many(project: Path, params: Params, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(config, "FEWEST_STEPS", 2)
    monkeypatch.setattr(config, "PASSES", 1)
    record = trained(project, params, "none", steps="auto")
    # 30 labelled rows and 120 without a label, in batches of 32; plainly trained, too.
    assert (record.steps, record.settings["steps"]) == (5, "auto")
    assert trained(project, params, "none", steps=5).settings["steps"] == 5
    assert trials(project) == 1
    del params.values["train"]["steps"]
    params.values["runs"]["none"]["train"] = {"seeds": [0]}
    lines: list[str] = []
    train("none", params, Project(project), lines.append)
    assert lines[-1] == "train none: 1 trial, 1 found, 0 to train, of 5 steps"
    assert count_trials("none", params, Project(project)) == (1, 0, ", of 5 steps")
    params.values["runs"]["none"]["search"] = {"train.transfer_batch_size": [32, 64]}
    assert count_trials("none", params, Project(project)) == (1, 1, ", of 3 to 5 steps")


def test_another_score_chooses_among_the_same_trials(project: Path, params: Params):
    first = trained(project, params, "aft", seeds=[0, 1], race=False)
    count = trials(project)
    second = trained(project, params, "aft", seeds=[0, 1], val="log_loss")
    assert trials(project) == count
    assert (first.metric.name, second.metric.name) == ("accuracy", "log_loss")
    records = [TrialRecord.read(path) for path in Project(project).trials.glob("*/trial.json")]
    means = sorted(np.mean(c.finite) for c in second.candidates)
    assert {round(score, 6) for c in second.candidates for score in c.finite} == {
        round(record.scores["log_loss"] or 0.0, 6) for record in records
    }
    chosen = next(c for c in second.candidates if (c.weights, c.settings) == (second.chosen, second.chosen_settings))
    assert np.mean(chosen.finite) == pytest.approx(means[0])  # the lowest


def test_a_score_that_is_not_computed_otherwise_is_recorded(project: Path, params: Params):
    record = trained(project, params, "none", val="balanced_accuracy")
    (path,) = Project(project).trials.glob("*/trial.json")
    assert record.candidates[0].val_scores[0] == TrialRecord.read(path).scores["balanced_accuracy"]


def test_options_that_are_off_are_no_other_trial(project: Path, params: Params):
    trained(project, params, "none")
    off = {"accumulate": 1, "average": 0.0, "clip": None, "label_smoothing": 0.0, "sampling": "uniform"}
    trained(project, params, "none", **off)
    assert trials(project) == 1
    trained(project, params, "none", label_smoothing=0.1)
    assert trials(project) == 2


def student_of(session: Session) -> Student:
    """The student of one training, of the first seed."""
    training = trial.run_trial(session, 0, Candidate(()))
    with pytest.raises(StopIteration) as end:
        while True:
            next(training)
    student: Student = end.value.value.student
    return student


def test_parts_of_a_step_give_the_student_of_the_whole(project: Path, params: Params):
    params.values["students"]["bag"]["dropout"] = 0.0
    weights = []
    for parts in (1, 4):
        params.values["runs"]["none"]["train"] = {"accumulate": parts, "class_weights": "balanced", "steps": 8}
        session = Session(Plan.read("none", params, Project(project)))
        weights.append(student_of(session).state_dict())
    for name, value in weights[0].items():
        assert torch.allclose(value, weights[1][name], atol=1e-6), name


def test_the_average_is_what_is_kept(project: Path, params: Params):
    trained(project, params, "none")
    _, last = load_student(project / "runs" / "none" / "students" / "0")
    trained(project, params, "none", average=0.9)
    _, average = load_student(project / "runs" / "none" / "students" / "0")
    assert not torch.equal(last.state_dict()["words.weight"], average.state_dict()["words.weight"])
    assert not any(parameter.isnan().any() for parameter in average.parameters())


def test_parts_too_small_for_a_method_are_refused(project: Path, params: Params):
    with pytest.raises(UserError, match=r"transfer_batch_size: 32 in 16 parts: methods learn nothing from so few"):
        trained(project, params, "aft", accumulate=16)


def test_channels_last_trains_the_same_student(tmp_path: Path):
    root, weights = write_project(tmp_path), []
    for last in (False, True):
        session = Session(Plan.read("none", of_pictures(channels_last=last), Project(root)))
        student = trial.start(session, 0, Candidate(())).student
        filters = [x for x in student.parameters() if x.ndim == 4 and min(x.shape) > 1]
        assert filters and all(x.is_contiguous(memory_format=torch.channels_last) == last for x in filters)
        weights.append(student_of(session).state_dict())
    for name, value in weights[0].items():
        assert torch.allclose(value, weights[1][name], atol=1e-4), name


@pytest.mark.slow
def test_a_compiled_training_learns_the_same(project: Path, params: Params):
    """In processes of their own: torch.compile does not see through the checks of types in this one."""
    params.values["students"]["bag"]["dropout"] = 0.0  # of which compiled code draws others
    weights = []
    for compiled in (False, True):
        # Of 60 steps every third has a line of the log, and is not compiled.
        params.values["train"] |= {"seeds": [0], "steps": 60, "compile": compiled}
        (project / "params.yaml").write_text(yaml.safe_dump(params.values))
        command = [sys.executable, str(ROOT / "cli.py"), "train", "both"]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        ran = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr[-3000:]
        assert RunRecord.read(Project(project).run("both") / "run.json").settings["compile"] == compiled
        weights.append(load_student(project / "runs" / "both" / "students" / "0")[1].state_dict())
    for name, value in weights[0].items():
        assert torch.allclose(value, weights[1][name], atol=1e-4), name
