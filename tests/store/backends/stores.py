"""Whole stores on object storage, and the leases of their writers: the tests of every service, which gives a `url`."""

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("obstore")
pytest.importorskip("moto")

from pipeline.errors import UserError
from pipeline.objects import ObjectPath
from pipeline.store import FeatureStore, Head, StoreWriter, leases
from pipeline.store.backends import object
from pipeline.store.backends.object import ObjectBackend
from pipeline.store.copying import copy_store
from pipeline.store.verification import verify
from tests.store.backends.s3 import Service
from tests.store.conftest import Maker, features_of, row_index, tree


def contents(url: str) -> dict[str, bytes | None]:
    """All files of a store."""
    backend = object.open(url)
    return {file: backend.read(file) for file in backend.files()}


class StoreContract:
    """A store on a service is that of the same rows here."""

    def test_a_bucket_that_is_not_there_is_said(self, url: str):
        there = f"{url.partition('://')[0]}://nowhere"
        for action in (
            lambda: FeatureStore.open(f"{there}/store.zarr"),
            lambda: object.open(f"{there}/store.zarr").prepare(),
            lambda: ObjectPath(f"{there}/x.csv").size(),
        ):
            with pytest.raises(UserError, match="there is no bucket nowhere; create it, or correct the URL"):
                action()

    def test_a_copy_has_the_same_files_wherever_it_is(self, make: Maker, url: str, ids: list[str], tmp_path: Path):
        make(ids, heads={"a": Head((6,), "int8"), "b": Head((3,), "float16", "zstd")})
        there = copy_store(make.path, url)
        assert (there.shards, there.sent) == (14, 14) and contents(url) == tree(make.path)
        back = copy_store(url, tmp_path / "back")
        assert back.sent == 14 and tree(tmp_path / "back") == tree(make.path)

    def test_a_marker_without_its_shard_and_a_shard_without_its_marker_are_written_again(
        self, make: Maker, url: str, ids: list[str]
    ):
        make(ids, path=url)
        backend = object.open(url)
        backend.delete("pooled/c.1.0")
        backend.delete("pooled/c.3.json")
        with pytest.raises(UserError, match=r"c\.1\.0 is missing"):
            FeatureStore.open(url)
        make(ids, path=url)
        assert make.computed == [*ids[8:16], *ids[24:32]]
        assert contents(url) == tree(make(ids) and make.path)

    def test_a_store_is_continued_changed_and_reused_like_a_local_one(self, make: Maker, url: str, ids: list[str]):
        assert make(ids, path=url, stop_after=3) is None
        make(ids, path=url)
        assert make.computed == ids[24:]
        others = [*ids[10:], "new"]
        changed = make(others, path=url)
        assert make.computed == ["new"]
        np.testing.assert_array_equal(changed[:], features_of(others, (6,)))
        make(others, path=url, recipe={"model": "another"})
        assert make.computed == others
        assert verify(url).sound
        assert contents(url) == tree(make(others, recipe={"model": "another"}) and make.path)

    def test_a_store_is_written_read_and_verified_like_a_local_one(self, make: Maker, url: str, ids: list[str]):
        local, remote = make(ids), make(ids, path=url)
        assert contents(url) == tree(make.path)
        assert remote.path == url and remote.content_digest == local.content_digest
        np.testing.assert_array_equal(remote[[3, 1, 49]], local[[3, 1, 49]])
        for mode in ("resident", "cache"):
            np.testing.assert_array_equal(remote.reader(mode=mode)(range(50)), local[range(50)])
        assert verify(url).sound

    def test_damage_is_found(self, make: Maker, url: str, ids: list[str]):
        make(ids, path=url)
        backend = object.open(url)
        data = bytearray(backend.read("pooled/c.1.0") or b"")
        data[5] ^= 1
        backend.put("pooled/c.1.0", [bytes(data)])
        assert [fault.shard for fault in verify(url).faults] == [1]
        with pytest.raises(UserError, match=r"c\.1\.0 \(rows 8-15\): damaged"):
            FeatureStore.open(url).reader()

    def test_large_shards_are_sent_in_parts(self, make: Maker, url: str, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(object, "BLOCK", 5 << 20)  # the smallest part that S3 takes
        names = [f"row {number}" for number in range(40)]
        wide = {"pooled": Head((80_000,), "float32")}
        remote = make(
            names, path=url, heads=wide, shard_rows=40, features=lambda ids, shape: np.ones((len(ids), *shape))
        )
        assert remote.head_nbytes("pooled") > 12 << 20 and verify(url).sound


class LeaseContract:
    """Writers on a service share the work, whatever becomes of them."""

    @pytest.fixture
    def short_leases(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Leases of two seconds: the service gives times in whole ones."""
        monkeypatch.setattr(leases, "LEASE", 2.0)

    def test_a_copy_that_was_interrupted_continues(
        self, make: Maker, url: str, ids: list[str], monkeypatch: pytest.MonkeyPatch
    ):
        make(ids)
        put, files = ObjectBackend.put, []

        def dying(backend: ObjectBackend, file: str, *args: Any, **named: Any) -> str:
            files.append(file)
            if len(files) > 16:
                raise KeyboardInterrupt
            return put(backend, file, *args, **named)

        with monkeypatch.context() as patch:
            patch.setattr(ObjectBackend, "put", dying)
            with pytest.raises(KeyboardInterrupt):
                copy_store(make.path, url)
        with pytest.raises(UserError, match="no feature store there"):
            FeatureStore.open(url)
        again = copy_store(make.path, url)
        assert 0 < again.sent < again.shards == 7 and contents(url) == tree(make.path)

    def test_a_damaged_lease_lasts_no_longer_than_another(self, url: str, short_leases: None):
        backend = object.open(url)
        for content in (b"\xff", b"[" * 5000, b"[]", b'{"owner": 3}'):
            backend.put("locks/a", [content])
            assert not backend.claim("a").acquire()
            assert isinstance(backend.claim("a").owner(), str)
        assert backend.claim("a").acquire(patience=10.0)

    def test_a_lease_is_renewed_while_it_is_held(self, url: str, short_leases: None, monkeypatch: pytest.MonkeyPatch):
        backend = object.open(url)
        mine, other = backend.claim("a"), backend.claim("a")
        assert mine.acquire()
        for _ in range(8):
            time.sleep(0.5)
            mine.renew()
            assert not other.acquire()
        mine.confirm()

    def test_a_lease_that_another_took_is_not_released_by_the_first(self, url: str, short_leases: None):
        backend = object.open(url)
        first, second, third = (backend.claim("a") for _ in range(3))
        assert first.acquire()
        leases._HELD.clear()
        assert second.acquire(patience=10.0)
        first.release()
        assert not third.acquire(), "the second still has it"

    def test_a_writer_that_lost_its_claim_writes_nothing_more(
        self, url: str, ids: list[str], make: Maker, short_leases: None, monkeypatch: pytest.MonkeyPatch
    ):
        writer = StoreWriter.open(
            url, rows=row_index(ids), dataset="data", recipe={"model": "m"}, heads={"pooled": Head((6,), "float32")},
            shard_rows=8,
        )  # fmt: skip
        with pytest.raises(UserError, match=r"lost its claim `locks/.*`; |lost its claim"), writer:
            shard = next(iter(writer.missing()))
            leases._HELD.clear()  # it sleeps, for longer than its leases last
            time.sleep(3.5)
            other = object.open(url).claim(f"shard-{shard.index}")
            assert other.acquire()
            writer.write(shard, {"pooled": features_of([ids[row] for row in shard.rows], (6,))})
            writer._queue.join()
        assert "pooled/c.0.json" not in contents(url)
        other.release()

    def test_the_shard_of_a_writer_that_died_is_taken_over(
        self, make: Maker, url: str, ids: list[str], short_leases: None, monkeypatch: pytest.MonkeyPatch
    ):
        dead = object.open(url)
        dead.prepare()
        make(ids, path=url, stop_after=2)
        held, life = dead.claim("shard-4"), dead.claim("writers")
        assert held.acquire() and life.acquire(exclusive=False)
        leases._HELD.clear()  # it died: nobody renews them
        began = time.monotonic()
        make(ids, path=url)
        assert time.monotonic() - began > 1
        np.testing.assert_array_equal(FeatureStore.open(url)[:], features_of(ids, (6,)))

    def test_writers_at_once_share_the_work(self, service: Service, url: str, ids: list[str]):
        computed: list[str] = []
        failures: list[BaseException] = []

        def work() -> None:
            try:
                with StoreWriter.open(
                    url, rows=row_index(ids), dataset="d", recipe={}, heads={"h": Head((6,), "float32")}, shard_rows=5
                ) as writer:
                    for shard in writer.missing():
                        names = [ids[row] for row in shard.rows]
                        computed.extend(names)
                        writer.write(shard, {"h": features_of(names, (6,))})
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert sorted(computed) == sorted(ids), "each row was computed once"
        np.testing.assert_array_equal(FeatureStore.open(url)[:], features_of(ids, (6,)))
        assert not object.open(url).files("locks")
