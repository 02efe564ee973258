"""`aft plan`: its figures by hand, from a speed that is known or measured."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.records import LogRecord
from pipeline.store import FeatureStore


def test_a_plan_counts_on_from_the_speed_of_the_store_that_is_there(project: Path, aft: Callable[..., Any]):
    LogRecord(seconds=10.0, rows=5000, device="NVIDIA H100").write(project / "logs" / "wise.extract.json")
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
    LogRecord(seconds=10.0, rows=5000, device="cpu").write(project / "logs" / "wise.extract.json")
    arguments = ("plan", "--teacher", "wise", "--rows", "100000001", "-S", "extract.shard_rows=25000000", "--json")
    found = json.loads(aft(*arguments).stdout)
    # Two parts of 50,000,001 and 50,000,000 rows.
    assert (found["parts"], found["part_rows"], found["shards"]) == (2, 50_000_001, 3 + 2)


def test_the_speed_of_a_cluster_is_not_that_of_one_gpu(third: Path, aft: Callable[..., Any]):
    assert aft("extract", "third").returncode == 0
    arguments = ("plan", "--teacher", "third", "--rows", "1000")
    assert "240 rows on cpu" in aft(*arguments).stdout
    log = third / "logs" / "third.extract.json"
    LogRecord.read(log).model_copy(update={"device": "ray"}).write(log)
    assert "measured now on cpu" in aft(*arguments).stdout


def test_without_a_store_a_plan_measures_as_the_dry_run_does(third: Path, aft: Callable[..., Any]):
    done = aft("plan", "--teacher", "third", "--rows", "1000", "--gpus", "500")
    lines = done.stdout.splitlines()
    assert lines[0] == "third: 1,000 rows, by 500 GPUs"
    assert "measured now on cpu" in lines[1]
    assert [line.partition(":")[0] for line in lines[1:]] == ["speed", "time", "size", "layout", "memory", "warning"]
