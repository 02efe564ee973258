"""Features of a file as a teacher: rows are found by their ids, whatever their order, and none is made up."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.data import Dataset, PrepareSettings, prepare
from pipeline.errors import UserError
from pipeline.extraction import ExtractSettings, extract
from pipeline.params import parse, read_plugin
from pipeline.store import FeatureStore
from pipeline.teachers import Teacher

VALUES = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
ORDER = np.random.default_rng(1).permutation(40)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("features")
    (folder / "t.csv").write_text("id,text,label\n" + "".join(f"r{n},text {n},{'ab'[n % 2]}\n" for n in range(30)))
    source = {"family": "text_table", "path": str(folder / "t.csv"), "id_column": "id", "label_column": "label"}
    prepare(parse(PrepareSettings, {"source": source}, "dataset"), folder / "data")
    return Dataset.open(folder / "data")


def load(**settings: Any) -> Teacher:
    family, parsed = read_plugin("teachers", {"family": "features", **settings}, "teachers.own")
    return family.load(parsed, "float32", torch.device("cpu"))


def npy(folder: Path, ids: list[str]) -> dict[str, str]:
    np.save(folder / "own.npy", VALUES[ORDER][: len(ids)])
    (folder / "ids.txt").write_text("".join(f"{id}\n" for id in ids))
    return {"path": str(folder / "own.npy"), "ids": str(folder / "ids.txt")}


def parquet(folder: Path, ids: list[str]) -> dict[str, str]:
    table = pa.table({"id": ids, "embedding": VALUES[ORDER].tolist()})
    pq.write_table(table, folder / "own.parquet", row_group_size=7)
    return {"path": str(folder / "own.parquet")}


@pytest.mark.parametrize("written", [npy, parquet])
def test_rows_get_the_features_of_their_ids(tmp_path: Path, data: Dataset, written):
    teacher = load(**written(tmp_path, [f"r{n}" for n in ORDER]))
    extract(
        data, teacher, tmp_path / "own.zarr", parse(ExtractSettings, {"dtype": "float32", "shard_rows": 11}, "extract")
    )
    store = FeatureStore.open(tmp_path / "own.zarr")
    store.check(dataset=data.digest, ids=data.ids)
    assert (store[np.arange(30)] == VALUES[:30]).all()


def test_a_number_a_row_is_a_feature(tmp_path: Path, data: Dataset):
    np.save(tmp_path / "own.npy", VALUES[ORDER][:, 0])
    (tmp_path / "ids.txt").write_text("".join(f"r{n}\n" for n in ORDER))
    teacher = load(path=str(tmp_path / "own.npy"), ids=str(tmp_path / "ids.txt"))
    extract(data, teacher, tmp_path / "own.zarr", parse(ExtractSettings, {"dtype": "float16"}, "extract"))
    found = FeatureStore.open(tmp_path / "own.zarr")[np.arange(30)]
    assert found.tolist() == VALUES[:30, 0].astype(np.float16).tolist()


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_ids_of_windows_and_with_marks_of_unicode_are_read(tmp_path: Path, end: str):
    ids = ["r0", "a\u2028b", "c\x85d"]
    np.save(tmp_path / "own.npy", VALUES[:3])
    (tmp_path / "ids.txt").write_bytes("".join(["\ufeff", *(id + end for id in ids)]).encode())
    assert list(load(path=str(tmp_path / "own.npy"), ids=str(tmp_path / "ids.txt")).ids) == ids


def test_ids_without_features_are_named_before_the_first_shard(tmp_path: Path, data: Dataset):
    teacher = load(**parquet(tmp_path, [f"r{n}" if n % 4 else f"other {n}" for n in ORDER]))
    with pytest.raises(
        UserError, match=r"own: 8 of 30 rows have no features: r0, r4, r8, r12, r16 \.\.\.; .*own.parquet"
    ):
        extract(data, teacher, tmp_path / "own.zarr", ExtractSettings(), name="own")
    assert not (tmp_path / "own.zarr").exists()


def test_other_values_are_another_recipe(tmp_path: Path):
    ids = [f"r{n}" for n in range(9)]
    first = load(**npy(tmp_path, ids)).recipe
    assert load(**npy(tmp_path, ids)).recipe == first
    assert load(**npy(tmp_path, [*ids[:-1], "x"])).recipe != first
    np.save(tmp_path / "own.npy", VALUES[:9] + 1)
    assert load(path=str(tmp_path / "own.npy"), ids=str(tmp_path / "ids.txt")).recipe != first


def test_files_that_do_not_fit_are_refused(tmp_path: Path):
    settings = npy(tmp_path, [f"r{n}" for n in range(9)])
    with pytest.raises(UserError, match=r"own.npy: no ids of rows there; write them to a file"):
        load(path=settings["path"])
    with pytest.raises(UserError, match=r"none.txt: no such file; check `ids`"):
        load(path=settings["path"], ids=str(tmp_path / "none.txt"))
    for ids, message in (
        (["a"] * 9, "the id 'a' occurs twice"),
        (["a"], r"ids.txt: 1 id, and .*own.npy has 9 rows"),
    ):
        (tmp_path / "ids.txt").write_text("\n".join(ids))
        with pytest.raises(UserError, match=message):
            load(**settings)
    with pytest.raises(UserError, match=r"none.npy: no such file"):
        load(path=str(tmp_path / "none.npy"))
