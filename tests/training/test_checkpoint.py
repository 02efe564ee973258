"""Checkpoints: a training that is killed at any moment goes on, and ends with the bits of one that was not."""

import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save

from pipeline import training
from pipeline.data import PrepareSettings, prepare
from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.plugins import plugins
from pipeline.probing import ProbeSettings, probe
from pipeline.project import Project
from pipeline.runs import Candidate
from pipeline.training import candidates, ledger, trial
from pipeline.training.checkpoint import CHECKSUM, NOTES, STATE, Checkpoint, _bytes
from pipeline.training.config import Plan
from pipeline.training.session import Session
from pipeline.training.trial import TrialResult
from tests.training.trials import result_of

ROOT = Path(__file__).parent.parent.parent
STEPS = 12
AFT = Candidate((3.0,))
TRIAL = {"seed": 0, "code": "abc"}


@pytest.fixture
def params(params: Params) -> Params:
    """Dropout, gates that learn, and a queue; one seed, one candidate, a checkpoint after every step."""
    params.values["train"] |= {"steps": STEPS, "seeds": [0]}
    params.values["runs"]["aft"]["methods"] = [{"name": "aft", "weight": 3.0, "queue": 8}]
    params.values["machine"]["checkpoint_minutes"] = 0.0
    return params


SCRIPT = """
import os, shutil, signal, sys
from pathlib import Path
import torch
from pipeline import files
from pipeline.params import Params
from pipeline.project import Project
from pipeline.provenance import digest_files
from pipeline import training
from pipeline.training import checkpoint, trial

torch.set_num_threads(1)
root = Path(sys.argv[1])

def killed_at(where, name, call):
    function, calls = getattr(where, name), []
    def counting(*args, **options):
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **options)
    setattr(where, name, counting)
    return calls

def train(project, where=trial, name="losses", call=0):
    # In a process of its own; nothing was computed before the fork.
    child = os.fork()
    if not child:
        counted = killed_at(where, name, call)
        training.train("aft", Params.load(project / "params.yaml"), Project(project))
        print(len(counted), flush=True)
        os._exit(0)
    print(os.waitpid(child, 0)[1], flush=True)

clean = Path(shutil.copytree(root, root.with_name("clean")))
train(clean)
train(root, call=4)                                        # before the fourth step
train(root, torch.optim.AdamW, "step", 3)                  # within the sixth
train(root, checkpoint, "write_atomically", 4)             # after the ninth, before its checkpoint
train(root)                                                # from the ninth on
print(digest_files(root / "runs/aft") == digest_files(clean / "runs/aft"))
print([path.name for path in (root / "trials").iterdir() if path.name.startswith(".")])
"""


def killed(project: Path, params: Params) -> list[str]:
    """What the script prints of the steps that were done, how each process ended, and what is there at the end."""
    (project / "params.yaml").write_text(yaml.safe_dump(params.values))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, str(project)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


def test_killed_at_any_moment_a_training_continues_with_the_same_bits(project: Path, params: Params):
    assert killed(project, params) == [f"{STEPS}", "0", "9", "9", "9", f"{STEPS - 8}", "0", "True", "[]"]


@pytest.mark.slow
def test_killed_with_all_options_too(project: Path, params: Params):
    params.values["train"] |= OPTIONS | {"early_stopping": 99}
    parts, *ended, left, last, same, folders = killed(project, params)
    assert (ended, last, same, folders) == (["0", "9", "9", "9"], "0", "True", "[]")
    assert int(left) < int(parts) == 2 * STEPS


def run(project: Path, params: Params, checkpoint: Checkpoint | None = None, steps: int | None = None) -> Any:
    """The result of the trial, or None where it is left after so many steps."""
    session = Session(Plan.read("aft", params, Project(project)))
    return result_of(trial.run_trial(session, 0, AFT, checkpoint), steps)


def same(one: TrialResult, other: TrialResult) -> bool:
    states = [result.student.state_dict() for result in (one, other)]
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0]) and (
        (one.curve, one.gates, one.diagnostics) == (other.curve, other.gates, other.diagnostics)
    )


@pytest.mark.parametrize("steps", [1, 7, STEPS])
def test_an_interrupted_training_continues_with_the_same_bits(
    project: Path, params: Params, tmp_path: Path, steps: int
):
    whole = run(project, params)
    assert run(project, params, Checkpoint(tmp_path / "here", TRIAL, 0.0), steps) is None
    again = Checkpoint(tmp_path / "here", TRIAL, 0.0)
    assert same(run(project, params, again), whole)
    assert again.seconds > 0
    again.remove()
    assert not (tmp_path / "here").exists()


