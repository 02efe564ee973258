"""Object storage: the contract, whole stores, and the faults that a network and its services have."""

import json
import os
import pickle
import random
import shutil
from collections.abc import Callable, Iterator
from itertools import count, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("obstore")
pytest.importorskip("moto")

from pipeline import objects
from pipeline.data import Dataset
from pipeline.errors import UserError
from pipeline.extraction import ExtractSettings
from pipeline.extraction.worker import ShardWorker
from pipeline.store import FeatureStore
from pipeline.store.backends import backend_at, object
from pipeline.store.backends.object import ObjectBackend
from pipeline.store.copying import copy_store, pull
from pipeline.store.format import Marker
from pipeline.store.inspection import leftovers, list_stores
from pipeline.store.remote import Pointer, stand_for
from pipeline.store.verification import verify
from tests.conftest import WORDS, write_encoder
from tests.engines.lengths import Lengths
from tests.store.backends.contract import BackendContract
from tests.store.backends.s3 import BUCKET, Service
from tests.store.backends.stores import LeaseContract, StoreContract, contents
from tests.store.conftest import Maker, features_of, tree

NUMBERS = count()


class TestInMemory(BackendContract):
    @pytest.fixture
    def backend(self) -> ObjectBackend:
        from obstore.store import MemoryStore

        return ObjectBackend(MemoryStore(), "s3://bucket/store.zarr", "store.zarr/")


class TestService(BackendContract, StoreContract, LeaseContract):
    @pytest.fixture
    def backend(self, url: str) -> ObjectBackend:
        backend = object.open(url)
        backend.prepare()
        return backend


@pytest.fixture
def url(service: Service) -> str:
    """A new place for a store."""
    return f"s3://{BUCKET}/project {next(NUMBERS)}/store.zarr"


def test_opening_a_store_takes_few_requests_one_after_another(make: Maker, service: Service, url: str, ids: list[str]):
    make(ids, path=url, shard_rows=2)
    service.requests.clear()
    FeatureStore.open(url)
    listings = [path for method, path in service.requests if path == f"/{BUCKET}"]
    heads = [path for method, path in service.requests if method == "HEAD"]
    markers = [path for _, path in service.requests if path.endswith(".json")]
    assert len(listings) == 1 and not heads and len(markers) == len(set(markers))


@pytest.mark.parametrize("fault", ["slow", "500", "503", "cut"])
def test_a_service_that_fails_now_and_then_does_no_harm(
    make: Maker, service: Service, url: str, ids: list[str], fault: str
):
    drawn = random.Random(fault)

    def now_and_then(request: dict[str, Any]) -> str | None:
        return fault if drawn.random() < 0.15 else None

    with service.with_rule(now_and_then):
        store = make(ids, path=url)
        np.testing.assert_array_equal(store[:], features_of(ids, (6,)))
    assert contents(url) == tree(make(ids) and make.path)


READS: dict[str, Callable[[ObjectBackend], Any]] = {
    "read": lambda backend: backend.read("a"),
    "part": lambda backend: backend.part("a", 0, 1000),
    "blocks": lambda backend: b"".join(backend.blocks("a")),
    "find": lambda backend: backend.find("a"),
}
LISTINGS: dict[str, Callable[[ObjectBackend], Any]] = {
    "sizes": lambda backend: backend.sizes(),
    "ages": lambda backend: backend.ages("").keys(),
}


@pytest.mark.parametrize("read", [*READS.values(), *LISTINGS.values()], ids=[*READS, *LISTINGS])
def test_an_answer_that_breaks_off_is_asked_for_again(
    service: Service, url: str, read: Callable[[ObjectBackend], Any], monkeypatch: pytest.MonkeyPatch
):
    backend = object.open(url)
    backend.put("a", [bytes(range(256)) * 4])
    whole = read(backend)
    broken: Iterator[str] = iter(["half", "half"])

    def once(request: dict[str, Any]) -> str | None:
        return next(broken, None) if request["REQUEST_METHOD"] == "GET" else None

    with service.with_rule(once):
        found = read(backend)
    assert next(broken, "all were") == "all were"
    assert getattr(found, "content", found) == getattr(whole, "content", whole)
    monkeypatch.setattr(objects, "PATIENCE", 0.1)
    broken = repeat("half")
    with service.with_rule(once), pytest.raises(UserError, match=r"store\.zarr(/a)?: .*run it again") as error:
        read(backend)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["read", "part", "blocks"])
