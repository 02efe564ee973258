"""The ledger: what is trained once stays trained, whatever happens, and nothing else is taken for it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from pipeline import training
from pipeline.code import Code
from pipeline.errors import UserError
from pipeline.locks import Lock
from pipeline.machine import Machine
from pipeline.params import Params
from pipeline.project import Project
from pipeline.provenance import digest_files
from pipeline.records import TrialRecord
from pipeline.runs import Candidate, Run
from pipeline.training import candidates, count_trials
from pipeline.training.config import Plan
from pipeline.training.ledger import Ledger, _code, inputs_of
from pipeline.training.session import Session

from ..conftest import write_store

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def short(params: Params) -> Params:
    """Five steps, two seeds."""
    params.values["train"] |= {"steps": 5, "seeds": [0, 1]}
    return params


def train(project: Path, params: Params, name: str = "aft") -> training.Training:
    return training.train(name, params, Project(project))


def trials(project: Path) -> set[str]:
    return {path.name for path in Project(project).trials.iterdir()}


def test_what_is_trained_is_found(project: Path, short: Params):
    lines: list[str] = []
    first = training.train("aft", short, Project(project), say=lines.append)
    bits = digest_files(project / "runs" / "aft")
    again = training.train("aft", short, Project(project), say=lines.append)
    assert (first.trained, first.found) == (4, 0)
    assert (again.trained, again.found) == (0, 4)
    assert [line for line in lines if "trials" in line] == [
        "train aft: 4 trials, 0 found, 4 to train",
        "train aft: 4 trials, 4 found, 0 to train",
    ]
    assert digest_files(project / "runs" / "aft") == bits
    assert again.seconds == first.seconds > 0


def test_plain_training_is_shared_by_all_runs(project: Path, short: Params):
    train(project, short, "none")
    assert training.count_trials("aft", short, Project(project))[:2] == (2, 2)
    assert train(project, short).found == 2
    # Other batches for methods, and other teachers, are nothing to it.
    short.values["train"]["transfer_batch_size"] = 48
    short.values["runs"]["aft"]["teachers"] = ["loud"]
    short.values["runs"]["aft"]["shuffle_teachers"] = True
    assert training.count_trials("aft", short, Project(project))[:2] == (2, 2)


def test_a_grid_that_grows_trains_only_what_is_new(project: Path, short: Params):
    train(project, short)
    before = trials(project)
    short.values["runs"]["aft"]["methods"][0]["weight"] = [0.0, 3.0, 9.0]
    short.values["train"]["seeds"] = [0, 1, 2]
    result = train(project, short)
    assert (result.trials, result.found) == (9, 4)
    assert before < trials(project)


def test_a_default_that_is_written_out_is_the_same_trial(project: Path, short: Params):
    train(project, short)
    short.values["train"]["warmup"] = 0.05
    short.values["students"]["bag"]["min_count"] = 2
    short.values["runs"]["aft"]["methods"][0]["learning_rate"] = 0.01
    assert training.count_trials("aft", short, Project(project))[:2] == (4, 0)


CHANGES: dict[str, Callable[[Params], Any]] = {
    "steps": lambda p: p.values["train"].update(steps=6),
    "precision": lambda p: p.values["train"].update(precision="bfloat16"),
    "transfer batch": lambda p: p.values["train"].update(transfer_batch_size=31),
    "student": lambda p: p.values["students"]["bag"].update(dropout=0.2),
    "method": lambda p: p.values["runs"]["aft"]["methods"][0].update(form="fixed"),
    "schedule": lambda p: p.values["runs"]["aft"]["methods"][0].update(schedule="linear_rise"),
    "weight": lambda p: p.values["runs"]["aft"]["methods"][0].update(weight=[3.5]),
    "shuffle": lambda p: p.values["runs"]["aft"].update(shuffle_teachers=True),
    "teachers": lambda p: p.values["runs"]["aft"].update(teachers=["wise", "loud"]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_a_result_changes_its_name(project: Path, short: Params, change: str):
    short.values["runs"]["aft"]["methods"][0]["weight"] = [3.0]

    def names() -> set[str]:
        session = Session(Plan.read("aft", short, Project(project)))
        return {trial.digest for trial in candidates.trials_of(session)}

    before = names()
    assert len(before) == 2
    CHANGES[change](short)
    assert before.isdisjoint(names())


def test_other_features_labels_or_code_are_another_trial(project: Path, short: Params, monkeypatch: pytest.MonkeyPatch):
    run = Run.model_validate(short.values["runs"]["aft"])
    plain, aided = Candidate((0.0,)), Candidate((3.0,))

    def inputs(candidate: Candidate) -> dict[str, Any]:
        return inputs_of(Session(Plan("aft", short, Project(project), run, Machine(device="cpu"))), 0, candidate)

    before = {candidate: inputs(candidate) for candidate in (plain, aided)}
    assert before == {candidate: inputs(candidate) for candidate in (plain, aided)}
    data = Session(Plan("aft", short, Project(project), run, Machine(device="cpu"))).data
    write_store(data, project / "features" / "wise.zarr", 24, seed=77)
    assert inputs(plain) == before[plain]
    assert inputs(aided)["sources"] != before[aided]["sources"]
    labels = data.labels.copy()
    val = data.split(0).val
    labels[val] = (labels[val] + 1) % 3
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.data.dataset.Dataset.labels", property(lambda data: labels))
        assert inputs(plain)["rows"] != before[plain]["rows"]
    monkeypatch.setattr("pipeline.training.ledger._code", lambda *names: " ".join(names))
    assert inputs(plain)["code"] == "pipeline.tasks.classification pipeline.students.bag_of_words"
    more = "pipeline.tasks.classification pipeline.students.bag_of_words pipeline.methods.aft"
    assert inputs(aided)["code"] == more


def test_the_code_of_a_trial_is_the_loop_its_plugins_and_what_they_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    library = Path(shutil.copytree(ROOT / "pipeline", tmp_path / "pipeline"))
    monkeypatch.setattr("pipeline.training.ledger.Code", lambda: Code(tmp_path))

    def changes(file: str) -> tuple[bool, bool]:
        """Whether plain training, and AFT, change their names when a file does."""
        bag, aft = "pipeline.students.bag_of_words", "pipeline.methods.aft"
        plans = [(bag,), (bag, aft)]
        _code.cache_clear()
        before = [_code(*plan) for plan in plans]
        with (library / file).open("a") as opened:
            opened.write("\n# changed\n")
        _code.cache_clear()
        plain, aided = (one != _code(*plan) for one, plan in zip(before, plans, strict=True))
        return plain, aided

    try:
        assert changes("training/trial.py") == changes("students/bag_of_words.py") == (True, True)
        assert changes("students/__init__.py") == changes("functional/schedules.py") == (True, True)
        assert changes("methods/aft.py") == changes("methods/_gates.py") == (False, True)
        assert changes("methods/cka.py") == changes("functional/logme.py") == (False, False)
        assert changes("training/run.py") == changes("teachers/timm.py") == (False, False)
    finally:
        _code.cache_clear()


@pytest.mark.parametrize(
    "name", ["trial.json", "rows.safetensors", "student.json", "weights.safetensors", "SHA256SUMS"]
)
def test_a_damaged_trial_is_trained_again_and_never_used(project: Path, short: Params, name: str):
    train(project, short, "none")
    bits = digest_files(project / "runs" / "none")
    damaged = next(Project(project).trials.iterdir()) / name
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    if name in ("trial.json", "rows.safetensors"):  # the others are too large to be read by `aft check`
        assert count_trials("none", short, Project(project))[:2] == (1, 1)
    assert train(project, short, "none").found == 1
    assert digest_files(project / "runs" / "none") == bits


@pytest.mark.parametrize("scores", [np.zeros((2, 3), np.float32), np.zeros(3, np.int64), None])
def test_scores_that_somebody_has_signed_are_refused(project: Path, short: Params, scores: np.ndarray | None):
    train(project, short, "none")
    path = next(Project(project).trials.iterdir()) / "rows.safetensors"
    before = sha256(path.read_bytes()).hexdigest()
    save_file({"other": np.zeros(3)} if scores is None else {"scores": scores}, path)
    sums = path.with_name("SHA256SUMS")
    sums.write_text(sums.read_text().replace(before, sha256(path.read_bytes()).hexdigest()))
    with pytest.raises(UserError, match=r"rows\.safetensors: not the scores of a trial; delete"):
        train(project, short, "none")


def test_a_trial_can_be_checked_with_a_standard_tool(project: Path, short: Params):
    train(project, short, "none")
    for folder in Project(project).trials.iterdir():
        assert subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder).returncode == 0


def test_a_diverged_trial_is_kept_too(project: Path, short: Params):
    short.values["runs"]["none"]["search"] = {"train.learning_rate": [1e30, 0.01]}
    first = train(project, short, "none")
    again = train(project, short, "none")
    assert (first.found, again.found) == (0, 3)  # a candidate that diverged is not trained again
    assert again.warnings == first.warnings and "diverged" in first.warnings[0]


def test_the_first_of_two_that_commit_a_trial_wins(project: Path, short: Params):
    train(project, short, "none")
    ledger = Ledger(Project(project))
    digest = next(iter(trials(project)))
    kept = ledger.read(digest)
    ledger.commit(digest, TrialRecord(inputs={}, diverged="seed 0", seconds=1.0), None)
    assert ledger.read(digest) == kept
    assert len(trials(project)) == 2


def test_trials_that_no_run_uses_are_listed_and_deleted(project: Path, short: Params):
    for name in short.values["runs"]:
        train(project, short, name)
    assert not training.unused_trials(short, Project(project)).folders
    before = trials(project)
    short.values["runs"]["aft"]["methods"][0]["weight"] = [0.0, 4.0]
    (Project(project).trials / ".partial").mkdir()
    listed = training.unused_trials(short, Project(project))
    assert len(listed.folders) == 3 and not listed.deleted
    assert trials(project) == before | {".partial"}
    assert "pass --delete to delete them" in str(listed)
    with Ledger(Project(project)).in_use(), pytest.raises(UserError, match="a training is running"):
        training.unused_trials(short, Project(project), delete=True)
    training.unused_trials(short, Project(project), delete=True)
    assert trials(project) == before - {path.name for path in listed.folders}
    short.values["runs"]["broken"] = {"student": "bag", "teachers": ["gone"]}
    with pytest.raises(UserError, match=r"no section `teachers\.gone`"):
        training.unused_trials(short, Project(project), delete=True)


def test_a_run_is_trained_by_one_process_at_a_time(project: Path, short: Params):
    other = Lock(Project(project).lock("train", "none"))
    assert other.acquire()
    with pytest.raises(UserError, match=r"is training `none`; wait for it"):
        train(project, short, "none")
    other.release()
    train(project, short, "none")


def test_a_worker_refuses_a_ledger_that_its_command_does_not_use(project: Path, tmp_path: Path):
    worker, line = Ledger(Project(project)), "not the folder of the command that this process works for"
    with Ledger(Project(project)).in_use():
        worker.check_shared()
        worker.check_shared()  # it leaves no lock behind
        with pytest.raises(UserError, match=line):
            Ledger(Project(tmp_path / "a copy")).check_shared()
    with pytest.raises(UserError, match=line):
        worker.check_shared()
    with worker.in_use():  # nor after a refusal
        Ledger(Project(project)).check_shared()


SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch
from pipeline.params import Params
from pipeline.project import Project
from pipeline import training
from pipeline.training import ledger, trial

torch.set_num_threads(1)
calls = 0

def killed_at(module, name, call):
    function = getattr(module, name)
    def counting(*args, **options):
        global calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **options)
    setattr(module, name, counting)

match sys.argv[2]:
    case "first trial": killed_at(trial, "losses", 3)
    case "commit": killed_at(ledger, "sync_folder", 5)
    case "write": killed_at(ledger.Ledger, "copy_student", 2)
root = Path(sys.argv[1])
print(training.train("aft", Params.load(root / "params.yaml"), Project(root)).found)
"""


