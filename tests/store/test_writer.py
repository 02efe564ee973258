"""Writing: what is there is kept, what changed is told, and rows of different recipes never meet."""

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.store import FeatureStore, Head, StoreWriter
from pipeline.store.backends import local
from pipeline.store.backends.local import LocalBackend
from pipeline.store.verification import verify

HEADS = {"pooled": Head((6,), "float32")}


def holds(store: FeatureStore | None, ids: list[str], features: Callable[..., np.ndarray]) -> bool:
    """Whether a store has just these rows with just their features."""
    assert store is not None
    return list(store.ids) == ids and np.array_equal(store[:], features(ids, (6,)))


def test_a_store_holds_what_was_written(make: Any, ids: list[str], features: Any):
    store = make(ids)
    assert make.notes == []
    assert make.computed == ids
    assert holds(store, ids, features)
    assert verify(make.path).sound


def test_a_complete_store_computes_nothing_and_is_not_touched(make: Any, ids: list[str]):
    make(ids)
    before = {path: path.stat().st_mtime_ns for path in make.path.rglob("*") if path.is_file()}
    make(ids)
    assert make.computed == [] and make.notes == ["complete: 7 of 7 shards are there"]
    assert {path: path.stat().st_mtime_ns for path in make.path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("shards", range(7))
def test_an_interrupted_store_continues_and_ends_bit_identical(
    make: Any, ids: list[str], files_of: Any, tmp_path: Path, shards: int
):
    make(ids, stop_after=shards)
    assert make(ids) is not None
    assert make.notes == [f"continuing: {shards} of 7 shards are there"]
    assert make.computed == ids[shards * 8 :]
    make(ids, path=tmp_path / "undisturbed")
    assert files_of(make.path) == files_of(tmp_path / "undisturbed")


def test_an_incomplete_store_says_how_to_continue(make: Any, ids: list[str]):
    make(ids, stop_after=3)
    with pytest.raises(UserError, match=r"not complete, 3 of 7 shards are there; run the extraction again"):
        FeatureStore.open(make.path)


def test_another_recipe_starts_again_and_says_what_changed(make: Any, ids: list[str], features: Any):
    make(ids, recipe={"model": "m", "precision": "float32"})
    other = lambda names, shape: features(names, shape, 1)  # noqa: E731
    store = make(ids, recipe={"model": "m", "precision": "bfloat16"}, features=other)
    assert make.notes == ["recipe changed (precision: float32 -> bfloat16): starting again"]
    assert make.computed == ids
    np.testing.assert_array_equal(store[:], features(ids, (6,), 1))
    assert not (make.path / "replaced").exists()


def test_features_of_another_recipe_are_kept_until_the_new_ones_are_complete(make: Any, ids: list[str], features: Any):
    make(ids)
    make(ids, recipe={"model": "n"}, stop_after=2)
    assert holds(make(ids), ids, features)  # the user found out and went back
    assert make.computed == []


def test_appended_rows_are_computed_alone(make: Any, ids: list[str], features: Any):
    make(ids)
    inode = (make.path / "pooled" / "c.0.0").stat().st_ino
    more = [*ids, *(f"new {number}" for number in range(5))]
    store = make(more)
    assert make.computed == more[50:]
    assert make.notes[:2] == [
        "rows changed: 50 -> 55",
        "50 of 55 rows are known from before; new are the others",
    ]
    assert holds(store, more, features) and verify(make.path).sound
    assert (make.path / "pooled" / "c.0.0").stat().st_ino == inode, "a whole shard of the same rows is linked"


@given(st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_happens_to_the_rows_only_new_ones_are_computed(make: Any, features: Any, data: st.DataObject):
    shutil.rmtree(make.path, ignore_errors=True)
    names = [f"r{number}" for number in range(30)]
    choice = st.lists(st.sampled_from(names), unique=True, min_size=1)
    old, new = data.draw(choice), data.draw(choice)
    shard_rows = data.draw(st.sampled_from([3, 7, 64]))
    make(old, shard_rows=shard_rows)
    store = make(new, shard_rows=data.draw(st.sampled_from([3, 7, None])))
    assert set(make.computed) == set(new) - set(old)
    assert holds(store, new, features)
    assert verify(make.path).sound


def test_a_row_whose_content_changed_is_computed_anew(make: Any, ids: list[str], index: Any):
    make(ids)
    rows = index(ids)
    rows.digests = rows.digests.copy()
    rows.digests[11] += 1
    with StoreWriter.open(make.path, rows=rows, dataset="d", recipe={"model": "m"}, heads=HEADS) as writer:
        shards = list(writer.missing())
        assert [(shard.index, shard.rows.tolist()) for shard in shards] == [(1, [11])]
        assert writer.rows_missing() == 1
        writer.write(shards[0], {"pooled": np.full((1, 6), 7.0)})
    store = FeatureStore.open(make.path)
    assert (store[11] == 7).all() and (store[10] != 7).all()


def test_a_caller_may_bring_all_rows_of_a_shard(make: Any, ids: list[str], features: Any, index: Any):
    make(ids)
    changed = [*ids[:20], "other", *ids[21:]]
    with StoreWriter.open(
        make.path, rows=index(changed), dataset="d",
        recipe={"model": "m"}, heads=HEADS,
    ) as writer:  # fmt: skip
        for shard in writer.missing():
            assert len(shard.rows) < shard.stop - shard.start
            writer.write(shard, {"pooled": features(changed[shard.start : shard.stop], (6,))})
    assert holds(FeatureStore.open(make.path), changed, features)


def test_a_flipped_bit_is_never_carried_into_a_new_store(make: Any, ids: list[str], features: Any):
    make(ids)
    shard = make.path / "pooled" / "c.2.0"
    data = bytearray(shard.read_bytes())
    data[5] ^= 1
    shard.write_bytes(data)
    changed = ["first", *ids]
    assert holds(make(changed), changed, features)
    assert make.computed == ["first", *ids[16:24]], "the rows of the damaged shard were computed again"


def test_a_change_of_rows_cut_short_anywhere_resumes(
    make: Any, ids: list[str], features: Any, monkeypatch: pytest.MonkeyPatch
):
    """Every step that changes a name on the disk fails once; the rerun computes no row that was known."""
    ids = ids[:12]
    changed = [*ids[::-1], "new"]

    class PowerCut(BaseException):
        pass

    cuts = 0
    for step in range(200):
        shutil.rmtree(make.path, ignore_errors=True)
        make(ids)
        left = step

        def counted(do: Callable[..., Any]) -> Callable[..., Any]:
            def tick(*arguments: Any) -> Any:
                nonlocal left
                if left == 0:
                    raise PowerCut
                left -= 1
                return do(*arguments)

            return tick

        with monkeypatch.context() as patch:
            patch.setattr(local.os, "replace", counted(os.replace))
            try:
                make(changed, stop_after=0)
                break
            except PowerCut:
                cuts += 1
        store = make(changed)
        assert make.computed == ["new"]
        assert holds(store, changed, features)
    assert cuts > 10
    assert step < 199


def test_a_head_is_added_alongside_another_without_rewriting_it(make: Any, ids: list[str], features: Any):
    first = make(ids)
    before = {path.name: path.stat().st_mtime_ns for path in (make.path / "pooled").iterdir()}
    digest = first.head_digest("pooled")
    heads = {"pooled": Head((6,), "float32"), "tokens": Head((2, 3), "bfloat16")}
    store = make(ids, heads=heads)
    assert make.notes == ["adding `tokens` alongside existing heads", "continuing: 0 of 7 shards are there"]
    assert {path.name: path.stat().st_mtime_ns for path in (make.path / "pooled").iterdir()} == before
    assert store.head_digest("pooled") == digest
    assert store.content_digest != first.content_digest
    assert holds(store, ids, features)
    assert np.abs(store.reader("tokens")(range(50)) - features(ids, (2, 3))).max() < 0.02
    assert verify(make.path).sound


def test_a_view_is_added_alongside_the_plain_features(make: Any, ids: list[str], features: Any):
    make(ids)
    heads = {"pooled@flip": Head((6,), "float32", view={"flip": "horizontal"})}
    store = make(ids, heads=heads, features=lambda names, shape: features(names, shape, 5))
    assert list(store.heads) == ["pooled", "pooled@flip"]
    np.testing.assert_array_equal(store.reader("pooled@flip")([3]), features([ids[3]], (6,), 5))
    assert holds(store, ids, features)
    assert store.layout.identity("pooled") != store.layout.identity("pooled@flip")


def test_heads_that_nobody_asks_for_follow_their_rows_where_they_can(make: Any, ids: list[str], features: Any):
    heads = {"pooled": Head((6,), "float32"), "tokens": Head((2, 3), "float32")}
    make(ids, heads=heads)
    fewer = ids[::-2]
    store = make(fewer)
    assert make.computed == [] and set(store.heads) == {"pooled", "tokens"}
    np.testing.assert_array_equal(store.reader("tokens")(range(25)), features(fewer, (2, 3)))
    store = make([*fewer, "new"])
    assert "head `tokens` is not asked for and lacks some of these rows: dropped" in make.notes
    assert set(store.heads) == {"pooled"} and verify(make.path).sound


def test_a_head_kept_in_another_dtype_is_computed_anew(make: Any, ids: list[str]):
    make(ids)
    store = make(ids, heads={"pooled": Head((6,), "float16")})
    assert "head `pooled` changed (dtype: float32 -> float16)" in make.notes
    assert make.computed == ids and store.heads["pooled"].dtype == "float16"


def test_a_head_kept_with_another_codec_is_only_written_anew(make: Any, ids: list[str], features: Any):
    make(ids)
    store = make(ids, heads={"pooled": Head((6,), "float32", codec="zstd")})
    assert make.computed == [] and holds(store, ids, features) and verify(make.path).sound


def test_the_codec_auto_looks_at_the_features(make: Any, ids: list[str], index: Any):
    heads = {"dense": Head((64,), codec="auto"), "sparse": Head((64,), codec="auto")}

    with StoreWriter.open(
        make.path, rows=index(ids), dataset="d",
        recipe={}, heads=heads,
    ) as writer:  # fmt: skip
        random = np.random.default_rng(0)
        for shard in writer.missing():
            values = random.standard_normal((len(shard), 64))
            writer.write(shard, {"dense": values, "sparse": values * (values > 2.5)})
    store = FeatureStore.open(make.path)
    assert "zstd" not in (make.path / "dense" / "zarr.json").read_text()
    assert "zstd" in (make.path / "sparse" / "zarr.json").read_text()
    assert store.head_nbytes("sparse") < store.head_nbytes("dense") / 2
    dense = store.reader("dense")(range(50))
    np.testing.assert_array_equal(store.reader("sparse")(range(50)), dense * (dense > 2.5))


@pytest.mark.parametrize(
    ("bad", "words"), [(np.nan, "NaN or infinity"), (np.inf, "NaN or infinity"), (1e6, "too large")]
)
def test_features_that_are_no_numbers_name_shard_and_rows(
    make: Any, ids: list[str], features: Any, bad: float, words: str
):
    def broken(names: list[str], shape: tuple[int, ...]) -> np.ndarray:
        values = features(names, shape)
        for position, name in enumerate(names):
            if name in ("row 19", "row 21"):
                values[position, 2] = bad
        return values

    with pytest.raises(UserError, match=rf"head `pooled`, shard 2, 2 rows \(row 19, row 21\): .*{words}"):
        make(ids, heads={"pooled": Head((6,))}, features=broken)
    store = make(ids, heads={"pooled": Head((6,))})
    assert make.notes == ["continuing: 2 of 7 shards are there"], "what was finished is kept"
    assert store is not None


def test_a_shard_that_contradicts_its_marker_is_written_again(make: Any, ids: list[str], features: Any):
    make(ids)
    (make.path / "pooled" / "c.1.0").unlink()
    with (make.path / "pooled" / "c.3.0").open("r+b") as file:
        file.truncate(17)
    marker = make.path / "pooled" / "c.5.json"
    marker.write_bytes(marker.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"head `pooled`, shard 1 \(rows 8-15\): pooled/c.1.0 is missing"):
        FeatureStore.open(make.path)
    store = make(ids)
    assert make.computed == [*ids[8:16], *ids[24:32], *ids[40:48]]
    assert "shard 3 of `pooled` is damaged (pooled/c.3.0 has 17 of 212 bytes): writing it again" in make.notes
    assert holds(store, ids, features)


def test_a_store_in_a_hard_linked_cache_is_never_written_through(make: Any, ids: list[str], tmp_path: Path):
    """DVC may link a store's files into its cache, read-only; later runs must leave the cache as it is."""
    make(ids)
    cache = tmp_path / "cache"
    shutil.copytree(make.path, cache, copy_function=os.link)
    for file in cache.rglob("*"):
        if file.is_file():
            file.chmod(0o444)
    contents = {file: file.read_bytes() for file in cache.rglob("*") if file.is_file()}
    make([*ids[5:], "new"])
    make(ids, recipe={"model": "n"})
    make(ids, recipe={"model": "n"}, heads={"tokens": Head((2,))})
    assert {file: file.read_bytes() for file in cache.rglob("*") if file.is_file()} == contents


def test_memory_stays_bounded_when_the_disk_is_slower_than_the_model(
    make: Any, ids: list[str], index: Any, monkeypatch: pytest.MonkeyPatch
):
    disk_is_free, has_begun = threading.Event(), threading.Event()
    began: list[str] = []

    put = LocalBackend.put

    def slow(backend: LocalBackend, file: str, parts: Any, durable: bool = True) -> str:
        if file.startswith("pooled/") and file.endswith(".0"):
            began.append(file)
            has_begun.set()
            disk_is_free.wait()
        return put(backend, file, parts, durable)

    monkeypatch.setattr(LocalBackend, "put", slow)
    accepted: list[int] = []

    def model() -> None:
        with StoreWriter.open(make.path, rows=index(ids), dataset="d", recipe={}, heads=HEADS, shard_rows=8) as writer:
            for shard in writer.missing():
                writer.write(shard, {"pooled": np.zeros((len(shard), 6))})
                accepted.append(shard.index)

    thread = threading.Thread(target=model)
    thread.start()
    has_begun.wait()
    time.sleep(0.2)
    assert accepted == [0] and began == ["pooled/c.0.0"], "the second shard waits until the first is on the disk"
    disk_is_free.set()
    thread.join()
    assert accepted == list(range(7))


def test_the_writers_buffer_may_be_used_again_at_once(make: Any, ids: list[str], index: Any):
    buffer = np.zeros((8, 6), np.float32)
    with StoreWriter.open(make.path, rows=index(ids), dataset="d", recipe={}, heads=HEADS, shard_rows=8) as writer:
        for shard in writer.missing():
            buffer[:] = shard.index
            writer.write(shard, {"pooled": buffer[: len(shard)]})
            buffer[:] = -1
    np.testing.assert_array_equal(FeatureStore.open(make.path)[:][:, 0], np.arange(50) // 8)


def test_a_disk_that_fails_in_the_background_is_reported_and_finished_shards_are_kept(
    make: Any, ids: list[str], monkeypatch: pytest.MonkeyPatch
):
    put = LocalBackend.put

    def full(backend: LocalBackend, file: str, parts: Any, durable: bool = True) -> str:
        if file == "pooled/c.3.0":
            raise UserError("the disk is full")
        return put(backend, file, parts, durable)

    with monkeypatch.context() as patch:
        patch.setattr(LocalBackend, "put", full)
        with pytest.raises(UserError, match="the disk is full"):
            make(ids)
    make(ids)
    assert make.notes == ["continuing: 3 of 7 shards are there"]


def test_a_shard_is_on_the_disk_before_its_marker_is_there_and_all_markers_before_the_end(
    make: Any, ids: list[str], monkeypatch: pytest.MonkeyPatch
):
    events: list[tuple[str, str]] = []
    replace = os.replace
    monkeypatch.setattr(
        os, "fsync", lambda handle: events.append(("flush", Path(os.readlink(f"/proc/self/fd/{handle}")).name))
    )
    monkeypatch.setattr(
        os, "replace", lambda source, target: (events.append(("rename", target.name)), replace(source, target))
    )
    make(ids)
    for number in range(7):
        wanted = [
            ("flush", f"c.{number}.0.partial"),
            ("rename", f"c.{number}.0"),
            ("flush", "pooled"),
            ("rename", f"c.{number}.json"),
            ("flush", f"c.{number}.json"),
            ("flush", "pooled"),
        ]
        rest = iter(events)
        assert all(event in rest for event in wanted), f"{wanted} in this order"


def test_shards_may_be_written_once_and_by_whom_they_were_handed_to(make: Any, ids: list[str], index: Any):
    with StoreWriter.open(make.path, rows=index(ids), dataset="d", recipe={}, heads=HEADS, shard_rows=8) as writer:
        shard = next(writer.missing())
        with pytest.raises(UserError, match="head `pooled` is missing"):
            writer.write(shard, {"tokens": np.zeros((8, 6))})
        with pytest.raises(UserError, match="needs 8 rows of `pooled`, found 7"):
            writer.write(shard, {"pooled": np.zeros((7, 6))})
        writer.write(shard, {"pooled": np.zeros((8, 6))})
        with pytest.raises(ValueError, match="shard 0 was not handed to this writer"):
            writer.write(shard, {"pooled": np.zeros((8, 6))})


def test_two_writers_never_get_the_same_shard(make: Any, ids: list[str], index: Any):
    options = {"rows": index(ids), "dataset": "d", "recipe": {}, "heads": HEADS, "shard_rows": 8}
    with StoreWriter.open(make.path, **options) as one, StoreWriter.open(make.path, **options) as two:
        first, second = one.missing(), two.missing()
        handed = [next(first).index, next(second).index, next(second).index, next(first).index]
        assert handed == [0, 1, 2, 3]


def test_two_writers_with_different_recipes_do_not_meet(make: Any, ids: list[str], index: Any, monkeypatch: Any):
    monkeypatch.setattr("pipeline.store.writer.PATIENCE", 0.1)
    options = {"rows": index(ids), "dataset": "d", "heads": HEADS, "shard_rows": 8}
    with StoreWriter.open(make.path, recipe={"model": "a"}, **options) as one:
        shard = next(one.missing())
        with pytest.raises(UserError, match=rf"process {os.getpid()} on .* is writing it with other settings"):
            StoreWriter.open(make.path, recipe={"model": "b"}, **options)
        one.write(shard, {"pooled": np.zeros((8, 6))})
    assert make(ids, recipe={"model": "a"}) is not None
    assert len(make.computed) == 42


def test_a_reader_at_work_is_not_disturbed_by_a_writer(make: Any, ids: list[str], features: Any):
    old = make(ids)
    reader = old.reader()
    before = reader(range(50))
    make(ids, recipe={"model": "n"}, stop_after=4, features=lambda names, shape: features(names, shape, 9))
    np.testing.assert_array_equal(reader(range(50)), before)
    with pytest.raises(UserError, match="not complete, 4 of 7"):
        FeatureStore.open(make.path)
    make(ids, recipe={"model": "n"}, features=lambda names, shape: features(names, shape, 9))
    np.testing.assert_array_equal(reader(range(50)), before)
    np.testing.assert_array_equal(FeatureStore.open(make.path)[:], features(ids, (6,), 9))


def test_versions_are_recorded_and_their_change_is_noted(make: Any, ids: list[str]):
    make(ids, created_by={"torch": "2.13"}, stop_after=2)
    store = make(ids, created_by={"torch": "2.14"})
    assert "begun by other versions (torch: 2.13 -> 2.14)" in make.notes
    assert store.created_by == {"torch": "2.13"}


def test_the_same_features_give_the_same_bytes_however_they_came_about(
    make: Any, ids: list[str], files_of: Any, tmp_path: Path
):
    make(ids)
    once = files_of(make.path)
    for name, earlier in (("again", None), ("grown", ids[:21]), ("shrunk", [*ids, "more"]), ("moved", ids[::-1])):
        if earlier is not None:
            make(earlier, path=tmp_path / name)
        time.sleep(0.01)
        make(ids, path=tmp_path / name)
        assert files_of(tmp_path / name) == once, name


def test_damaged_metadata_stops_a_writer_and_loses_nothing(make: Any, ids: list[str]):
    make(ids)
    good = (make.path / "zarr.json").read_bytes()
    (make.path / "zarr.json").write_bytes(good.replace(b'"dataset": "data"', b'"dataset": "atad"'))
    with pytest.raises(UserError, match=r"zarr\.json: damaged or changed by hand"):
        make(ids)
    (make.path / "zarr.json").write_bytes(good)
    make(ids)
    assert make.computed == []


@pytest.mark.parametrize(
    "foreign",
    ["a.txt", "x.zarr/zarr.json", "old/zarr.json", "old/zarr.json old/c.0", "replaced/1/a", "locks/a", "rows/a.csv"],
)
def test_a_folder_with_other_files_is_not_made_a_store_and_keeps_them(
    make: Any, ids: list[str], tmp_path: Path, foreign: str
):
    files = [tmp_path / "home" / name for name in foreign.split()]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text('{"zarr_format": 3, "node_type": "array"}')
    with pytest.raises(UserError, match=r"home: holds other files, such as .*; choose a new or empty folder"):
        make(ids, path=tmp_path / "home")
    assert sorted(path for path in (tmp_path / "home").rglob("*") if path.is_file()) == sorted(files)


def test_files_of_the_user_in_a_store_outlive_its_changes(make: Any, ids: list[str]):
    make(ids)
    kept = [make.path / name for name in ("notes.txt", "figures/a.png", ".gitignore")]
    for file in kept:
        file.parent.mkdir(exist_ok=True)
        file.write_text("mine")
    make(ids[3:])
    make(ids, recipe={"model": "n"}, stop_after=1)
    make(ids, recipe={"model": "n"})
    assert all(file.read_text() == "mine" for file in kept)


def test_a_store_needs_heads_and_a_folder(make: Any, ids: list[str], index: Any, tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="file: is a file"):
        make(ids, path=tmp_path / "file")
    with pytest.raises(UserError, match="at least one head"):
        StoreWriter.open(tmp_path / "s", rows=index(ids), dataset="d", recipe={}, heads={})
    with pytest.raises(UserError, match="shard_rows must be at least 1"):
        make(ids, shard_rows=-1)


def test_files_are_tens_and_not_thousands(make: Any):
    make([f"r{number}" for number in range(5000)], shard_rows=None)
    assert len([path for path in make.path.rglob("*") if path.is_file()]) < 40