@pytest.mark.parametrize("change", ["replaced", "deleted"])
def test_an_object_that_is_replaced_after_it_was_listed_is_refused(url: str, name: str, change: str):
    backend = object.open(url)
    backend.put("a", [b"1" * 1000])
    snapshot = backend.snapshot()
    assert READS[name](snapshot) == b"1" * 1000
    backend.put("a", [b"2" * 1000]) if change == "replaced" else backend.delete("a")
    with pytest.raises(
        (UserError, FileNotFoundError), match=r"was replaced or deleted while it was read|a not found|No"
    ):
        READS[name](snapshot)
    if change == "replaced":
        assert READS[name](backend.snapshot()) == b"2" * 1000


def test_an_object_that_is_replaced_between_two_blocks_is_refused(url: str, monkeypatch: pytest.MonkeyPatch):
    backend = object.open(url)
    backend.put("a", [b"1" * 1000])
    monkeypatch.setattr(object, "BLOCK", 100)
    blocks = backend.blocks("a")
    assert next(blocks) == b"1" * 100
    monkeypatch.undo()
    backend.put("a", [b"2" * 1000])
    with pytest.raises(UserError, match="was replaced or deleted while it was read; run it again"):
        list(blocks)


def test_a_service_that_ignores_conditions_is_refused(make: Maker, service: Service, url: str, ids: list[str]):
    def ignore(request: dict[str, Any]) -> None:
        request.pop("HTTP_IF_NONE_MATCH", None)
        request.pop("HTTP_IF_MATCH", None)

    with service.with_rule(ignore), pytest.raises(UserError, match="ignores the conditions of a write"):
        make(ids, path=url)
    assert contents(url) == {}


def test_a_service_that_is_gone_is_said_in_one_line(
    make: Maker, service: Service, url: str, ids: list[str], monkeypatch: pytest.MonkeyPatch
):
    make(ids, path=url, stop_after=3)
    monkeypatch.setattr(objects, "PATIENCE", 0.5)
    with service.with_rule(lambda request: "503"), pytest.raises(UserError) as found:
        make(ids, path=url)
    assert "\n" not in str(found.value) and str(found.value).startswith(url) and "answers 503" in str(found.value)
    make(ids, path=url)
    assert make.computed == ids[24:]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "check the URL and the network"),
        ({"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, "no credentials; set AWS_ACCESS_KEY_ID"),
    ],
)
def test_what_keeps_one_from_a_service_is_said(
    url: str, change: dict[str, str | None], line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(objects, "PATIENCE", 0.5)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    # As on a machine that is not Amazon's: the address where it would give a role does not answer.
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1/169.254.169.254")
    for name, value in change.items():
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    for action in (lambda: FeatureStore.open(url), lambda: object.open(url).prepare()):
        with pytest.raises(UserError, match=line) as found:
            action()
        assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("s3://nowhere/store.zarr", "there is no bucket nowhere; create it, or correct the URL"),
        ("s3://key:secret@bucket/store.zarr", r"^s3://bucket: a URL with credentials would end up in logs"),
        ("s3://bucket", "write s3://BUCKET/PREFIX"),
        ("s3:///store.zarr", "write s3://BUCKET/PREFIX"),
        ("az://container/store.zarr", "no credentials; set AZURE_STORAGE_ACCOUNT_NAME"),
    ],
)
def test_a_place_that_cannot_be_is_refused(service: Service, place: str, line: str):
    for action in (lambda: FeatureStore.open(place), lambda: object.open(place).prepare()):
        with pytest.raises(UserError, match=line) as found:
            action()
        assert "secret" not in str(found.value) and "\n" not in str(found.value)


@pytest.mark.parametrize("status", ["401", "403"])
@pytest.mark.parametrize("method", ["PUT", "GET"])
def test_access_that_is_denied_is_said(
    make: Maker, service: Service, url: str, ids: list[str], method: str, status: str
):
    line = rf"access is denied \(the service answers {status}.* to a {method}"
    denying = service.with_rule(lambda request: status if request["REQUEST_METHOD"] == method else None)
    with denying, pytest.raises(UserError, match=line) as found:
        make(ids, path=url)
    assert "\n" not in str(found.value)


def test_without_the_package_its_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    import sys

    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(UserError, match=r"pip install 'aft-pipeline\[object\]'"):
        backend_at("s3://bucket/store.zarr")


