"""After training, the last layer is a weighted sum of itself and of one that only labels have taught."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from pipeline import tasks, training
from pipeline.functional.linear import FOLDS, folds
from pipeline.params import Params
from pipeline.project import Project
from pipeline.records import MixtureRecord, RunRecord
from pipeline.runs import Candidate
from pipeline.students import Scaled, Student, load_student, student_outputs
from pipeline.training import mixing
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.config import Plan
from pipeline.training.mixing import PULL, Mixed, last_layer, mix_last_layer, shares
from pipeline.training.refit import refit
from pipeline.training.session import Session, TrialData
from pipeline.training.trial import run_trial
from tests.training.trials import result_of

PLUS = {"name": "aft_plus", "weight": 3.0, "mix": True}


def task_of(name: str) -> tasks.Task:
    return tasks.build(name, ["value"] if name == "regression" else ["a", "b", "c"])


def labels_of(name: str, n: int) -> np.ndarray:
    random = np.random.default_rng(1)
    match name:
        case "classification":
            return random.integers(0, 3, n)
        case "multilabel":
            return random.integers(0, 2, (n, 3)).astype(task_of(name).dtype)
        case _:
            return random.normal(size=n).astype(np.float32)


def loss_of(name: str, z: list[list[float]], y: Any) -> float:
    """The task's loss summed over rows, in loops; of several labels, the mean over them."""
    total = 0.0
    for logits, label in zip(z, y, strict=True):
        if name == "classification":
            total += np.log(sum(np.exp(x) for x in logits)) - logits[label]
        elif name == "multilabel":
            total += sum(np.log(1 + np.exp(x)) - x * t for x, t in zip(logits, label, strict=True)) / len(logits)
        else:
            total += (logits[0] - label) ** 2
    return float(total)


@pytest.mark.parametrize("name", ["classification", "multilabel", "regression"])
def test_shares_have_the_least_loss_on_a_grid(name: str):
    """One of the layers knows something; the task's loss plus the pull, at every point of a grid around the shares."""
    n, labels, random = 40, labels_of(name, 40), np.random.default_rng(0)
    width = 1 if name == "regression" else 3
    truth = labels[:, None] if name == "regression" else np.eye(3)[labels] if labels.ndim == 1 else labels
    both = np.stack([truth + random.normal(size=(n, width)), random.normal(size=(n, width))]).astype(np.float32)

    def at(a: float, b: float) -> float:
        z = [
            [a * x + b * y for x, y in zip(one, other, strict=True)] for one, other in zip(*both.tolist(), strict=True)
        ]
        return loss_of(name, z, labels.tolist()) + PULL * ((a - 0.5) ** 2 + (b - 0.5) ** 2)

    a, b = shares(task_of(name), both, labels)
    assert a > b >= 0
    around = [at(a + da, max(b + db, 0.0)) for da in (-0.05, 0, 0.05) for db in (-0.05, 0, 0.05)]
    assert at(a, b) == pytest.approx(min(around), abs=1e-6)


def test_a_layer_that_is_wrong_counts_nothing_rather_than_less_than_nothing():
    labels = labels_of("classification", 60)
    right = 2 * np.eye(3, dtype=np.float32)[labels] + np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    a, b = shares(task_of("classification"), np.stack([-right, right]), labels)
    assert a == 0 and b > 0.5


def test_few_rows_leave_both_near_a_half_and_none_exactly():
    outputs, labels = np.zeros((2, 4, 3), np.float32), np.array([0, 1, 2, 0])
    outputs[:, np.arange(4), labels] = 0.1
    a, b = shares(task_of("classification"), outputs, labels)
    assert a == pytest.approx(b) and 0.5 < a < 0.7
    assert shares(task_of("classification"), outputs[:, :0], labels[:0]) == (0.5, 0.5)


def test_rows_that_are_all_right_leave_shares_finite():
    labels = np.array([0, 1, 2] * 20)
    a, b = shares(task_of("classification"), np.stack([10 * np.eye(3, dtype=np.float32)[labels]] * 2), labels)
    assert 0.5 <= a < 2 and 0.5 <= b < 2


class Decoys(Student):
    """The last layer is neither the only one of its shape nor called by any name."""

    width = 3

    def __init__(self, curved: bool = False):
        super().__init__()
        self.head, self.out, self.curved = nn.Linear(3, 3), nn.Linear(3, 3), curved

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.head(inputs)
        outputs = self.out(features)
        return features, outputs.tanh() if self.curved else outputs


def test_the_last_layer_is_the_one_that_makes_the_outputs():
    inputs = torch.randn(20, 3)
    for student in (Decoys(), Scaled(Decoys(), 5.0, 2.0)):
        inner = student.student if isinstance(student, Scaled) else student
        features, outputs = (x.detach().numpy() for x in inner(inputs))
        assert last_layer(student, features, outputs) is inner.out
    features, outputs = (x.detach().numpy() for x in Decoys(curved=True)(inputs))
    assert last_layer(Decoys(curved=True), features, outputs) is None


