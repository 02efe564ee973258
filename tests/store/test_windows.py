"""Rows of a store on object storage without a copy of it: fetched by windows, or by themselves, and nothing is kept."""

import random
import shutil
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("obstore")
pytest.importorskip("moto")

from pipeline import training
from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.project import Project
from pipeline.store import FeatureStore, Head, choice, windows
from pipeline.store.backends import object
from pipeline.store.copying import copy_store
from pipeline.store.remote import Pointer
from tests.store.backends.s3 import BUCKET, Service
from tests.store.conftest import Maker

NUMBERS = count()
HEADS = {
    "half": Head((6,)), "single": Head((3, 2), "float32"), "brain": Head((5,), "bfloat16"), "bytes": Head((8,), "int8"),
    "packed": Head((6,), "float32", "zstd"),
}  # fmt: skip


@pytest.fixture
def url(service: Service) -> str:
    return f"s3://{BUCKET}/windows/{next(NUMBERS)}.zarr"


@pytest.mark.parametrize("head", ["half", "single", "brain", "bytes"])
def test_rows_are_those_of_a_local_store_in_any_order(
    make: Maker, service: Service, url: str, head: str, ids: list[str]
):
    here = make(ids, heads=HEADS)
    assert here is not None
    copy_store(make.path, url)
    reader = FeatureStore.open(url).reader(head, mode="window")
    rows = np.random.default_rng(0).integers(0, 50, 200)
    drawn = random.Random(0)

    def now_and_then(request: dict[str, Any]) -> str | None:
        return drawn.choice(["500", "cut", "half"]) if drawn.random() < 0.1 else None

    with service.with_rule(now_and_then):
        np.testing.assert_array_equal(reader(rows), here.reader(head)(rows))
        out = np.empty((200, *reader.shape), reader.dtype)
        assert reader(rows, out=out) is out
    np.testing.assert_array_equal(out, here.reader(head)(rows))
    assert reader([]).shape == (0, *reader.shape)
    reader.verified()


def numbers(names: Any, shape: tuple[int, ...]) -> np.ndarray:
    return np.array([np.full(shape, float(name)) for name in names], np.float32)


class Seen:
    """The ranges that are asked for.

    Attributes:
        sizes: bytes of each.
    """

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, request: dict[str, Any]) -> None:
        kind, _, span = request.get("HTTP_RANGE", "").partition("=")
        if kind == "bytes":
            first, last = map(int, span.split("-"))
            self.sizes.append(last - first + 1)


def test_an_epoch_fetches_each_block_once_and_holds_two_windows(
    make: Maker, service: Service, url: str, monkeypatch: pytest.MonkeyPatch
):
    """4,000 rows of 64 bytes in 16 blocks of 250, four of them in a window."""
    monkeypatch.setattr("pipeline.store.order.BLOCK_BYTES", 250 * 64)
    names = [str(number) for number in range(4000)]
    make(names, path=url, heads={"pooled": Head((16,), "float32")}, shard_rows=1000, features=numbers)
    local = make(names, heads={"pooled": Head((16,), "float32")}, shard_rows=1000, features=numbers)
    assert local is not None
    reader, seen = FeatureStore.open(url).reader(mode="window", window=4 * 250 * 64), Seen()
    like = local.reader(mode="window", window=4 * 250 * 64)
    batches = []
    with service.with_rule(seen):
        for batch in reader.batches(125, seed=3):
            np.testing.assert_array_equal(reader(batch)[:, 5], batch)
            held = [rows.nbytes for window in reader._arrays["pooled"]._kept for rows in window.values()]
            assert sum(held) <= 2 * 4 * 250 * 64
            batches.append(batch)
    assert seen.sizes == [250 * 64] * 16, "16 requests for all rows"
    np.testing.assert_array_equal(np.stack(batches), np.stack(list(like.batches(125, seed=3))))


def test_a_row_is_fetched_without_its_shard_and_near_ones_by_one_request(
    make: Maker, service: Service, url: str, monkeypatch: pytest.MonkeyPatch
):
    names = [str(number) for number in range(4000)]
    make(names, path=url, heads={"pooled": Head((16,), "float32")}, shard_rows=1000, features=numbers)
    monkeypatch.setattr(windows, "GAP", 640)
    reader, seen = FeatureStore.open(url).reader(mode="window"), Seen()
    with service.with_rule(seen):
        np.testing.assert_array_equal(reader([3999, 7, 0, 7, 500])[:, 0], [3999, 7, 0, 7, 500])
    assert sorted(seen.sizes) == [64, 64, 8 * 64]
    assert not reader._arrays["pooled"]._kept


def test_a_shard_that_is_replaced_is_not_mixed_with_the_first(make: Maker, service: Service, url: str, ids: list[str]):
    make(ids, path=url)
    reader = FeatureStore.open(url).reader(mode="window")
    before = object.open(url).read("pooled/c.1.0") or b""
    reader([8])
    object.open(url).put("pooled/c.1.0", [before[::-1]])
    for action in (lambda: reader([9]), reader.verified):
        with pytest.raises(UserError, match=r"^s3://.*/pooled/c\.1\.0: was replaced or deleted while it was read"):
            action()


def test_damage_is_found_before_results_are_kept(make: Maker, service: Service, url: str, ids: list[str]):
    make(ids, path=url)
    data = bytearray(object.open(url).read("pooled/c.1.0") or b"")
    data[5] ^= 1
    object.open(url).put("pooled/c.1.0", [bytes(data)])
    reader = FeatureStore.open(url).reader(mode="window")
    reader.verify_in_background()
    with pytest.raises(UserError, match=r"^s3://.*/pooled/c\.1\.0: damaged; "):
        reader.verified()


def test_it_is_chosen_where_there_is_neither_memory_nor_disk(
    make: Maker, service: Service, url: str, monkeypatch: pytest.MonkeyPatch, ids: list[str]
):
    make(ids, path=url, heads=HEADS)
    store = FeatureStore.open(url)
    monkeypatch.setattr(choice, "_free", lambda place: 100)
    assert store.reader("half").mode == "resident"
    assert store.reader("half", memory=10).why.startswith(
        "window: not on this machine, 600 B exceed the 10 B granted in memory, and the 100 B free in "
    )
    monkeypatch.setattr(choice, "_free", lambda place: 1000)
    assert store.reader("half", memory=10).mode == "cache"
    with pytest.raises(UserError, match="head `packed` is compressed, so its rows have no places; use auto"):
        store.reader("packed", mode="window")


def test_a_training_that_reads_by_windows_has_the_bits_of_one_that_reads_here(
    project: Path, params: Params, service: Service, url: str, monkeypatch: pytest.MonkeyPatch
):
    params.values["train"] |= {"steps": 5, "seeds": [0]}
    params.values["runs"]["aft"]["methods"][0]["weight"] = 3.0
    trials, folder = Project(project).trials, Project(project).store("wise")
    training.train("aft", params, Project(project))
    local = {path.relative_to(trials): path.read_bytes() for path in trials.rglob("*.safetensors")}
    shutil.rmtree(trials)

    content = FeatureStore.open(folder).content_digest
    copy_store(folder, url)
    shutil.rmtree(folder)
    Pointer(url, content).write(folder)
    monkeypatch.setattr(choice, "RESIDENT_SHARE", 0)
    monkeypatch.setattr(choice, "_free", lambda place: 0)
    lines: list[str] = []
    training.train("aft", params, Project(project), say=lines.append)
    assert any("window: not on this machine" in line and "the network sets the pace" in line for line in lines)
    assert {path.relative_to(trials): path.read_bytes() for path in trials.rglob("*.safetensors")} == local
