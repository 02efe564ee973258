"""Opening a store and asking it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.store import FeatureStore, Head


def test_rows_are_asked_for_as_of_an_array(make: Any, ids: list[str], features: Any):
    store = make(ids)
    exact = features(ids, (6,))
    for rows in (
        3,
        -1,
        np.int64(7),
        slice(None),
        slice(5, 45, 3),
        [1, 1, 0],
        np.arange(50) % 3 == 0,
        np.array([], int),
    ):
        np.testing.assert_array_equal(store[rows], exact[rows])
    for wrong in (50, -51, [50], [-1], np.ones(49, bool)):
        with pytest.raises(IndexError):
            store[wrong]


def test_a_store_tells_what_it_is(make: Any, ids: list[str]):
    store = make(ids, recipe={"model": "m"}, dataset="tweets", created_by={"numpy": "2"})
    assert len(store) == 50 and list(store.ids) == ids
    assert (store.recipe, store.dataset, store.created_by) == ({"model": "m"}, "tweets", {"numpy": "2"})
    assert store.heads == {"pooled": Head((6,), "float32")} and store.incomplete == {}
    files = [file for file in (make.path / "pooled").iterdir() if not file.name.endswith(".json")]
    assert store.nbytes == store.head_nbytes("pooled") == sum(file.stat().st_size for file in files)
    assert repr(store).endswith("50 rows; pooled (6,) float32)")


def test_the_content_digest_is_that_of_what_a_student_sees(make: Any, ids: list[str], features: Any, tmp_path: Path):
    base = make(ids).content_digest
    changes = [
        {"recipe": {"model": "n"}},
        {"heads": {"pooled": Head((6,), "float16")}},
        {"heads": {"cls": Head((6,), "float32")}},
        {"features": lambda names, shape: features(names, shape, 1)},
    ]
    digests = {make(ids, path=tmp_path / str(k), **change).content_digest for k, change in enumerate(changes)}
    digests.add(make(ids[::-1], path=tmp_path / "order").content_digest)
    assert len(digests | {base}) == 6
    same = make(ids, path=tmp_path / "same", dataset="another name", created_by={"numpy": "3"})
    assert same.content_digest == base


def test_a_store_of_other_rows_is_distinguished_from_the_right_one(make: Any, ids: list[str]):
    store = make(ids)
    store.check(dataset="data", ids=ids)
    store.check(ids=np.array(ids))
    with pytest.raises(UserError, match="features of another dataset"):
        store.check(dataset="other")
    with pytest.raises(UserError, match="row 2 is 'row 2', expected 'x'; extract again"):
        store.check(ids=[*ids[:2], "x", *ids[3:]])
    with pytest.raises(UserError, match="row 50 is the end after 50 rows, expected 'x'"):
        store.check(ids=[*ids, "x"])
    with pytest.raises(UserError, match="row 49 is 'row 49', expected the end after 49 rows"):
        store.check(ids=ids[:-1])


def test_what_is_missing_is_reported(make: Any, ids: list[str], tmp_path: Path):
    for name, remedy in (
        ("wise.zarr", "run `aft extract wise` first"),
        ("nothing", "check the path; `aft extract NAME` writes features/NAME.zarr"),
    ):
        with pytest.raises(UserError, match=f"no feature store there; {remedy}"):
            FeatureStore.open(tmp_path / name)
    pytest.importorskip("fsspec")
    with pytest.raises(UserError, match="no feature store there; check the URL"):
        FeatureStore.open(f"memory://{tmp_path.name}/wise.zarr")
    store = make(ids, heads={"cls": Head((6,)), "tokens": Head((2, 3))})
    with pytest.raises(UserError, match="no head `pooled`; there are cls, tokens"):
        store.reader()
    with pytest.raises(UserError, match="no head `layer:3`"):
        store.reader("layer:3")


def test_an_incomplete_head_does_not_keep_the_complete_ones_from_being_read(make: Any, ids: list[str], features: Any):
    make(ids)
    make(ids, heads={"tokens": Head((2, 3))}, stop_after=2)
    store = FeatureStore.open(make.path)
    assert list(store.heads) == ["pooled"] and store.incomplete == {"tokens": 2}
    np.testing.assert_array_equal(store[:], features(ids, (6,)))
    with pytest.raises(UserError, match="head `tokens` is not complete, 2 of 7 shards are there"):
        store.reader("tokens")


def test_a_marker_of_another_recipe_is_never_believed(make: Any, ids: list[str], tmp_path: Path):
    make(ids)
    make(ids, path=tmp_path / "other", recipe={"model": "n"})
    for name in ("c.4.0", "c.4.json"):
        shutil.copy(tmp_path / "other" / "pooled" / name, make.path / "pooled" / name)
    with pytest.raises(UserError, match=r"head `pooled`, shard 4 \(rows 32-39\): marker of another recipe"):
        FeatureStore.open(make.path)


def test_a_marker_of_another_shard_is_never_believed(make: Any, ids: list[str]):
    make(ids)
    for name in ("c.{}.0", "c.{}.json"):
        shutil.copy(make.path / "pooled" / name.format(1), make.path / "pooled" / name.format(4))
    with pytest.raises(UserError, match="marker of rows 8-15"):
        FeatureStore.open(make.path)


@pytest.mark.parametrize("how", ["copy", "hard links", "symbolic links", "move"])
def test_a_store_may_be_copied_linked_or_moved(make: Any, ids: list[str], features: Any, tmp_path: Path, how: str):
    before = make(ids).content_digest
    target = tmp_path / "elsewhere" / "s"
    match how:
        case "copy":
            shutil.copytree(make.path, target)
        case "hard links":
            shutil.copytree(make.path, target, copy_function=os.link)
        case "symbolic links":
            shutil.copytree(make.path, target, copy_function=lambda source, name: Path(name).symlink_to(source))
        case "move":
            target.parent.mkdir()
            shutil.move(make.path, target)
    for file in target.rglob("*"):
        if file.is_file() and not file.is_symlink():
            file.chmod(0o444)
    store = FeatureStore.open(target)
    assert store.content_digest == before
    np.testing.assert_array_equal(store[:], features(ids, (6,)))
    more = [*ids, "new"]
    np.testing.assert_array_equal(make(more, path=target)[:], features(more, (6,)))
    assert make.computed == ["new"]


def test_importing_the_store_is_quick_and_takes_neither_torch_nor_zarr_along():
    code = "import sys, pipeline.store; sys.exit(bool({'torch', 'zarr', 'pyarrow', 'h5py'} & set(sys.modules)))"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_opening_does_not_depend_on_the_number_of_rows(make: Any, monkeypatch: pytest.MonkeyPatch, ids: list[str]):
    """No file that grows with the rows is read."""
    make(ids)
    from pipeline.store.backends.local import LocalBackend

    read = LocalBackend.read
    names = []

    def watched(folder: LocalBackend, file: str) -> bytes | None:
        names.append(file)
        return read(folder, file)

    monkeypatch.setattr(LocalBackend, "read", watched)
    FeatureStore.open(make.path)
    assert names == ["zarr.json", *(f"pooled/c.{shard}.json" for shard in range(7))]