OPTIONS = {
    "accumulate": 2,
    "average": 0.9,
    "clip": 0.5,
    "early_stopping": 5,
    "label_smoothing": 0.1,
    "precision": "float16",
    "sampling": "balanced",
    "weight_decay": 0.1,
    "decayed": "matrices",
}
"""All that have something to remember from step to step, and a few more."""


SINGLE: dict[str, dict[str, Any]] = {
    "bfloat16": {"precision": "bfloat16"},
    "epochs": {"epochs": 8.0},
    "class weights": {"class_weights": "balanced"},
    "labelled rows alone": {"unlabelled": False, "average": 0.5},
    "augmented": {"augment": {"word_dropout": {"share": 0.3}}, "augment_transfer": True, "average": 0.9},
}
"""Options that exclude those, each by itself."""


@pytest.mark.parametrize("option", SINGLE)
def test_with_one_option_too(project: Path, params: Params, tmp_path: Path, option: str):
    if "epochs" in SINGLE[option]:
        del params.values["train"]["steps"]
    params.values["train"] |= SINGLE[option]
    assert_continues(project, params, tmp_path, 5)


@pytest.mark.parametrize("method", sorted(plugins("methods")))
def test_with_every_method_too(project: Path, params: Params, tmp_path: Path, method: str):
    params.values["runs"]["aft"]["methods"] = [{"name": method, "weight": 3.0}]
    assert_continues(project, params, tmp_path, 5)


@pytest.mark.parametrize("trained", [None, 1])
def test_with_a_pretrained_student_too(
    project: Path, params: Params, tmp_path: Path, tiny_encoder: Path, trained: int | None
):
    section = {"family": "transformers", "model": str(tiny_encoder), "pretrained": True}
    params.values["students"]["bag"] = section
    params.values["train"] |= {"layer_decay": 0.7, "trained_layers": trained, "weight_decay": 0.1, "steps": 5}
    assert_continues(project, params, tmp_path, 3)


COMPILED = """
import sys
from pathlib import Path
from pipeline.params import Params
from tests.training.test_checkpoint import assert_continues

project, folder = map(Path, sys.argv[1:])
params = Params.load(project / "params.yaml")
params.values["train"] |= {"compile": True, "steps": 60}  # of which every third has a line, and is not compiled
assert_continues(project, params, folder, 5)
"""


@pytest.mark.slow
def test_compiled_too(project: Path, tmp_path: Path):
    """In a process of its own: torch.compile does not see through the checks of types in this one."""
    command = [sys.executable, "-c", COMPILED, str(project), str(tmp_path)]
    ran = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]


def assert_continues(project: Path, params: Params, tmp_path: Path, steps: int) -> None:
    """A training that is left after so many steps, and one that is not, end with the same bits."""
    whole = run(project, params)
    assert run(project, params, Checkpoint(tmp_path / "here", TRIAL, 0.0), steps) is None
    assert (tmp_path / "here" / STATE).exists()
    assert same(run(project, params, Checkpoint(tmp_path / "here", TRIAL, 0.0)), whole)


@pytest.mark.parametrize("steps", [1, 4])
def test_with_all_options_too(project: Path, params: Params, tmp_path: Path, steps: int):
    # At this rate the student is best early, so that it may be one of an earlier call.
    params.values["train"] |= OPTIONS | {"learning_rate": 1.0, "steps": 20}
    whole = run(project, params)
    assert whole.diagnostics.kept is not None and len(whole.curve) < 21
    assert_continues(project, params, tmp_path, steps)


