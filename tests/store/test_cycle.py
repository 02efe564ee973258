"""The whole life of a store, on every kind of backend: written, interrupted, changed, read, verified, exported."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.store import FeatureStore, Head, StoreWriter
from pipeline.store.backends import WritableBackend
from pipeline.store.backends.local import LocalBackend
from pipeline.store.backends.object import ObjectBackend
from pipeline.store.backends.remote import RemoteBackend
from pipeline.store.inspection import describe, diff
from pipeline.store.interchange import export, import_features
from pipeline.store.verification import verify
from tests.store.backends.memory import MemoryBackend

HEADS = {
    "pooled": Head((6,), "float32"),
    "layer:4": Head((5,), "int8"),
    "layer:4@flip": Head((3, 2), "bfloat16", view={"flip": True}),
    "sparse": Head((16,), "float32", codec="auto"),
}
WRITES = ("put", "put_new", "put_together", "copy", "move", "delete")


@pytest.fixture(params=["local", "memory", "object"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> WritableBackend:
    if request.param == "object":
        objects = pytest.importorskip("obstore.store").MemoryStore()
        return ObjectBackend(objects, "s3://bucket/s", "s/")
    return LocalBackend(tmp_path / "s") if request.param == "local" else MemoryBackend()


def check(store: FeatureStore | None, ids: list[str], features: Any, head: str = "pooled") -> None:
    """A store has just these rows with just their features, and every byte is as it was written."""
    assert store is not None and list(store.ids) == ids
    np.testing.assert_array_equal(store.reader(head)(range(len(ids))), features(ids, store.heads[head].shape))


def test_a_store_is_written_continued_read_and_verified(
    make: Any, ids: list[str], features: Any, backend: WritableBackend, tmp_path: Path
):
    assert make(ids, heads=HEADS, path=backend, stop_after=3) is None
    with pytest.raises(UserError, match="not complete, 3 of 7"):
        FeatureStore.open(backend)
    store = make(ids, heads=HEADS, path=backend)
    assert make.notes == ["continuing: 3 of 7 shards are there"] and make.computed == ids[24:]
    check(store, ids, features)
    check(store, ids, features, "sparse")
    for name, head in HEADS.items():
        exact = features(ids, head.shape)
        for mode in ("resident", "cache"):
            reader = store.reader(name, mode=mode, cache=tmp_path / "cache")
            reader.verified()
            assert np.abs(reader(range(50)) - exact).max() < 0.05
    found = verify(backend)
    assert found.sound and found.shards == 28
    assert not [name for name in backend.files() if name.startswith(("locks", "replaced"))]
    assert f"50 rows in 7 shards of 8, {store.nbytes:,} bytes" in str(describe(backend))
    assert diff(backend, backend).features["layer:4"].difference == 0


def test_rows_heads_and_recipes_change(make: Any, ids: list[str], features: Any, backend: WritableBackend):
    make(ids, path=backend)
    changed = ["first", *ids[:30], *ids[31:]]
    check(make(changed, path=backend), changed, features)
    assert make.computed == ["first"] and verify(backend).sound
    make(changed, path=backend, recipe={"model": "n"}, stop_after=2)
    check(make(changed, path=backend), changed, features)
    assert make.computed == [], "going back to the recipe before reuses its features"
    store = make(changed, path=backend, heads={"layer:4": Head((2, 3), "float32")})
    assert make.computed == changed
    check(store, changed, features)
    check(store, changed, features, "layer:4")
    assert verify(backend).sound


def test_damage_is_refused_named_and_written_anew(make: Any, ids: list[str], features: Any, backend: WritableBackend):
    store = make(ids, path=backend)
    data = bytearray(backend.read("pooled/c.2.0") or b"")
    data[5] ^= 1
    backend.put("pooled/c.2.0", [bytes(data)])
    assert [fault.file for fault in verify(backend).faults] == ["pooled/c.2.0"]
    if isinstance(backend, ObjectBackend):  # the service's version of an object has changed as well
        with pytest.raises(UserError, match=r"pooled/c\.2\.0: was replaced or deleted while it was read; run it again"):
            store.reader(mode="resident")
        store = FeatureStore.open(backend)
    for mode in ("resident", "device"):
        with pytest.raises(UserError, match=r"pooled/c\.2\.0 \(rows 16-23\): damaged; delete this file"):
            store.reader(mode=mode, device="cpu")
    backend.delete("pooled/c.2.0")
    check(make(ids, path=backend), ids, features)
    assert make.computed == ids[16:24] and verify(backend).sound


def test_several_writers_share_the_shards(make: Any, ids: list[str], index: Any, backend: WritableBackend):
    options = {"rows": index(ids), "dataset": "d", "recipe": {}, "heads": {"pooled": Head((2,))}, "shard_rows": 8}
    with StoreWriter.open(backend, **options) as one, StoreWriter.open(backend, **options) as two:
        shares: list[list[int]] = [[], []]
        for _ in range(3):
            for writer, share in zip((one, two), shares, strict=True):
                shard = next(writer.missing())
                writer.write(shard, {"pooled": np.zeros((len(shard), 2))})
                share.append(shard.index)
        for shard in one.missing():
            one.write(shard, {"pooled": np.zeros((len(shard), 2))})
    assert sorted([*shares[0], *shares[1]]) == list(range(6)) and verify(backend).sound


class PowerCut(BaseException):
    """The process ends here."""


def test_cut_short_at_any_write_a_change_resumes_and_computes_no_row_twice(
    make: Any, ids: list[str], features: Any, backend: WritableBackend, monkeypatch: pytest.MonkeyPatch
):
    ids = ids[:12]
    changed = [*ids[::-1], "new"]
    heads = {"pooled": Head((6,), "float32"), "sparse": Head((8,), "float32", codec="auto")}
    cuts, complete = 0, None
    while complete is None:
        backend.delete("zarr.json")
        for folder in ("rows", "pooled", "sparse", "replaced"):
            backend.delete(folder)
        make(ids, heads=heads, path=backend)
        left = cuts

        def counted(name: str) -> Any:
            write = getattr(type(backend), name)

            def tick(self: WritableBackend, *arguments: Any, **options: Any) -> Any:
                nonlocal left
                if left == 0:
                    raise PowerCut
                left -= 1
                return write(self, *arguments, **options)

            return tick

        with monkeypatch.context() as patch:
            for name in WRITES:
                patch.setattr(type(backend), name, counted(name))
            try:
                complete = make(changed, heads=heads, path=backend)
                break
            except PowerCut:
                cuts += 1
        # Claims of a process that died are free; in memory no process dies.
        getattr(backend, "holders", {}).clear()
        backend.delete("locks")
        store = make(changed, heads=heads, path=backend)
        assert set(make.computed) <= {"new"}
        check(store, changed, features)
        check(store, changed, features, "sparse")
        assert verify(backend).sound
    assert cuts > 15
    check(complete, changed, features)


def test_a_backend_that_only_reads_is_not_written_to(make: Any, ids: list[str]):
    with pytest.raises(UserError, match=r"memory://x/y: stores can only be read there"):
        make(ids, path=RemoteBackend("memory://x/y"))


def test_features_leave_one_backend_and_come_into_another(
    make: Any, ids: list[str], backend: WritableBackend, tmp_path: Path
):
    store = make(ids, path=backend, heads=HEADS)
    file = export(store, tmp_path / "f.npy", "layer:4@flip")
    other = MemoryBackend("ram://other")
    back = import_features(file, other)
    assert back.head_digest("layer:4@flip") == store.head_digest("layer:4@flip") and back.path == "ram://other"
