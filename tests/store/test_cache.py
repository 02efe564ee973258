"""Compressed and remote stores: one pass into a raw local copy, which can only be that of the right features."""

import shutil
import threading
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.store import FeatureStore, Head, cache
from pipeline.store.verification import verify
from pipeline.verified import default_cache

HEADS = {"pooled": Head((6,), "float32"), "sparse": Head((16,), "float32", codec="zstd"), "layer:4": Head((5,), "int8")}


@pytest.fixture
def store(make: Any, ids: list[str]) -> FeatureStore:
    return make(ids, heads=HEADS)


@pytest.fixture
def url(store: FeatureStore, make: Any, tmp_path: Path) -> str:
    """The same store in a file system that is reached by its URL only."""
    remote = fsspec.filesystem("memory")
    remote.put(f"{make.path}/", f"/{tmp_path.name}/store/", recursive=True)
    return f"memory://{tmp_path.name}/store"


def copies(cache: Path) -> list[Path]:
    """The raw copies in a cache, finished or not."""
    return [path for path in cache.iterdir() if path.is_dir() and path.name != "verified"]


def test_a_raw_copy_is_made_once_and_used_again(store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    reader = store.reader("sparse", mode="cache", cache=tmp_path / "cache")
    (copy,) = copies(tmp_path / "cache")
    assert copy.name == store.head_digest("sparse") and str(copy) in reader.why
    monkeypatch.setattr(cache, "checked", None)  # nothing is fetched a second time
    again = store.reader("sparse", mode="cache", cache=tmp_path / "cache")
    np.testing.assert_array_equal(again(range(50)), reader(range(50)))


def test_a_raw_copy_is_never_that_of_other_features(make: Any, ids: list[str], features: Any, tmp_path: Path):
    make(ids, heads=HEADS).reader("sparse", mode="cache", cache=tmp_path / "cache")
    other = make(ids, heads=HEADS, recipe={"model": "n"}, features=lambda names, shape: features(names, shape, 1))
    reader = other.reader("sparse", mode="cache", cache=tmp_path / "cache")
    np.testing.assert_array_equal(reader(range(50)), features(ids, (16,), 1))
    assert len(copies(tmp_path / "cache")) == 2


def test_a_damaged_shard_is_found_on_the_way_and_leaves_no_copy(store: FeatureStore, make: Any, tmp_path: Path):
    shard = make.path / "sparse" / "c.3.0"
    data = bytearray(shard.read_bytes())
    data[10] ^= 1
    shard.write_bytes(data)
    with pytest.raises(UserError, match=r"sparse/c\.3\.0 \(rows 24-31\): damaged"):
        store.reader("sparse", mode="cache", cache=tmp_path / "cache")
    assert copies(tmp_path / "cache") == []


@pytest.mark.parametrize("damage", ["cut short", "missing", "no list of files", "list of files cut short", "empty"])
def test_a_raw_copy_that_is_not_whole_is_made_anew(store: FeatureStore, tmp_path: Path, damage: str):
    exact = store.reader("sparse", mode="resident")(range(50))
    store.reader("sparse", mode="cache", cache=tmp_path / "cache")
    (copy,) = copies(tmp_path / "cache")
    match damage:
        case "cut short":
            with (copy / "sparse" / "c.3.0").open("r+b") as file:
                file.truncate(100)
        case "missing":
            (copy / "sparse" / "c.3.0").unlink()
        case "no list of files":
            (copy / "files.json").unlink()
        case "list of files cut short":
            (copy / "files.json").write_text((copy / "files.json").read_text()[:20])
        case "empty":
            shutil.rmtree(copy)
            copy.mkdir()
    reader = store.reader("sparse", mode="cache", cache=tmp_path / "cache")
    np.testing.assert_array_equal(reader(range(50)), exact)
    reader.verified()
    assert copies(tmp_path / "cache") == [copy]


def test_two_that_want_a_raw_copy_make_it_once(store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made, make = [], cache._make
    monkeypatch.setattr(cache, "_make", lambda target, *rest: made.append(target.name) or make(target, *rest))
    readers: list[Any] = []

    def want() -> None:
        readers.append(store.reader("sparse", mode="cache", cache=tmp_path / "cache"))

    threads = [threading.Thread(target=want) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and len(readers) == 4


def test_a_disk_too_small_for_the_copy_is_refused_before_it_is_filled(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1000, 900, 100))
    with pytest.raises(UserError, match=r"a raw copy needs 3,\d{3} bytes, 100 are free; set AFT_CACHE elsewhere"):
        store.reader("sparse", mode="cache", cache=tmp_path / "cache")


def test_the_place_of_copies_can_be_chosen(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AFT_CACHE", "/somewhere")
    assert default_cache() == Path("/somewhere")
    monkeypatch.delenv("AFT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/home/x/c")
    assert default_cache() == Path("/home/x/c/aft")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache() == Path.home() / ".cache" / "aft"


@pytest.mark.parametrize("head", list(HEADS))
@pytest.mark.parametrize("mode", ["resident", "cache"])
def test_a_remote_store_reads_as_a_local_one(url: str, store: FeatureStore, tmp_path: Path, head: str, mode: str):
    remote = FeatureStore.open(url)
    assert remote.content_digest == store.content_digest
    assert list(remote.ids) == list(store.ids)
    reader = remote.reader(head, mode=mode, cache=tmp_path / "cache")
    np.testing.assert_array_equal(reader(range(50)), store.reader(head)(range(50)))


def test_a_remote_store_is_read_by_windows(url: str, store: FeatureStore):
    reader, rows = FeatureStore.open(url).reader("pooled", mode="window"), [3, 49, 0, 3]
    np.testing.assert_array_equal(reader(rows), store.reader("pooled")(rows))
    reader.verified()


def test_what_a_remote_store_cannot_do_is_refused(url: str):
    remote = FeatureStore.open(url)
    with pytest.raises(UserError, match="not on this machine and cannot be mapped"):
        remote.reader("pooled", mode="mapped")
    assert remote.reader("pooled").why.startswith("resident: not on this machine, 1.2 kB fit")


def test_a_remote_store_that_is_missing_or_damaged_is_refused(url: str):
    with pytest.raises(UserError, match="no feature store there"):
        FeatureStore.open("memory://nothing/here")
    with pytest.raises(UserError, match="cannot be read"):
        FeatureStore.open("nosuchprotocol://x/y")
    files = fsspec.filesystem("memory")
    shard = url.removeprefix("memory:/") + "/pooled/c.2.0"
    files.pipe_file(shard, files.cat_file(shard)[:-1])
    with pytest.raises(UserError, match=r"shard 2 \(rows 16-23\): pooled/c\.2\.0 has 211 of 212 bytes"):
        FeatureStore.open(url)


def test_every_byte_of_a_remote_store_is_verified(url: str):
    found = verify(url)
    assert found.sound and found.shards == 21 and found.path == url
    files = fsspec.filesystem("memory")
    root = url.removeprefix("memory:/")
    for name in ("pooled/c.2.0", "layer:4.scale/c.4", "sparse/c.6.0"):
        good = files.cat_file(f"{root}/{name}")
        files.pipe_file(f"{root}/{name}", good[:-9] + bytes([good[-9] ^ 4]) + good[-8:])
    files.pipe_file(f"{root}/pooled/notes.txt", b"mine")
    files.rm_file(f"{root}/layer:4/c.1.json")
    assert sorted(map(str, verify(url).faults)) == [
        "layer:4.scale/c.4: its bytes are not those that were written (head `layer:4`, shard 4, rows 32-39)",
        "layer:4/c.1.json: not there: the shard is not complete (head `layer:4`, shard 1, rows 8-15)",
        "pooled/c.2.0: its bytes are not those that were written (head `pooled`, shard 2, rows 16-23)",
        "pooled/notes.txt: does not belong in a store",
        "sparse/c.6.0: its bytes are not those that were written (head `sparse`, shard 6, rows 48-49)",
    ]
    with pytest.raises(UserError, match="no feature store there"):
        verify("memory://nothing/here")


def test_a_store_in_a_zip_file_is_verified_and_read_where_it_is(store: FeatureStore, make: Any, tmp_path: Path):
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", make.path)
    packed = f"zip://::{archive}"
    assert verify(packed).sound
    opened = FeatureStore.open(packed)
    assert opened.content_digest == store.content_digest
    np.testing.assert_array_equal(opened[:], store[:])
