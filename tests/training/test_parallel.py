"""Two processes that train one student: the losses and gradients of one process, one ledger, and one end for both."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.students import Student
from pipeline.training.parallel import Group, joined

ROOT = Path(__file__).parent.parent.parent

SCRIPT = """
import json, os, shutil, signal, socket, sys
from pathlib import Path
import torch
from pipeline.params import Params
from pipeline.project import Project
from pipeline.records import TrialRecord
from pipeline.runs import Candidate
from pipeline.training import trial
from pipeline.training.config import Plan
from pipeline.training.parallel import Group, joined
from pipeline.training.session import Session
from pipeline.training.batches import Part, batches
from pipeline.training.prefetch import get_ready
from pipeline.training.trial import build_penalties, losses, reads_of
from stages import entry
from stages.app import app

torch.set_num_threads(1)
root = Path(sys.argv[1])

def together(size, work):
    # In processes of their own; nothing was computed before the fork.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = []
    for rank in range(size):
        child = os.fork()
        if not child:
            os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
            code = work(rank)
            sys.stderr.flush()
            os._exit(code or 0)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]

def one_step(rank):
    with joined() as group:
        session = Session(Plan.read("aft", Params.load(root / "params.yaml"), Project(root)))
        data = session.trial_data(0, Candidate((3.0,)))
        torch.manual_seed(0)
        student = data.blueprint.build()
        penalties = build_penalties(session, data, student, Candidate((3.0,)))
        rows, labelled = next(batches(data.split, 0, data.settings, True))
        rows, augmented = rows[:-1], data.augmented(rows[:-1], labelled, 0)  # 47 do not divide
        ready = get_ready(data.shared(group), Part(rows, labelled), reads_of(penalties), augmented)
        found = losses(data, group.spread(student), penalties, ready, 0.0)
        loss = found[0] + sum(found[1].values())
        loss.backward()
        group.reduce(list(student.parameters()))
        if not rank:
            gradients = [parameter.grad for parameter in student.parameters()]
            gates = [p.grad for penalty in penalties.values() for p in penalty.transfer.parameters()]
            torch.save([loss.detach(), found[2].detach(), *gradients, *gates], root / f"{group.size}.pt")

