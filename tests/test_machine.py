"""Where the work is done."""

import pytest
import torch

from pipeline.errors import UserError
from pipeline.machine import Machine, cores
from pipeline.params import parse


def test_auto_takes_what_is_there():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert Machine().torch_device().type == expected
    assert Machine(device="cpu").torch_device() == torch.device("cpu")
    assert Machine(device="cpu").device_name() == "cpu"
    assert cores() >= 1


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cuda:-1", "CPU", ""])
def test_what_is_not_a_device_is_refused(device: str):
    with pytest.raises(UserError, match=r"machine\.device: should be auto, cpu, cuda, cuda:N"):
        parse(Machine, {"device": device}, "machine")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_gpu_that_is_not_there_is_refused(device: str):
    with pytest.raises(UserError, match=f"machine.device: {device}, but torch finds no GPU here"):
        Machine(device=device).torch_device()


def test_one_gpu_of_several_is_taken_by_its_number(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert Machine(device="cuda:1").torch_device() == torch.device("cuda", 1)
    with pytest.raises(UserError, match="cuda:2, but torch finds 2 GPUs here"):
        Machine(device="cuda:2").torch_device()


def test_an_apple_gpu_is_taken_where_there_is_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match="mps, but torch finds no Apple GPU here"):
        Machine(device="mps").torch_device()
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert Machine(device="mps").torch_device().type == "mps"


def test_each_of_several_processes_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [Machine().of_rank(rank).device for rank in range(5)] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1", "cuda:0"]
    assert Machine(device="cuda").of_rank(1) == Machine(device="cuda:1")
    assert Machine(workers=3).of_rank(1) == Machine(device="cuda:1", workers=3), "the rest stays"
    assert Machine(device="cuda:1").of_rank(0).device == "cuda:1", "one that is named is taken"
    assert Machine(device="cpu").of_rank(1).device == "cpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert Machine().of_rank(3) == Machine(), "as where SLURM shows each process its own"