def test_a_claim_that_was_written_by_a_request_that_seemed_to_fail_is_held(service: Service, url: str):
    backend = object.open(url)
    backend.prepare()
    seen: list[str] = []

    class Twice(ObjectBackend):
        def put_if(self, file: str, content: bytes, version: Any) -> Any:
            seen.append(file)
            super().put_if(file, content, version)
            return super().put_if(file, content, version)  # as a client does that got no answer

    twice = Twice(backend._store, backend.name, backend._below, backend._clock)
    claim = twice.claim("a")
    assert claim.acquire() and seen
    claim.confirm()
    assert not backend.claim("a").acquire()


def test_markers_say_which_files_belong_to_them(make: Maker, url: str, ids: list[str]):
    make(ids, path=url)
    mark = Marker.read(object.open(url).read("pooled/c.0.json") or b"")
    assert (mark.start, mark.stop) == (0, 8)
    assert json.loads(object.open(url).read("zarr.json") or b"")["zarr_format"] == 3


def test_a_copy_of_damage_or_over_another_store_is_refused(make: Maker, url: str, ids: list[str], tmp_path: Path):
    make(ids)
    make(ids, path=url, recipe={"model": "another"})
    before = contents(url)
    with pytest.raises(UserError, match="another store is there"):
        copy_store(make.path, url)
    assert {file: text for file, text in contents(url).items() if not file.startswith("locks/")} == before
    data = bytearray((make.path / "pooled" / "c.2.0").read_bytes())
    data[7] ^= 1
    (make.path / "pooled" / "c.2.0").write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"c\.2\.0 \(rows 16-23\): damaged"):
        copy_store(make.path, tmp_path / "copy")
    assert not (tmp_path / "copy" / "zarr.json").exists()
    with pytest.raises(UserError, match=r"can only be read there"):
        copy_store(url, "https://example.org/store.zarr")


def test_what_was_pulled_is_read_from_the_cache(make: Maker, service: Service, url: str, ids: list[str]):
    make(ids, path=url)
    assert FeatureStore.open(url).reader().mode == "resident"
    assert "raw copy in" in str(pull(url))
    service.requests.clear()
    reader = FeatureStore.open(url).reader()
    assert reader.mode == "cache"
    np.testing.assert_array_equal(reader(range(50)), features_of(ids, (6,)))
    assert not [path for _, path in service.requests if path.endswith(".0") and "/pooled/" in path]


def test_stores_are_listed_and_leftovers_deleted_below_a_url(make: Maker, url: str, ids: list[str], tmp_path: Path):
    place = url.rpartition("/")[0]
    make(ids, path=url)
    assert make(ids, path=url, recipe={"model": "another"}, stop_after=2) is None
    make(ids, path=f"{place}/other.zarr")
    listed = list_stores(place)
    assert [store["path"] for store in listed.stores] == [f"{place}/other.zarr", url]
    assert [store["state"].partition(",")[0] for store in listed.stores] == ["complete", "not complete"]
    stand_for(tmp_path / "features" / "x.zarr", url)
    assert not leftovers(tmp_path / "features", tmp_path / "cache", delete=True).found, "only where it was asked to"
    assert f"{url}/replaced/1" in leftovers(place, tmp_path / "cache").found and object.open(url).files("replaced")
    leftovers(place, tmp_path / "cache", delete=True)
    assert not object.open(url).files("replaced") and not object.open(url).files("locks")
    make(ids, path=url, recipe={"model": "another"})
    assert make.computed == ids[16:]


def test_a_folder_stands_for_a_store(make: Maker, url: str, ids: list[str], tmp_path: Path):
    folder = tmp_path / "features" / "x.zarr"
    stand_for(folder, url)
    store = make(ids, path=folder)
    assert store.path == url and tree(folder).keys() == {"remote.json"}
    Pointer(url, store.content_digest).write(folder)
    assert FeatureStore.open(folder).content_digest == store.content_digest
    assert verify(folder).sound
    assert list_stores(tmp_path / "features").stores[0]["state"] == "complete"
    make(ids[:-1], path=url)
    with pytest.raises(UserError, match=f"x.zarr: {url} does not hold the features that this project extracted"):
        FeatureStore.open(folder)
    stand_for(folder, None)
    with pytest.raises(UserError, match="no feature store there"):
        FeatureStore.open(folder)
    make(ids, path=folder)
    with pytest.raises(UserError, match=r"x.zarr: holds a store, and `features` in params.yaml says s3://"):
        stand_for(folder, url)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"url": "file:///etc", "content": null}', '{"url": 3, "content": null}',
             '{"url": "s3://b/c", "content": 3}', "[" * 5000],
)  # fmt: skip
def test_a_damaged_pointer_is_said(text: str, tmp_path: Path):
    (tmp_path / "remote.json").write_text(text)
    with pytest.raises(UserError, match=r"remote\.json: damaged or changed by hand; delete it"):
        FeatureStore.open(tmp_path)


