"""`aft extract NAME --dry-run`: figures that fit together, and nothing that is kept."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pipeline import estimate as module
from pipeline.data import Dataset
from pipeline.params import Params
from pipeline.teachers import transformers


def files(folder: Path) -> dict[Path, int]:
    """All files below a folder, and when they changed."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_dry_run_measures_and_keeps_nothing(third: Path, aft: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "WRITTEN", 1 << 20)
    before = files(third)
    done = aft("extract", "third", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    assert files(third) == before
    found = json.loads(done.stdout)
    assert (found["rows"], found["batch_size"], found["device"], found["row_bytes"]) == (240, 16, "cpu", {"pooled": 64})
    assert found["bytes"] == 240 * 64
    assert min(found["rows_per_second"], found["bare"], found["reading"], found["writing"]) > 0
    assert found["share"] == pytest.approx(found["rows_per_second"] / found["bare"])
    assert found["share"] <= 1
    assert found["seconds"] == pytest.approx(240 / found["rows_per_second"])
    # The run that reads it with the fewest rows: 30 steps of 32 rows, labelled and unlabelled together.
    assert (found["run"], found["rows_of_training"]) == ("third", 960)
    online = 960 / found["bare"]
    assert found["students"] == max(1, math.ceil(found["seconds"] / online))


def test_it_says_so_in_five_lines(third: Path, aft: Callable[..., Any]):
    lines = aft("extract", "third", "--dry-run").stdout.splitlines()
    assert lines[0] == "third: 240 rows to compute, float32 on cpu, by 16"
    assert [line.partition(":")[0] for line in lines[1:]] == ["speed", "time", "size", "students"]
    assert "pays from " in lines[4]


@pytest.mark.parametrize(
    ("reading", "bare", "whole", "writing", "named"),
    [
        (900.0, 1000.0, 950.0, None, "the model"),
        (5000.0, 1000.0, 950.0, 900.0, "the disk"),
        (500.0, 1000.0, 480.0, 9000.0, "reading rows"),
        (8000.0, 2300.0, 1780.0, 9000.0, "reading rows and the model on the same processors"),
    ],
)
def test_the_bottleneck_is_what_is_slowest(
    reading: float, bare: float, whole: float, writing: float | None, named: str
):
    assert module._Rates(32, reading, bare, whole).bottleneck(writing) == named


def test_a_batch_that_does_not_fit_is_measured_in_halves(
    third: Path, aft: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    plain = module._forward

    def small(teacher: Any, batch: Any) -> None:
        if len(batch[0]) > 5:
            raise MemoryError
        plain(teacher, batch)

    monkeypatch.setattr(module, "_forward", small)
    assert json.loads(aft("extract", "third", "--dry-run", "--json").stdout)["batch_size"] == 4


def test_a_row_that_does_not_fit_alone_is_refused(
    third: Path, aft: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    def full(teacher: Any, batch: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(module, "_forward", full)
    done = aft("extract", "third", "--dry-run")
    assert done.returncode == 2
    assert "a row does not fit the memory even alone; give the teacher a smaller size" in done.stderr


@pytest.mark.parametrize("full", [torch.OutOfMemoryError, MemoryError])
def test_a_teacher_that_does_not_fit_is_refused_wherever_it_is_loaded(
    third: Path, aft: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, full: type[Exception]
):
    def load(*_: Any) -> None:
        raise full

    monkeypatch.setattr(transformers, "load", load)
    line = "teachers.third: does not fit the memory of cpu; choose a smaller model, `precision: bfloat16` in `extract`"
    for command in (["extract", "third"], ["extract", "third", "--dry-run"]):
        done = aft(*command)
        assert done.returncode == 2
        assert f"error: params.yaml: {line}" in done.stderr
    assert line in aft("doctor").stdout


def test_what_is_there_already_costs_nothing(third: Path, aft: Callable[..., Any]):
    params = yaml.safe_load((third / "params.yaml").read_text())
    params["teachers"]["wise"] = params["teachers"]["third"]
    (third / "params.yaml").write_text(yaml.safe_dump(params))
    found = json.loads(aft("extract", "wise", "--dry-run", "--json").stdout)
    assert (found["rows"], found["bytes"], found["seconds"], found["students"]) == (0, 0, 0.0, 1)


def test_the_model_alone_is_not_said_to_be_slower_than_with_reading(
    third: Path, aft: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    """As a busy machine may have it."""
    monkeypatch.setattr(module, "_timed", lambda action: 2.0 if getattr(action, "__name__", "") == "bare" else 1.0)
    found = json.loads(aft("extract", "third", "--dry-run", "--json").stdout)
    assert found["bare"] == found["rows_per_second"] and found["share"] == 1


@pytest.mark.parametrize(
    ("train", "rows"),
    [
        ({"epochs": 4.0}, 4 * 32),  # 30 labelled rows are one batch
        ({}, 200 * 32),  # the fewest of `steps: auto`
        ({"steps": 7}, 7 * 32),
        ({"steps": 7, "unlabelled": False}, 7 * 16),
    ],
)
def test_a_training_is_as_long_as_its_settings_say(project: Path, params: Params, train: dict[str, Any], rows: int):
    del params.values["train"]["steps"]
    params.values["runs"] = {"aft": params.values["runs"]["aft"] | {"train": train}}
    assert module._training("wise", params, Dataset.open(project / "data")) == ("aft", rows)
    params.values["runs"], params.values["train"] = {}, params.values["train"] | train
    assert module._training("wise", params, Dataset.open(project / "data")) == (None, rows)