def typed(folder, dies=None, call=0):
    def work(rank):
        os.chdir(folder)
        os.dup2(os.open(folder / f"err{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        os.dup2(os.open(folder / f"out{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        count = []
        def counting(*arguments, **options):
            count.append(1)
            if rank == dies and len(count) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return losses(*arguments, **options)
        trial.losses = counting
        sys.argv = ["aft", "train", "aft"]
        try:
            entry.run(app, "aft")
        except SystemExit as end:
            return end.code
    return work
"""

ONE_STEP_AND_A_KILL = """
together(1, one_step)
together(2, one_step)
print(json.dumps(together(2, typed(root, dies=1, call=3))))
"""

WHOLE_TRAININGS = """
print(json.dumps(together(2, typed(root, dies=0, call=3))))
print(json.dumps((root / "err1").read_text()))
print(json.dumps([path.name for path in (root / "trials").iterdir() if not path.name.startswith(".")]))
print(json.dumps(together(2, typed(root))))
(root / "runs").rename(root / "two")
(root / "trials").rename(root / "trials of two")
print(json.dumps(together(1, typed(root))))
"""


def run(made_project: Path, root: Path, script: str) -> list[str]:
    """Do this with a copy of the small project; what is printed."""
    shutil.copytree(made_project, root)
    params = Params.load(root / "params.yaml")
    params.values["students"]["bag"]["dropout"] = 0.0
    params.values["train"] |= {"steps": 12, "seeds": [0], "augment": {"word_dropout": {}}}
    params.values["runs"]["aft"]["methods"] = [{"name": "aft", "weight": 3.0}]
    params.values["machine"]["checkpoint_minutes"] = 0.0
    (root / "params.yaml").write_text(yaml.safe_dump(params.values))
    command = [sys.executable, "-c", SCRIPT + script, str(root)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


def test_losses_and_gradients_are_those_of_one_process_and_one_kill_ends_both(made_project: Path, tmp_path: Path):
    root = tmp_path / "project"
    (ended,) = run(made_project, root, ONE_STEP_AND_A_KILL)
    one, both = torch.load(root / "1.pt"), torch.load(root / "2.pt")
    assert len(one) == len(both) > 8 and all(tensor.abs().max() > 0 for tensor in one)
    for alone, together in zip(one, both, strict=True):
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    assert ended == "[2, -9]"
    assert not any((root / "trials").glob("*/SHA256SUMS"))
    assert "Traceback" not in (root / "err0").read_text()


@pytest.mark.slow
def test_two_processes_train_as_one_does_and_the_first_one_alone_writes(made_project: Path, tmp_path: Path):
    root = tmp_path / "project"
    killed, said, finished, trained, alone = run(made_project, root, WHOLE_TRAININGS)
    assert (killed, finished, trained, alone) == ("[-9, 2]", "[]", "[0, 0]", "[0]")
    assert said.count("\\n") == 1 and "process 1 of 2: another one ended" in said and "Traceback" not in said
    assert "aft: validation accuracy" in (root / "out0").read_text()
    (trial,) = (root / "trials of two").iterdir()
    assert (root / "trials" / trial.name).is_dir(), "the same trial, whoever trains it"
    texts = [(root / name / "aft" / "curves.csv").read_text() for name in ("two", "runs")]
    curves = [list(csv.DictReader(text.splitlines())) for text in texts]
    losses = [np.array([float(line["task_loss"] or 0) for line in lines]) for lines in curves]
    np.testing.assert_allclose(*losses, rtol=1e-3)


@pytest.mark.slow
def test_torchrun_trains_as_it_is_typed(made_project: Path, tmp_path: Path):
    root = Path(shutil.copytree(made_project, tmp_path / "project"))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = ["torchrun", "--standalone", "--nproc-per-node", "2", "--no-python", "aft", "train", "none"]
    command += ["-S", "train.steps=6", "-S", "train.seeds=[0]"]
    ended = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("none: validation accuracy") == 1, "the first process alone says so"
    assert len(list((root / "trials").glob("*/trial.json"))) == 1


@pytest.mark.parametrize(("count", "size"), [(8, 2), (47, 2), (5, 3), (1, 4), (2, 4)])
def test_processes_share_all_rows_of_a_batch(count: int, size: int):
    shares = [Group(rank, size).rows(count) for rank in range(size)]
    assert len({len(share) for share in shares}) == 1
    distinct = [set(share.tolist()) for share in shares]
    assert set().union(*distinct) == set(range(count))
    assert np.stack(shares, 1).flatten()[:count].tolist() == list(range(count)), "each has its own, in order"
    assert all((np.diff(share) >= 0).all() for share in shares)


def test_students_that_cannot_be_spread_are_refused_in_one_line():
    class Normed(Student):
        def __init__(self) -> None:
            super().__init__()
            self.width, self.norm = 4, torch.nn.BatchNorm1d(4)

        def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return inputs, inputs

    with pytest.raises(UserError, match=r"^2 processes: the student has BatchNorm.*train it in one process"):
        Group(0, 2).spread(Normed())
    with pytest.raises(UserError, match=r"^train.compile: true, and 2 processes train together; set it to false"):
        Group(0, 2).spread(Normed(), compiled=True)
    assert isinstance(Group().spread(student := Normed()), Normed) and Group().spread(student) is student


def test_one_process_joins_no_others(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined() as group:
        assert group == Group() == Group.current()


def test_processes_that_nobody_started_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with (
        pytest.raises(UserError, match=r"^2 processes: they cannot connect to one another .*start them with torchrun"),
        joined(),
    ):
        pass
