"""What people are told about stores is true."""

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.store import FeatureStore, Head, StoreWriter
from pipeline.store.inspection import describe, diff, leftovers, list_stores, statistics


def test_statistics_are_what_their_names_say():
    rows = np.random.default_rng(0).standard_normal((30, 2, 3)).astype(np.float16)
    rows[:, 1, 2] = 4
    rows[:10, 0, 0] = 0
    flat = [float(value) for row in rows for vector in row for value in vector]
    mean = sum(flat) / len(flat)
    found = statistics(rows)
    assert found.mean == pytest.approx(mean, rel=1e-5)
    assert found.std == pytest.approx((sum((v - mean) ** 2 for v in flat) / len(flat)) ** 0.5, rel=1e-5)
    assert (found.least, found.largest) == (min(flat), max(flat))
    assert found.zeros == pytest.approx(10 / len(flat)) and found.constant == 1 and found.sample == 30
    norms = [sum(float(v) ** 2 for vector in row for v in vector) ** 0.5 for row in rows]
    assert found.norm == pytest.approx(sum(norms) / 30, rel=1e-5)


def test_a_store_is_described_with_its_heads(make: Any):
    heads = {"pooled": Head((384,)), "small": Head((384,), "int8")}
    ids = [f"row {number}" for number in range(512)]
    options = {"recipe": {"model": "m", "deep": {"x": 1}}, "shard_rows": 64}
    store = make(ids, heads=heads, **options)
    make(ids, heads={"tokens": Head((2, 3))}, stop_after=3, **options)
    info = describe(make.path)
    assert (info.rows, info.shards, info.shard_rows, info.content_digest) == (512, 8, 64, store.content_digest)
    pooled, small, tokens = info.heads
    assert pooled.share_of_float32 <= 0.51 and small.share_of_float32 <= 0.26
    assert not tokens.complete and tokens.shards == 3
    text = str(info)
    for line in ("deep.x 1, model m", "not complete: has 3 shards", "mapped: local and uncompressed", "row norm"):
        assert line in text


def test_a_folder_lists_its_stores_and_why_some_cannot_be_opened(make: Any, ids: list[str], tmp_path: Path):
    folder = tmp_path / "features"
    make(ids, path=folder / "a.zarr")
    make(ids, path=folder / "b.zarr", stop_after=2)
    make(ids, path=folder / "c.zarr")
    (folder / "c.zarr" / "zarr.json").write_text("{}")
    (folder / "notes").mkdir()
    lines = str(list_stores(folder)).splitlines()
    assert lines[0].endswith("a.zarr: 50 rows, pooled (6,) float32, 1,484 bytes, complete")
    assert "b.zarr: not complete, 2 of 7 shards" in lines[1]
    assert "c.zarr" in lines[2] and "damaged" in lines[2] and len(lines) == 3
    assert "no feature stores" in str(list_stores(tmp_path / "nowhere"))


def test_the_difference_of_two_stores_is_listed(make: Any, ids: list[str], index: Any, features: Any, tmp_path: Path):
    first, second = tmp_path / "a", tmp_path / "b"
    make(ids, path=first, recipe={"model": "m", "precision": "float32"})
    other = [*ids[10:30][::-1], "new"]
    rows = index(other)
    rows.digests = rows.digests.copy()
    rows.digests[3] += 1
    heads = {"pooled": Head((6,), "float32"), "tokens": Head((2,))}
    recipe = {"model": "m", "precision": "bfloat16"}
    with StoreWriter.open(second, rows=rows, dataset="d", recipe=recipe, heads=heads) as writer:
        for shard in writer.missing():
            values = features([other[row] for row in shard.rows], (6,))
            values[shard.rows == 5] += 0.5
            writer.write(shard, {"pooled": values, "tokens": np.zeros((len(shard), 2))})
    found = diff(first, second)
    assert found.recipe == ("precision: float32 -> bfloat16",)
    assert (found.only_first, found.only_second, found.changed) == (30, 1, 1)
    assert found.moved == sum(ids.index(name) != row for row, name in enumerate(other[:-1]))
    assert found.heads == (f"`tokens` is only in {second}",)
    assert found.features["pooled"].rows == 19 and found.features["pooled"].worst == ids.index(other[5])
    assert found.features["pooled"].cosine < 0.99
    same = diff(first, first)
    assert same.features["pooled"].difference == 0 and same.moved == 0 and "recipe: the same" in str(same)


