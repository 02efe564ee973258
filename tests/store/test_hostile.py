"""Stores from elsewhere: whatever is in one, each command ends soon, with one line, in bounded memory."""

import functools
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.files import write_atomically
from pipeline.locks import Lock
from pipeline.store import FeatureStore, Head, RowIndex, StoreWriter
from pipeline.store.backends.local import LocalBackend
from pipeline.store.inspection import describe, diff, leftovers, list_stores
from pipeline.store.interchange import export
from pipeline.store.verification import verify
from tests.memory import at_most
from tests.store.hostile import HARMLESS, KINDS, STORES, replace, rewrite


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("sound") / "store.zarr"
    random = np.random.default_rng(0)
    rows = RowIndex([f"r{row}" for row in range(40)], random.integers(0, 256, (40, 16), dtype=np.uint8))
    heads = {"pooled": Head((4,), "float16", "raw"), "small": Head((4,), "int8", "raw"), "z": Head((4,), codec="zstd")}
    with StoreWriter.open(path, rows=rows, dataset="d", recipe={"a": 1}, heads=heads, shard_rows=16) as writer:
        for shard in writer.missing():
            writer.write(shard, {name: random.normal(size=(shard.stop - shard.start, 4)) for name in heads})
    return path


@pytest.fixture
def store(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "stores" / "store.zarr"))


@pytest.fixture(autouse=True)
def bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("AFT_CACHE", str(tmp_path / "cache"))
    with at_most(2 << 30):
        yield


def _use(store: Path) -> int:
    """Do everything that commands do with a store. Returns how often it was refused; nothing else may be raised."""
    refused = 0

    def attempt(what: Callable[[], object]) -> None:
        nonlocal refused
        try:
            str(what())
        except UserError:
            refused += 1

    def read() -> object:
        opened = FeatureStore.open(store)
        return [opened.ids, *(opened.reader(head)(np.arange(len(opened))) for head in opened.heads)]

    attempt(lambda: verify(store))
    attempt(lambda: describe(store))
    attempt(lambda: list_stores(store.parent))
    attempt(lambda: diff(store, store))
    attempt(lambda: leftovers(store.parent, store.parent / "cache", delete=False))
    attempt(lambda: export(FeatureStore.open(store), store.parent / "out.npy", "pooled"))
    attempt(read)
    return refused


def test_a_sound_store_is_used(store: Path):
    assert _use(store) == 0


@pytest.mark.parametrize("name", STORES)
def test_a_store_from_elsewhere(store: Path, name: str):
    STORES[name](store)
    harmless = name.startswith(("replaced/", *HARMLESS)) or name.partition(": ")[2].startswith(("locks", "replaced"))
    assert _use(store) > 0 or harmless or not verify(store).sound


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("file", ["small/c.0.json", "small.scale/c.0", "z/c.0.0"])
def test_a_file_of_a_compressed_or_scaled_head(store: Path, file: str, kind: str):
    replace(store / file, kind)
    assert _use(store) > 0 or not verify(store).sound


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "missing"])
def test_a_store_whose_record_is_no_file_is_listed_with_the_reason(store: Path, kind: str):
    replace(store / "zarr.json", kind)
    (found,) = list_stores(store.parent).stores
    assert "zarr.json" in found["state"]


def test_verify_says_at_once_that_rows_are_not_there(store: Path):
    STORES["claims: 10^12 rows"](store)
    found = verify(store)
    assert len(found.faults) == 1 and "claims 1,000,000,000,000 rows" in str(found)


@pytest.mark.parametrize("name", [name for name in STORES if name.startswith("replaced/")])
def test_what_is_below_replaced_by_another_name_is_not_deleted(store: Path, name: str):
    STORES[name](store)
    (folder,) = (store / "replaced").iterdir()
    leftovers(store.parent, store.parent / "cache", delete=True)
    assert folder.exists()