def run(project: Path, moment: str = "none") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SCRIPT, str(project), moment]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_killed_at_any_moment_it_continues_to_the_very_same_run(project: Path, short: Params, tmp_path: Path):
    (project / "params.yaml").write_text(yaml.safe_dump(short.values))
    clean = Path(shutil.copytree(project, tmp_path / "clean"))
    assert run(clean).stdout == "0\n"
    undisturbed = digest_files(clean / "runs" / "aft")
    finished = []
    for moment in ("first trial", "commit", "write"):
        here = Path(shutil.copytree(project, tmp_path / moment))
        killed = run(here, moment)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        # DVC deletes the outputs of a stage before it runs the stage again.
        shutil.rmtree(here / "runs", ignore_errors=True)
        again = run(here)
        assert again.returncode == 0, again.stderr
        finished.append(int(again.stdout))
        assert digest_files(here / "runs" / "aft") == undisturbed
    assert finished[0] == 0 and 0 < finished[1] < 4 and finished[2] == 4


def test_a_record_says_what_a_trial_depends_on(project: Path, short: Params):
    train(project, short)
    records = [TrialRecord.read(folder / "trial.json") for folder in Project(project).trials.iterdir()]
    weights = [[method["weight"] for method in record.inputs.get("methods", [])] for record in records]
    assert sorted(weights) == [[], [], [3.0], [3.0]]
    assert not any("aft" in json.dumps(record.inputs["student"]) for record in records)
