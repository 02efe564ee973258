"""The engine of a Ray cluster, on clusters of this machine alone: the same stores, trials and records as locally."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.data import Dataset
from pipeline.extraction import Extraction, ExtractSettings, extract
from pipeline.machine import Machine
from pipeline.provenance import digest_files

from .lengths import Lengths

ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")

SETTINGS = ExtractSettings(dtype="float32", shard_rows=16, batch_size=8)


@pytest.fixture(autouse=True)
def no_connection() -> Iterator[None]:
    """Each test has a cluster of its own."""
    yield
    ray.shutdown()


@pytest.fixture
def orders(tmp_path: Path) -> Path:
    folder = tmp_path / "orders"
    folder.mkdir()
    return folder


def on_ray(data: Dataset, teacher: Lengths, out: Path, **options: Any) -> Extraction:
    machine = Machine(engine="ray", device="cpu", **options.pop("machine", {}))
    return extract(data, teacher, out, SETTINGS, machine, **options)


def test_a_store_is_the_same_when_a_worker_is_killed(
    project: Path, tmp_path: Path, orders: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    data, lines = Dataset.open(project / "data"), []
    extract(data, Lengths(), tmp_path / "here.zarr", SETTINGS)
    (orders / "kill").touch()
    result = on_ray(data, Lengths(orders), tmp_path / "there.zarr", machine={"workers": 2}, say=lines.append)
    assert (result.written, result.reused) == (len(data), 0)
    assert digest_files(tmp_path / "there.zarr") == digest_files(tmp_path / "here.zarr")
    assert any("was lost: its worker process has died; its work is given to another" in line for line in lines)
    assert str(os.getpid()) not in {path.name for path in orders.iterdir()}
