"""A training that diverges stops; its step is named and kept, and can be done again."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.data import Dataset
from pipeline.errors import UserError
from pipeline.methods import Signals, kd
from pipeline.params import Params
from pipeline.project import Project
from pipeline.students import load_student, place
from pipeline.students.bag_of_words import BagOfWords
from pipeline.training import replay_trial, train, trial
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.config import Plan
from pipeline.training.failure import FAILURE, NOTES, Failure
from pipeline.training.session import Session

STEPS, BAD = 40, 17


@pytest.fixture
def params(params: Params) -> Params:
    params.values["train"] |= {"steps": STEPS, "seeds": [0]}
    params.values["runs"]["aft"]["methods"] = [{"name": "kd", "weight": [0.0, 1.0]}]
    return params


@pytest.fixture
def overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The penalty of step 17 is infinite; a line of the log looks at every second step."""
    penalty = kd.FeatureDistillation.forward

    def forward(method: kd.FeatureDistillation, signals: Signals) -> torch.Tensor:
        found = penalty(method, signals)
        return found * float("inf") if round(signals.progress * STEPS) == BAD else found

    monkeypatch.setattr(kd.FeatureDistillation, "forward", forward)


def the_failure(project: Path) -> Failure:
    (path,) = Project(project).trials.glob(f"*/{FAILURE}")
    return Failure.read(path.parent)


@pytest.mark.parametrize("minutes", [None, 0.0])
def test_the_step_is_named_and_kept_and_diverges_again(
    project: Path, params: Params, overflow: None, minutes: float | None
):
    params.values["machine"]["checkpoint_minutes"] = minutes
    trained = train("aft", params, Project(project))
    (warning,) = trained.warnings
    assert f"seed 0, step {BAD}: penalty kd is not finite; rows r" in warning
    failure = the_failure(project)
    assert failure.step == BAD

    # The state and the rows are those of the trial before the step, and all of it was finite.
    session = Session(Plan.read("aft", params, Project(project)))
    (candidate,) = (each for each in session.run.candidates() if each.weights == (1.0,))
    states: list[dict[str, torch.Tensor]] = []
    rows: list[np.ndarray] = []

    class Looking(Checkpoint):
        def save(self, state: Any, steps: int) -> None:
            states.append(state.tensors())

    training = trial.run_trial(session, 0, candidate, Looking(project / "none", {}, None))
    with session.threads():
        for _ in range(BAD + 1):  # the first one is before any step
            next(training)
    assert {name: x for name, x in failure.tensors.items() if not name.startswith("batch/")}.keys() == states[-1].keys()
    differing = [name for name, x in states[-1].items() if not torch.equal(failure.tensors[name], x)]
    assert not differing
    data = Dataset.open(project / "data")
    drawn = trial.batches(data.split(0), 0, session.settings(0, candidate), True)
    rows = [step_rows for step_rows, _ in drawn]
    assert failure.ids == tuple(data.ids[rows[BAD]])

    again = replay_trial("aft", params, Project(project))
    assert (again.step, again.rows) == (BAD, len(failure.ids))
    assert again.losses["penalty kd"] == float("inf") and np.isfinite(again.losses["task loss"])
    assert again.gradients and again.weights and not again.outputs
    assert f"step {BAD}" in str(again)


def test_rows_that_are_not_finite_are_named(project: Path, params: Params, monkeypatch: pytest.MonkeyPatch):
    forward = BagOfWords.forward

    def spoiled(student: BagOfWords, inputs: Any) -> Any:
        features, outputs = forward(student, inputs)
        if student.training:
            features = features.clone()
            features[20] = float("nan")  # of the transfer batch
        return features, outputs

    params.values["runs"]["aft"]["methods"] = [{"name": "kd", "weight": 1.0}]
    monkeypatch.setattr(BagOfWords, "forward", spoiled)
    with pytest.raises(UserError, match=r"seed 0, step 0: penalty kd is not finite; rows r\d{4}; lower") as caught:
        train("aft", params, Project(project))
    assert f"rows {the_failure(project).ids[20]}; lower" in str(caught.value)


def test_the_batch_can_be_looked_at_without_the_project(project: Path, params: Params, overflow: None):
    train("aft", params, Project(project))
    failure = the_failure(project)
    blueprint, _ = load_student(project / "runs" / "aft" / "students" / "0")
    student = blueprint.build()
    student.load_state_dict({n.removeprefix("student/"): x for n, x in failure.tensors.items() if n[:8] == "student/"})
    inputs = tuple(x for name, x in sorted(failure.tensors.items()) if name.startswith("batch/inputs/"))
    features, outputs = student(place(inputs, torch.device("cpu")))
    assert len(features) == len(failure.ids) and outputs.isfinite().all()


def test_a_trial_that_did_not_diverge_has_nothing_to_do_again(project: Path, params: Params):
    train("aft", params, Project(project))
    with pytest.raises(UserError, match=r"no trial of `aft` that diverged with these settings, data and code"):
        replay_trial("aft", params, Project(project))


def test_a_damaged_failure_is_named(project: Path, params: Params, overflow: None):
    train("aft", params, Project(project))
    (path,) = Project(project).trials.glob(f"*/{FAILURE}")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="damaged; delete"):
        Failure.read(path.parent)
    # The ledger does not take a trial with a damaged file for a finished one.
    assert train("aft", params, Project(project)).trained == 1


@pytest.mark.parametrize("step", [-1, 10**30, "x", [1], None])
def test_a_failure_that_somebody_has_changed_is_refused(project: Path, params: Params, overflow: None, step: object):
    train("aft", params, Project(project))
    (path,) = Project(project).trials.glob(f"*/{FAILURE}")
    tensors = load_file(path)
    notes = json.loads(bytes(tensors[NOTES].numpy())) | {"step": step}
    tensors[NOTES] = torch.frombuffer(bytearray(json.dumps(notes).encode()), dtype=torch.uint8)
    before = sha256(path.read_bytes()).hexdigest()
    save_file(tensors, path)
    sums = path.with_name("SHA256SUMS")
    sums.write_text(sums.read_text().replace(before, sha256(path.read_bytes()).hexdigest()))
    with pytest.raises(UserError, match=r"of another student or method|damaged; delete"):
        replay_trial("aft", params, Project(project))
