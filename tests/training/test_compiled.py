"""`train.compile`: what is compiled, that it computes the same, and what CUDA graphs ask of a step."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.project import Project
from pipeline.runs import Candidate
from pipeline.training import trial
from pipeline.training.config import Plan, TrainSettings
from pipeline.training.session import Session
from pipeline.training.trial import run_trial

from ..made_up_gpu import MadeUpGpu, There
from .pictures import of_pictures, write_project

ROOT = Path(__file__).parents[2]
STEPS = 12
"""Of 400, of which every 20th has a line of the log."""


def compared(project: Path, backend: str) -> dict[str, dict[str, float]]:
    """What `tests/training/compiled.py` finds."""
    command = [sys.executable, "-m", "tests.training.compiled", str(project), backend]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert ran.returncode == 0, ran.stderr[-3000:]
    found: dict[str, dict[str, float]] = json.loads(ran.stdout)
    return found


def check(found: dict[str, dict[str, float]]) -> None:
    """Same numbers where no dropout is drawn, compiled once, or once more for batches of other lengths."""
    assert len(found) > 10
    for name, each in found.items():
        assert each["compiled"] == 1 + (name in ("options", "dropout")), name
        assert each["difference"] < 1e-5 or name == "dropout", name


def test_every_method_compiles_whole_and_once(made_project: Path):
    check(compared(made_project, "eager"))


@pytest.mark.slow
def test_compiled_code_computes_the_same(made_project: Path):
    check(compared(made_project, "inductor"))


@pytest.fixture
def modes(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """The modes that torch.compile is asked for; it then returns the function as it is."""
    asked: list[str | None] = []

    def compile(function: Callable[..., Any], mode: str | None) -> Callable[..., Any]:
        asked.append(mode)
        return function

    monkeypatch.setattr(torch, "compile", compile)
    return asked


def trained(root: Path, params: Params) -> dict[str, torch.Tensor]:
    session = Session(Plan.read("aft", params, Project(root)))
    training = run_trial(session, 0, Candidate((3.0,)), end=STEPS)
    with pytest.raises(StopIteration) as end:
        while True:
            next(training)
    return {name: value.cpu() for name, value in end.value.value.student.state_dict().items()}


def test_steps_without_a_line_are_compiled(tmp_path: Path, modes: list[str | None], monkeypatch: pytest.MonkeyPatch):
    root, calls = write_project(tmp_path), Counter[str]()
    whole = trial.weighted_loss

    def step(*given: Any) -> torch.Tensor:
        calls["step"] += 1
        return whole(*given)

    monkeypatch.setattr(trial, "weighted_loss", step)
    expected = trained(root, of_pictures(steps=400))
    assert not modes and not calls
    found = trained(root, of_pictures(steps=400, compile=True))
    assert modes == [None]
    assert calls["step"] == STEPS - 1  # the first has a line
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4)


def test_cuda_graphs_get_steps_that_they_can_repeat(
    tmp_path: Path, modes: list[str | None], monkeypatch: pytest.MonkeyPatch
):
    """One shape, no gradient left of the step before, one mark a step, and nothing that the host waits for."""
    root, shapes, marks = write_project(tmp_path), Counter[Any](), Counter[str]()
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: marks.update(["step"]))
    whole = trial.weighted_loss

    def step(data: Any, student: Any, penalties: Any, ready: Any, progress: float, weights: torch.Tensor) -> Any:
        given = [*ready.tensors(), weights]
        assert all(isinstance(tensor, There) for tensor in given)
        shapes[tuple(tensor.shape for tensor in given)] += 1
        assert all(parameter.grad is None for parameter in student.parameters())
        assert all(parameter.grad is None for each in penalties.values() for parameter in each.transfer.parameters())
        before = MadeUpGpu.current.waits.copy()
        loss = whole(data, student, penalties, ready, progress, weights)
        loss.sum().backward(retain_graph=True)
        student.zero_grad()
        for each in penalties.values():
            each.transfer.zero_grad()
        assert not MadeUpGpu.current.waits - before
        return loss

    monkeypatch.setattr(trial, "weighted_loss", step)
    with MadeUpGpu():
        trained(root, of_pictures("cuda", steps=400, compile="cuda_graphs", average=0.9, clip=1.0))
    assert modes == ["reduce-overhead"]
    assert marks["step"] == STEPS - 1
    assert list(shapes.values()) == [STEPS - 1]


def test_cuda_graphs_are_refused_where_there_are_none():
    settings = TrainSettings(compile="cuda_graphs")
    settings.check("train", "image", {}, False)
    settings.check_device("train", "cuda")
    TrainSettings(compile=True).check_device("train", "cpu")
    for reads in ("text", "pair"):
        with pytest.raises(UserError, match=r"^train: compile: cuda_graphs: .*, and texts differ in length"):
            settings.check("train", reads, {}, False)
    for device in ("cpu", "mps"):
        with pytest.raises(UserError, match=rf"^train: compile: cuda_graphs: .* runs on {device}; set it to true$"):
            settings.check_device("train", device)


def test_a_training_without_a_gpu_refuses_them(tmp_path: Path):
    with pytest.raises(UserError, match=r"train \(for aft\): compile: cuda_graphs: needs an NVIDIA GPU"):
        trained(write_project(tmp_path), of_pictures(compile="cuda_graphs"))


def test_parts_of_a_step_have_no_cuda_graphs():
    TrainSettings(compile=True, accumulate=2)
    with pytest.raises(ValueError, match="cuda_graphs and accumulate: 2: each part would overwrite the gradients"):
        TrainSettings(compile="cuda_graphs", accumulate=2)