@pytest.fixture
def params(params: Params) -> Params:
    params.values["train"] |= {"steps": 6, "seeds": [0]}
    params.values["runs"]["plus"] = {"student": "bag", "teachers": ["wise"], "methods": [PLUS]}
    return params


def trial_data(params: Params, project: Path) -> TrialData:
    session = Session(Plan.read("plus", params, Project(project)))
    return session.trial_data(0, Candidate((3.0,)))


def seen(data: TrialData, student: Student, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    batches = student_outputs(student, data.inputs, rows, torch.device("cpu"))
    features, outputs = zip(*((x.numpy(), z.numpy()) for x, z in batches), strict=True)
    return np.concatenate(features), np.concatenate(outputs)


def mixed(data: TrialData, known: MixtureRecord | None = None) -> tuple[Student, Student, Mixed]:
    torch.manual_seed(0)
    student = data.blueprint.build()
    before = copy.deepcopy(student)
    found = mix_last_layer(data, student, known)
    assert found is not None
    return before, student, found


def test_the_student_is_the_sum_of_its_outputs_and_of_a_probe_on_its_features(project: Path, params: Params):
    data = trial_data(params, project)
    before, after, found = mixed(data)
    labels, split = data.session.data.labels, data.split
    train, _ = seen(data, before, split.labelled)
    mean, std = train.mean(0), train.std(0)
    (val, trained), (test, of_test) = (seen(data, before, rows) for rows in (split.val, split.test))
    fitted = data.task.linear.fit(
        (train - mean) / std, labels[split.labelled], (val - mean) / std, labels[split.val], mixing.STRENGTHS
    )
    a, b = found.record.trained, found.record.fitted
    assert found.record.strength == fitted.strength and b > 0
    features, outputs = seen(data, after, split.test)
    np.testing.assert_array_equal(features, test)
    expected = a * of_test + b * fitted.outputs((test - mean) / std)
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
    both = np.stack([trained, fitted.outputs((val - mean) / std)])
    assert (a, b) == pytest.approx(shares(data.task, both, labels[split.val]), abs=1e-4)
    fold_of = folds(labels[split.val], data.seed)
    for fold in range(FOLDS):
        others, own = fold_of != fold, fold_of == fold
        a, b = shares(data.task, both[:, others], labels[split.val][others])
        np.testing.assert_allclose(found.outputs[own], a * both[0, own] + b * both[1, own], atol=1e-4)


class Rows(NamedTuple):
    """What a student reads, row by row."""

    values: torch.Tensor

    def batch(self, rows: np.ndarray, *options: Any, **more: Any) -> torch.Tensor:
        return self.values[rows]

    def keep_on(self, device: torch.device, budget: int) -> int:
        return 0


class Line(Student):
    """Two features, and one output that is linear in them."""

    width = 2

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 2), nn.Linear(2, 1)

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.body(inputs)
        return features, self.head(features)


def test_values_are_mixed_in_the_unit_of_the_last_layer():
    """Labels around 50: of the trained layer's deviation from their mean a share, of the ridge's another."""
    random = np.random.default_rng(0)
    values = random.normal(size=(90, 4)).astype(np.float32)
    labels = (50 + 7 * values[:, 0] + random.normal(size=90)).astype(np.float32)
    split = SimpleNamespace(labelled=np.arange(40), val=np.arange(40, 70))
    task = tasks.build("regression", ["value"]).fitted(labels[:40])
    session = SimpleNamespace(data=SimpleNamespace(labels=labels), device=torch.device("cpu"))
    data = TrialData.__new__(TrialData)  # all that is read of it
    vars(data).update(task=task, split=split, seed=0, session=session, inputs=Rows(torch.from_numpy(values)))
    torch.manual_seed(0)
    student = Scaled(Line(), task.shift, task.scale)
    features, before = seen(data, student, np.arange(90))
    found = mix_last_layer(data, student)
    assert found is not None
    mean, std = features[:40].mean(0), features[:40].std(0)
    rows = (features - mean) / std
    fitted = task.linear.fit(rows[:40], labels[:40], rows[40:70], labels[40:70], mixing.STRENGTHS)
    a, b = found.record.trained, found.record.fitted
    expected = task.shift + a * (before - task.shift) + b * (fitted.outputs(rows) - task.shift)
    np.testing.assert_allclose(seen(data, student, np.arange(90))[1], expected, atol=1e-3)
    assert found.outputs.mean() == pytest.approx(50, abs=5)