def test_leftovers_are_listed_first_and_deleted_on_request(make: Any, ids: list[str], tmp_path: Path):
    folder, cache = tmp_path / "features", tmp_path / "cache"
    heads = {"pooled": Head((6,), "float32", codec="zstd")}
    for name in ("kept", "gone"):
        store = make(ids, heads=heads, path=folder / name, recipe={"model": name})
        store.reader(mode="cache", cache=cache)
    shutil.rmtree(folder / "gone")
    make(ids, path=folder / "half")
    make(ids, path=folder / "half", recipe={"model": "n"}, stop_after=2)
    (folder / "half" / "pooled" / "c.2.0.partial").write_bytes(bytes(10))
    (cache / "mine").mkdir()
    (cache / f".{'0' * 32}.abcd_123.partial" / "pooled").mkdir(parents=True)
    told = leftovers(folder, cache)
    assert not told.deleted and len(told.found) == 5 and "5 leftovers" in str(told)
    assert (folder / "half" / "replaced").exists()
    done = leftovers(folder, cache, delete=True)
    assert done.deleted and done.found.keys() == told.found.keys()
    assert leftovers(folder, cache).found == {}
    kept = FeatureStore.open(folder / "kept")
    assert {path.name for path in cache.iterdir() if path.is_dir()} == {"mine", kept.head_digest("pooled")}
    assert make(ids, path=folder / "half", recipe={"model": "n"}) is not None
    assert make.notes == ["continuing: 2 of 7 shards are there"]


def fill(folder: Path, *names: str) -> None:
    """Files of a user."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")


def everything(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_folders_that_merely_have_the_names_of_leftovers_are_not_touched(make: Any, ids: list[str], tmp_path: Path):
    """As in a home folder, or in a folder where other tools keep things."""
    home, cache = tmp_path / "home", tmp_path / "cache"
    for folder in ("work", "work/deep"):
        fill(home / folder, "replaced/1/thesis.txt", "replaced/thesis.txt", "locks/keys.txt", "a/b.partial")
    fill(home, "replaced/1/zarr.json", "replaced/photo.jpg", "locks/setup", "x.partial")
    make(ids, path=home / "s.zarr")
    fill(home / "s.zarr", "replaced/1/thesis.txt", "replaced/2/zarr.json", "locks/keys.txt", "notes/x.partial")
    fill(home / "s.zarr", "pooled/thesis.partial", "notes.txt.partial")
    fill(
        cache,
        "0" * 32 + "/mine.txt",
        "photos/mine.txt",
        "." + "0" * 32 + ".mine.partial/mine.txt",
        ".x.partial/mine.txt",
    )
    before = everything(tmp_path)
    assert leftovers(home, cache, delete=True).found == {}
    assert leftovers(home / "s.zarr", cache, delete=True).found == {}
    assert everything(tmp_path) == before


def test_sizes_of_leftovers_are_listed(make: Any, ids: list[str], tmp_path: Path):
    folder = tmp_path / "features"
    make(ids, path=folder / "a")
    make(ids, path=folder / "a", recipe={"model": "n"}, stop_after=1)
    (folder / "a" / "pooled" / "c.4.0.partial").write_bytes(bytes(1234))
    before = everything(folder)
    text = str(leftovers(folder, tmp_path / "cache"))
    replaced = sum(file.stat().st_size for file in (folder / "a" / "replaced" / "1").rglob("*") if file.is_file())
    assert f"{folder}/a/replaced/1: {replaced:,} bytes" in text
    assert f"{folder}/a/pooled/c.4.0.partial: 1,234 bytes" in text and "would be deleted with --delete" in text
    assert everything(folder) == before


def test_raw_copies_of_other_projects_and_those_in_use_are_left(make: Any, ids: list[str], tmp_path: Path):
    cache, heads = tmp_path / "cache", {"pooled": Head((6,), "float32", codec="zstd")}
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder, name in ((ours, "x"), (theirs, "y"), (ours, "shared")):
        make(ids, heads=heads, path=folder / name, recipe={"model": name}).reader(mode="cache", cache=cache)
    shutil.copytree(ours / "shared", theirs / "shared")
    FeatureStore.open(theirs / "shared").reader(mode="cache", cache=cache)
    in_use = make(ids, heads=heads, path=ours / "z", recipe={"model": "z"}).reader(mode="cache", cache=cache)
    digests = {path.name: FeatureStore.open(path).head_digest("pooled") for path in [*ours.iterdir(), theirs / "y"]}
    shutil.rmtree(ours)
    shutil.rmtree(theirs / "y")
    ours.mkdir()
    assert set(leftovers(ours, cache, delete=True).found) == {str(cache / digests["x"])}
    assert {path.name for path in cache.iterdir() if path.is_dir()} == {digests[name] for name in ("y", "shared", "z")}
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(in_use))(range(50)), in_use(range(50)))
    del in_use
    assert set(leftovers(ours, cache, delete=True).found) == {str(cache / digests["z"])}
    assert not (cache / f"{digests['z']}.lock").exists()


def test_a_store_that_is_being_written_has_no_leftovers(make: Any, ids: list[str], index: Any, tmp_path: Path):
    folder = tmp_path / "features"
    options = {"rows": index(ids), "dataset": "d", "recipe": {}, "heads": {"pooled": Head((6,))}}
    with StoreWriter.open(folder / "a", **options) as writer:
        next(writer.missing())
        assert leftovers(folder, tmp_path / "cache", delete=True).found == {}
        assert (folder / "a" / "locks" / "shard-0").exists()