@pytest.mark.parametrize("fault", ["a bit", "a cut", "gone"])
def test_what_is_no_checkpoint_of_this_trial_is_not_used(
    project: Path, params: Params, tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
):
    whole = run(project, params)
    run(project, params, Checkpoint(tmp_path, TRIAL, 0.0), 5)
    state = bytearray((tmp_path / STATE).read_bytes())
    match fault:
        case "a bit":
            state[-40] ^= 1
        case "a cut":
            del state[len(state) // 2 :]
        case "gone":
            state.clear()
    (tmp_path / STATE).write_bytes(state)
    calls: list[int] = []
    losses = trial.losses
    monkeypatch.setattr(trial, "losses", lambda *arguments: calls.append(1) or losses(*arguments))  # type: ignore[func-returns-value]
    assert same(run(project, params, Checkpoint(tmp_path, TRIAL, None)), whole)
    assert len(calls) == STEPS


@pytest.mark.parametrize("what", ["a weight", "a shape", "an optimiser", "a log", "steps", "notes"])
def test_a_checkpoint_that_somebody_has_changed_and_signed_is_refused_or_not_used(
    project: Path, params: Params, tmp_path: Path, what: str
):
    whole = run(project, params)
    run(project, params, Checkpoint(tmp_path, TRIAL, 0.0), 5)
    tensors = load_file(tmp_path / STATE)
    del tensors[CHECKSUM]
    notes = json.loads(bytes(tensors.pop(NOTES).numpy()))
    student = next(name for name in tensors if name.startswith("student/"))
    match what:
        case "a weight":
            del tensors[student]
        case "a shape":
            tensors[student] = torch.zeros(2, 2, 2)
        case "an optimiser":
            tensors["optimisation/99/x"] = torch.zeros(1)
        case "a log":
            notes["log"] = []
        case "steps":
            notes["steps"] = "many"
        case "notes":
            notes = [notes]
    tensors[NOTES] = _bytes(json.dumps(notes).encode())
    content = save(tensors | {CHECKSUM: _bytes(sha256(save(tensors)).digest())})
    (tmp_path / STATE).write_bytes(content)
    again = Checkpoint(tmp_path, TRIAL, None)
    if what in ("steps", "notes"):
        assert same(run(project, params, again), whole)
    else:
        with pytest.raises(UserError, match=f"{STATE}: does not fit this training, or was changed by hand; delete it"):
            run(project, params, again)


@pytest.mark.parametrize(
    ("kind", "changes", "names"),
    [
        ("student", ["students.bag.width=3"], r"differs in student \(student\.settings\.width: \d+ -> 3\)"),
        ("dataset", ["dataset.labelled=10"], r"differs in dataset, teachers \(rows\.train"),
        ("method", ["runs.aft.methods={kd: {weight: 3.0}}"], r"differs in code, methods \("),
        ("settings", ["train.learning_rate=0.5"], r"differs in settings \(train\.learning_rate: [\d.]+ -> 0\.5\)"),
        ("code", [], r"differs in code \(code: [0-9a-f]+ -> other\)"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused_by_what_differs(
    project: Path, params: Params, monkeypatch: pytest.MonkeyPatch, kind: str, changes: list[str], names: str
):
    def trials() -> tuple[Session, candidates.Trial]:
        session = Session(Plan.read("aft", params, Project(project)))
        (only,) = candidates.trials_of(session)
        return session, only

    session, only = trials()
    inputs = ledger.inputs_of(session, only.seed, only.candidate)
    before = Project(project).trials / f".{only.digest}"
    run(project, params, Checkpoint(before, inputs, 0.0), 3)
    (project / "params.yaml").write_text(yaml.safe_dump(dict(params.values)))
    params = Params.load(project / "params.yaml", changes)
    monkeypatch.chdir(project)
    if kind == "dataset":
        prepare(params.read(PrepareSettings, "dataset"), project / "data")
        probe("wise", params.read(ProbeSettings, "probe"), Project(project))
    if kind == "code":
        monkeypatch.setattr(ledger, "_code", lambda *plugins: "other")
    _, other = trials()
    assert other.digest != only.digest
    before.rename(Project(project).trials / f".{other.digest}")
    with pytest.raises(UserError, match=rf"{STATE}: a checkpoint of another training, which {names}"):
        training.train("aft", params, Project(project))


@pytest.mark.parametrize("minutes", [None, 10.0])
def test_a_short_training_leaves_no_checkpoint(project: Path, params: Params, tmp_path: Path, minutes: float | None):
    run(project, params, Checkpoint(tmp_path / "here", TRIAL, minutes))
    assert not (tmp_path / "here").exists()


def test_what_a_killed_training_left_is_listed_and_deleted_with_unused_trials(project: Path, params: Params):
    session = Session(Plan.read("aft", params, Project(project)))
    (only,) = candidates.trials_of(session)
    folder = Project(project).trials / f".{only.digest}"
    run(project, params, Checkpoint(folder, TRIAL, 0.0), 3)
    assert training.unused_trials(params, Project(project), delete=True).folders == (folder,)
    assert not folder.exists()


def test_how_often_changes_no_name_of_a_trial(project: Path, params: Params):
    training.train("aft", params, Project(project))
    params.values["machine"]["checkpoint_minutes"] = None
    assert training.count_trials("aft", params, Project(project))[:2] == (1, 0)
    (record,) = Project(project).trials.glob("*/trial.json")
    assert "checkpoint" not in json.dumps(json.loads(record.read_text())["inputs"])