def test_a_project_keeps_its_features_there(
    aft: Callable[..., Any], project: Path, service: Service, url: str, monkeypatch: pytest.MonkeyPatch
):
    data, place = Dataset.open(project / "data"), url.rpartition("/")[0]
    np.save(project / "raw" / "known.npy", features_of(list(data.ids), (6,)))
    (project / "raw" / "ids.txt").write_text("\n".join(data.ids) + "\n")
    params = yaml.safe_load((project / "params.yaml").read_text())
    known = {"family": "features", "path": "raw/known.npy", "ids": "raw/ids.txt"}
    params |= {"features": place, "teachers": params["teachers"] | {"known": known}}
    params["runs"] = {"kd": {"student": "bag", "teachers": ["known"], "methods": {"kd": {"weight": 1.0}}}}
    (project / "params.yaml").write_text(yaml.safe_dump(params))

    assert aft("extract", "known").returncode == 0
    assert tree(project / "features" / "known.zarr").keys() == {"remote.json"}
    assert object.open(f"{place}/known.zarr").read("zarr.json")
    secrets = os.environ["AWS_SECRET_ACCESS_KEY"]
    for typed in ("probe known", "join", "train kd -S train.steps=3 -S train.seeds=[0]", "features ls",
                  "features verify features/known.zarr", "features info features/known.zarr"):  # fmt: skip
        done = aft(*typed.split())
        assert done.returncode == 0, done.stderr
        assert f"{secrets}" not in done.stdout + done.stderr
    assert not [path for path in project.rglob("*") if path.is_file() and secrets.encode() in path.read_bytes()]
    known_there = aft("extract", "known")
    assert known_there.returncode == 0 and ": complete" in known_there.stdout

    del params["features"]
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    assert aft("extract", "known").returncode == 0
    assert (project / "features" / "known.zarr" / "zarr.json").is_file()
    assert not (project / "features" / "known.zarr" / "remote.json").exists()


def test_doctor_and_a_dry_run_look_at_the_place_of_the_features(
    aft: Callable[..., Any], project: Path, service: Service, url: str, tmp_path: Path
):
    place, params = url.rpartition("/")[0], yaml.safe_load((project / "params.yaml").read_text())
    wise = params["teachers"]["wise"] | {"model": str(write_encoder(tmp_path / "m", WORDS))}
    params["teachers"] = {"wise": wise}
    params["runs"].pop("both")

    def write(features: str) -> None:
        (project / "params.yaml").write_text(yaml.safe_dump(params | {"features": features}))

    write(place)
    found = json.loads(aft("extract", "wise", "--dry-run", "--json").stdout)
    assert (found["url"], found["free"], found["writing"]) == (place, None, None)
    lines = aft("extract", "wise", "--dry-run").stdout
    assert "writing to object storage is not measured" in lines and f"the store goes to {place}" in lines
    lines = aft("doctor").stdout
    assert f"ok      object storage: {place} can be written; features to extract: none\n" in lines
    assert object.open(place).files() == []
    write("s3://nowhere/features")
    done = aft("doctor")
    assert done.returncode == 1
    assert "problem object storage: s3://nowhere/features: there is no bucket nowhere; create it" in done.stdout


def test_a_worker_on_a_machine_with_its_own_copy_of_the_project_writes_there(
    project: Path, tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(project, tmp_path / "elsewhere")
    monkeypatch.chdir(project)
    stand_for(Path("features/own.zarr"), url)
    settings = ExtractSettings(dtype="float32", shard_rows=64)
    with ShardWorker(Dataset.open("data"), Lengths(), Path("features/own.zarr"), settings) as own:
        pickled = pickle.dumps(own)
        own.writer.rest()
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert sum(done.rows for done in pickle.loads(pickled)(range(4))) == 240
        own.resume()
        assert own.rows_missing() == 0
    assert not Path("features/own.zarr").exists()
    assert len(FeatureStore.open(url)) == 240