def test_labels_that_training_may_not_see_change_nothing(project: Path, params: Params):
    data = trial_data(params, project)
    _, one, _ = mixed(data)
    hidden = np.concatenate([data.split.unlabelled, data.split.test])
    data.session.data.labels[hidden] = 0
    _, other, _ = mixed(data)
    assert all(torch.equal(x, y) for x, y in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_at_most_so_many_rows_are_fitted_and_every_class_is_among_them(
    project: Path, params: Params, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(mixing, "MOST_ROWS", 3)
    data = trial_data(params, project)
    rows = mixing._sample(data.strata, data)
    assert sorted(data.session.data.labels[rows]) == [0, 1, 2] and set(rows) <= set(data.split.labelled)
    mixed(data)


def test_a_run_keeps_the_mixture_and_scores_rows_that_did_not_choose_it(
    project: Path, params: Params, monkeypatch: pytest.MonkeyPatch
):
    made: list[Mixed] = []

    def kept(*arguments: Any) -> Mixed | None:
        found = mix_last_layer(*arguments)
        made.extend([found] if found else [])
        return found

    monkeypatch.setattr("pipeline.training.trial.mix_last_layer", kept)
    done = training.train("plus", params, Project(project))
    (found,) = made
    record = RunRecord.read(Project(project).run("plus") / "run.json")
    assert record.diagnostics[0].mixture == found.record
    data = trial_data(params, project)
    labels = data.session.data.labels[data.split.val]
    assert done.val_scores == [data.task.score(found.outputs, labels)]
    (folder,) = (project / "trials").iterdir()
    np.testing.assert_array_equal(
        load_file(folder / "rows.safetensors")["scores"], data.task.row_scores(found.outputs, labels)
    )
    _, student = load_student(project / "runs" / "plus" / "students" / "0")
    params.values["runs"]["plus"]["methods"] = [PLUS | {"mix": False}]
    assert training.train("plus", params, Project(project)).trained == 1
    _, unmixed = load_student(project / "runs" / "plus" / "students" / "0")
    last = ("head.weight", "head.bias")
    for name, value in student.state_dict().items():
        assert torch.equal(value, unmixed.state_dict()[name]) == (name not in last), name


def outcome(params: Params, project: Path, checkpoint: Checkpoint | None = None, steps: int | None = None) -> Any:
    """The result of the trial; None where it is left after so many steps."""
    session = Session(Plan.read("plus", params, Project(project)))
    return result_of(run_trial(session, 0, Candidate((3.0,)), checkpoint), steps)


def test_a_training_that_was_interrupted_ends_with_the_same_bits(project: Path, params: Params, tmp_path: Path):
    whole = outcome(params, project)
    assert outcome(params, project, Checkpoint(tmp_path, {}, 0.0), steps=4) is None
    again = outcome(params, project, Checkpoint(tmp_path, {}, 0.0))
    assert whole.diagnostics == again.diagnostics and whole.scores == again.scores
    one, other = whole.student.state_dict(), again.student.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_refit_mixes_as_validation_rows_chose_before_they_were_learned_from(project: Path, params: Params):
    training.train("plus", params, Project(project))
    record = RunRecord.read(Project(project).run("plus") / "run.json")
    known = MixtureRecord(trained=0.25, fitted=0.5, strength=0.1)
    without = known.model_copy(update={"trained": 1.0, "fitted": 0.0})
    records = [
        record.model_copy(update={"diagnostics": (record.diagnostics[0].model_copy(update={"mixture": each}),)})
        for each in (known, without)
    ]
    students = [refit("plus", params, Project(project), each, 0)[1] for each in records]
    session = Session(Plan.read("plus", params, Project(project)), refit=True)
    data = session.trial_data(0, Candidate((3.0,)))
    labels, rows = data.session.data.labels, data.split.labelled
    assert set(data.split.val) <= set(rows)
    train, before = seen(data, students[1], rows)
    scaled = (train - train.mean(0)) / train.std(0)
    fitted = data.task.linear.fit(scaled, labels[rows], scaled, labels[rows], [0.1])
    _, outputs = seen(data, students[0], rows)
    np.testing.assert_allclose(outputs, 0.25 * before + 0.5 * fitted.outputs(scaled), atol=1e-5)


RIVAL = {"name": "logit_kd", "weight": [0.0, 3.0]}


@pytest.mark.parametrize("weight", [0.0, 3.0])
def test_with_any_method_or_none_the_run_may_ask_for_it(project: Path, params: Params, weight: float):
    """Only the last layer is another; plain training is mixed, too, so that candidates are compared on equal terms."""
    params.values["runs"]["plus"]["methods"] = [RIVAL]
    plain, mixed = (trained(params, project, weight, {"mix": mix} if mix is not None else {}) for mix in (None, True))
    assert plain.diagnostics.mixture is None and mixed.diagnostics.mixture is not None
    same = {
        name
        for name, value in plain.student.state_dict().items()
        if torch.equal(value, mixed.student.state_dict()[name])
    }
    assert set(plain.student.state_dict()) - same == {"head.weight", "head.bias"}


def test_a_student_that_cannot_be_mixed_stays_as_it_is(project: Path, params: Params, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mixing, "last_layer", lambda *arguments: None)
    one, other = (trained(params, project, 0.0, {"mix": mix}) for mix in (False, True))
    assert one.scores == other.scores and other.diagnostics.mixture is None
    assert all(torch.equal(x, y) for x, y in zip(one.student.parameters(), other.student.parameters(), strict=True))


def trained(params: Params, project: Path, weight: float, train: dict[str, Any]) -> Any:
    """The result of a trial with these settings of `train`."""
    params.values["runs"]["plus"]["train"] = train
    session = Session(Plan.read("plus", params, Project(project)))
    return result_of(run_trial(session, 0, Candidate((weight,))))