def test_folders_deeper_than_the_stack(store: Path):
    below = store / "replaced"
    script = "import os, sys\nfor _ in range(1500):\n    os.mkdir('a'); os.chdir('a')"
    below.mkdir()
    subprocess.run([sys.executable, "-c", script], cwd=below, check=True)
    try:
        _use(store)
    finally:
        subprocess.run(["rm", "-rf", str(below)], check=True)


def test_a_marker_of_another_shard(store: Path):
    shutil.copy(store / "pooled" / "c.1.json", store / "pooled" / "c.0.json")
    assert _use(store) > 0


@pytest.mark.parametrize(
    "use",
    [
        lambda store: store.put("pooled/c.0.0", [b"new"]),
        lambda store: store.put_together({"pooled/c.0.0": b"new"}),
        lambda store: store.copy("zarr.json", "pooled/c.0.0"),
        lambda store: store.move("zarr.json", "pooled/c.0.0"),
        lambda store: store.delete("pooled/c.0.0"),
        lambda store: store.claim("setup").acquire(),
    ],
)
def test_nothing_is_written_into_a_folder_that_is_a_link(store: Path, tmp_path: Path, use: Callable):
    before = tmp_path / "elsewhere"
    before.mkdir()
    for name in ("c.0.0", "setup"):
        (before / name).write_text("kept")
    for name in ("pooled", "locks"):
        replace(store / name, "missing")
        (store / name).symlink_to(before)
    with pytest.raises(UserError, match="is a link, and a store writes into folders of its own"):
        use(LocalBackend(store))
    assert {path.name: path.read_text() for path in before.iterdir()} == {"c.0.0": "kept", "setup": "kept"}


def test_a_folder_that_is_a_link_is_not_walked(store: Path, tmp_path: Path):
    shutil.copytree(store, tmp_path / "elsewhere" / "1")
    (store / "replaced").symlink_to(tmp_path / "elsewhere")
    leftovers(store.parent, store.parent / "cache", delete=True)
    assert (tmp_path / "elsewhere" / "1" / "zarr.json").exists()


def test_nothing_is_written_through_a_link(store: Path, tmp_path: Path):
    precious = tmp_path / "precious"
    precious.write_text("kept")
    (store / "locks").mkdir(exist_ok=True)
    (store / "locks" / "setup").unlink(missing_ok=True)
    (store / "locks" / "setup").symlink_to(precious)
    _use(store)
    with pytest.raises(UserError):
        Lock(store / "locks" / "setup").acquire()
    (tmp_path / "record.json.partial").symlink_to(precious)
    with pytest.raises(UserError):
        write_atomically(tmp_path / "record.json", "text")
    assert precious.read_text() == "kept"


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**31), 10**31),
    st.floats(),
    st.text(max_size=20),
    st.lists(st.integers(-1, 3), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


def places(record: object, place: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    """Where values are in a record."""
    keys = record if isinstance(record, dict) else range(len(record)) if isinstance(record, list) else ()
    return [found for key in keys for found in [(*place, key), *places(record[key], (*place, key))]]  # type: ignore[index]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_anywhere_in_a_record(sound: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    store = Path(shutil.copytree(sound, tmp_path_factory.mktemp("any") / "stores" / "store.zarr"))
    file = store / data.draw(st.sampled_from(["zarr.json", "pooled/zarr.json", "pooled/c.0.json", "rows/zarr.json"]))

    def change(record: dict) -> None:
        *above, last = data.draw(st.sampled_from(places(record)))
        inside = functools.reduce(lambda value, key: value[key], above, record)
        if data.draw(st.booleans()) and isinstance(inside, dict):
            inside[data.draw(st.text(max_size=5))] = inside.pop(last)
        else:
            inside[last] = data.draw(ODD)

    try:
        rewrite(file, change, sign=data.draw(st.booleans()))
    except ValueError:  # NaN, which no JSON holds
        return
    _use(store)
    shutil.rmtree(store.parent)
