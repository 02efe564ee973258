"""The engine of a Ray cluster, on clusters of this machine alone: the same stores, trials and records as locally."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipeline.data import Dataset
from pipeline.engines import engine
from pipeline.engines.ray import SETTINGS as SETTINGS_OF_RAY
from pipeline.engines.ray import make_here, own_versions
from pipeline.errors import UserError
from pipeline.extraction import Extraction, ExtractSettings, extract
from pipeline.machine import Machine
from pipeline.params import Params
from pipeline.project import Project
from pipeline.provenance import digest_files
from pipeline.sweeping import sweep

from ..waiting import wait_until
from .lengths import Lengths

ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")

ROOT = Path(__file__).parent.parent.parent
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
    with pytest.raises(UserError, match=r"^worker on .*: .*: would write other features .*recipe\.scale: 1 -> 2\)"):
        on_ray(data, Lengths(), tmp_path / "other.zarr", load=partial(Lengths, scale=2))


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


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster whose head has no room for workers; tests add machines with room for one each."""
    from ray.cluster_utils import Cluster

    for name, value in SETTINGS_OF_RAY.items():
        monkeypatch.setenv(name, value)
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 80 << 20}
    made = Cluster(initialize_head=True, head_node_args=head)
    yield made
    ray.shutdown()
    made.shutdown()


def add_machine(cluster: Any) -> Any:
    return cluster.add_node(num_cpus=1, object_store_memory=80 << 20)


@pytest.mark.slow
def test_machines_are_killed_and_others_join(project: Path, tmp_path: Path, orders: Path, cluster: Any):
    data, lines = Dataset.open(project / "data"), []
    extract(data, Lengths(), tmp_path / "here.zarr", SETTINGS)
    machines = [add_machine(cluster), add_machine(cluster)]

    def done(written: int, reused: int) -> None:
        if written and machines:
            cluster.remove_node(machines.pop(), allow_graceful=False)
            add_machine(cluster)

    where = {"address": cluster.address}
    result = on_ray(data, Lengths(orders, 0.3), tmp_path / "a.zarr", machine=where, done=done, say=lines.append)
    assert result.rows == len(data)
    assert digest_files(tmp_path / "a.zarr") == digest_files(tmp_path / "here.zarr")
    assert any("was lost" in line for line in lines)
    # Two at first, and then those that joined.
    assert len(list(orders.iterdir())) > 2


@pytest.mark.slow
def test_work_waits_for_the_first_machine(project: Path, tmp_path: Path, cluster: Any):
    data = Dataset.open(project / "data")
    extract(data, Lengths(), tmp_path / "here.zarr", SETTINGS)
    where = {"address": cluster.address, "patience": 5.0}
    with ThreadPoolExecutor(1) as driver:
        running = driver.submit(on_ray, data, Lengths(), tmp_path / "a.zarr", machine=where)
        time.sleep(5)
        assert not running.done()
        add_machine(cluster)
        running.result()
    assert digest_files(tmp_path / "a.zarr") == digest_files(tmp_path / "here.zarr")


@pytest.mark.slow
def test_a_cluster_without_room_is_an_error(project: Path, tmp_path: Path, cluster: Any):
    where = {"address": cluster.address, "patience": 0.1}
    with pytest.raises(UserError, match=r"no worker could start for 0.1 minutes: each needs 1 CPU, and free are 0 CPU"):
        on_ray(Dataset.open(project / "data"), Lengths(), tmp_path / "a.zarr", machine=where)


@pytest.mark.slow
def test_a_hung_worker_is_killed_and_its_work_done_by_another(
    project: Path, tmp_path: Path, orders: Path, cluster: Any
):
    data, lines = Dataset.open(project / "data"), []
    extract(data, Lengths(), tmp_path / "here.zarr", SETTINGS)
    add_machine(cluster)
    add_machine(cluster)
    (orders / "hang").touch()
    where = {"address": cluster.address, "patience": 1.0}
    on_ray(data, Lengths(orders), tmp_path / "a.zarr", machine=where, say=lines.append)
    assert any("no sign of life for 1 minutes; its work is given to another" in line for line in lines)
    assert digest_files(tmp_path / "a.zarr") == digest_files(tmp_path / "here.zarr")


@pytest.mark.slow
def test_work_that_kills_every_worker_is_an_error(project: Path, tmp_path: Path, orders: Path, cluster: Any):
    add_machine(cluster)

    def again(line: str) -> None:
        if "was lost" in line:
            (orders / "kill").touch()

    (orders / "kill").touch()
    where = {"address": cluster.address}
    with pytest.raises(UserError, match="5 workers were lost at the same work, the last one: its worker process has"):
        on_ray(Dataset.open(project / "data"), Lengths(orders), tmp_path / "a.zarr", machine=where, say=again)
    on_ray(Dataset.open(project / "data"), Lengths(), tmp_path / "a.zarr", machine=where)


@pytest.mark.slow
def test_the_driver_is_killed_and_run_again(third: Path, cluster: Any, tmp_path: Path):
    """As typed, with a real teacher; and a worker that another driver left is no hindrance."""
    extract_ = [sys.executable, str(ROOT / "cli.py"), "extract", "third", "-S", "extract.shard_rows=16"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(extract_, cwd=third, env=environment, check=True)
    expected = digest_files(third / "features" / "third.zarr")
    shutil.rmtree(third / "features" / "third.zarr")
    add_machine(cluster)
    typed = [*extract_, "--engine", "ray", "--address", cluster.address]
    with subprocess.Popen(typed, cwd=third, env=environment, stderr=subprocess.PIPE) as driver:
        wait_until(lambda: any((third / "features" / "third.zarr" / "pooled").glob("c.*.json")), driver)
        driver.kill()
    done = subprocess.run(typed, cwd=third, env=environment, check=True, capture_output=True, text=True)
    assert "are there" in done.stderr
    assert "ray" not in done.stdout.lower()
    assert digest_files(third / "features" / "third.zarr") == expected


@pytest.mark.slow
def test_a_sweep_on_a_cluster_has_the_same_trials_and_record(
    project: Path, params: Params, cluster: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(project)
    params.values["sweep"] = {"sizes": {"over": {"student": "bag", "train.steps": [5, 10]}, "seeds": [0, 1]}}
    sweep("sizes", params, Project(project))
    record = (project / "sweeps" / "sizes.json").read_bytes()
    trials = (project / "trials").rename(project / "usual")
    add_machine(cluster)
    add_machine(cluster)
    params.values["machine"] |= {"engine": "ray", "address": cluster.address, "workers": None}
    assert sweep("sizes", params, Project(project)).trained == 4
    assert (project / "sweeps" / "sizes.json").read_bytes() == record
    for trial in trials.iterdir():
        for file in trial.glob("*.safetensors"):
            assert (project / "trials" / trial.name / file.name).read_bytes() == file.read_bytes()
    assert {path.name for path in trials.iterdir()} == {path.name for path in (project / "trials").iterdir()}
