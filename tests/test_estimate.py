"""`aft extract NAME --dry-run`: figures that fit together, and nothing that is kept."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import estimate as module
from pipeline.records import LogRecord
from pipeline.store import FeatureStore

from .conftest import WORDS, write_encoder


@pytest.fixture
def third(project: Path, tmp_path: Path) -> Path:
    """A project with a teacher that has no features yet."""
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["teachers"]["third"] = {"family": "transformers", "model": str(write_encoder(tmp_path / "m", WORDS))}
    params["runs"]["third"] = {"student": "bag", "teachers": ["third"], "methods": {"aft": {"weight": 1.0}}}
    params["runs"]["long"] = params["runs"]["third"] | {"train": {"steps": 3000}}
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    return project


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


def test_a_batch_that_does_not_fit_is_measured_in_halves(
    third: Path, aft: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    plain = module._forward

    def small(teacher: Any) -> Callable[[Any], None]:
        def forward(batch: Any) -> None:
            if len(batch[0]) > 5:
                raise MemoryError
            plain(teacher)(batch)

        return forward

    monkeypatch.setattr(module, "_forward", small)
    assert json.loads(aft("extract", "third", "--dry-run", "--json").stdout)["batch_size"] == 4


def test_what_is_there_already_costs_nothing(third: Path, aft: Callable[..., Any]):
    params = yaml.safe_load((third / "params.yaml").read_text())
    params["teachers"]["wise"] = params["teachers"]["third"]
    (third / "params.yaml").write_text(yaml.safe_dump(params))
    found = json.loads(aft("extract", "wise", "--dry-run", "--json").stdout)
    assert (found["rows"], found["bytes"], found["seconds"], found["students"]) == (0, 0, 0.0, 1)


def test_a_plan_counts_on_from_the_speed_of_the_store_that_is_there(project: Path, aft: Callable[..., Any]):
    LogRecord(seconds=10.0, rows=5000, device="NVIDIA H100").write(project / "logs" / "extract" / "wise.json")
    row_bytes = {head: kept.row_bytes for head, kept in FeatureStore.open(project / "features/wise.zarr").heads.items()}
    done = aft("plan", "--teacher", "wise", "--rows", "1e9", "--gpus", "64", "--price", "2.5", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["rows"], found["rows_per_second"], found["row_bytes"]) == (10**9, 500.0, row_bytes)
    assert found["seconds"] == pytest.approx(1e9 / 500 / 64)
    assert found["gpu_hours"] == pytest.approx(1e9 / 500 / 3600)
    assert found["cost"] == pytest.approx(1e9 / 500 / 3600 * 2.5)
    assert found["bytes"] == 10**9 * sum(row_bytes.values())
    assert (found["parts"], found["part_rows"]) == (10, 10**8)
    # The store that a part would get: see `default_shard_rows`.
    shards = -(-(10**8) // found["shard_rows"])
    assert found["shard_rows"] * max(row_bytes.values()) <= 256 << 20
    assert (found["shards"], found["files"]) == (10 * shards, 20 * shards * len(row_bytes))
    assert "5,000 rows on NVIDIA H100" in found["measured"]


def test_the_last_part_of_a_plan_may_have_fewer_rows(project: Path, aft: Callable[..., Any]):
    LogRecord(seconds=10.0, rows=5000, device="cpu").write(project / "logs" / "extract" / "wise.json")
    arguments = ("plan", "--teacher", "wise", "--rows", "100000001", "-S", "extract.shard_rows=25000000", "--json")
    found = json.loads(aft(*arguments).stdout)
    # Two parts of 50,000,001 and 50,000,000 rows.
    assert (found["parts"], found["part_rows"], found["shards"]) == (2, 50_000_001, 3 + 2)


def test_without_a_store_a_plan_measures_as_the_dry_run_does(third: Path, aft: Callable[..., Any]):
    done = aft("plan", "--teacher", "third", "--rows", "1000", "--gpus", "500")
    lines = done.stdout.splitlines()
    assert lines[0] == "third: 1,000 rows, by 500 GPUs"
    assert "measured now on cpu" in lines[1]
    assert [line.partition(":")[0] for line in lines[1:]] == ["speed", "time", "size", "layout", "memory", "warning"]
