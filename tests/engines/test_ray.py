"""The engine of a Ray cluster, on clusters of this machine alone: the same stores, trials and records as locally."""

import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.data import Dataset
from pipeline.engines import engine
from pipeline.engines.ray import make_here, own_versions
from pipeline.errors import UserError
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


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"the package ray is not installed; run pip install 'aft-pipeline\[ray\]'$"):
        list(engine("ray")(list, [1]))


def test_a_worker_with_another_version_is_refused(tmp_path: Path):
    driver = own_versions() | {"torch": "2.0.0"}
    with pytest.raises(UserError, match=r"has torch 2\.\S+ and not 2\.0\.0; install the same versions on all machines"):
        make_here(str(tmp_path), b"", driver, 1)
    code = own_versions()["aft-pipeline"]
    driver = own_versions() | {"aft-pipeline": code.replace(code[-9:-1], "00000000")}
    with pytest.raises(UserError, match=r"has aft-pipeline .* and not .*\(00000000\); install the same"):
        make_here(str(tmp_path), b"", driver, 1)


def test_a_machine_without_the_project_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"nowhere: the project is not there; put it on a file system"):
        make_here(str(tmp_path / "nowhere"), b"", own_versions(), 1)


def test_what_listens_at_an_address_may_be_no_cluster(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipeline.engines.ray.CONNECT", 1.0)
    monkeypatch.setattr(ray, "init", lambda *arguments, **options: threading.Event().wait(5))
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(UserError, match=f"machine.address: {address}: no Ray cluster answers there within 1 s"):
            list(engine("ray")(list, [1], None, Machine(engine="ray", address=address)))
