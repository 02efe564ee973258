"""Files of kilobytes that expand to gigabytes are refused before they do; others are read as ever."""

import bz2
import gzip
import lzma
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import parquet
from pipeline.datasets.text_table import Settings, rows
from pipeline.errors import UserError
from pipeline.store.interchange import import_features
from tests.memory import at_most

MANY = 3_000_000
LONG = "x" * (1 << 16)


@pytest.fixture(autouse=True)
def bounded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small files, which are soon written, are judged as large ones are."""
    monkeypatch.setattr("pipeline.files.SMALL", 1 << 20)
    with at_most(768 << 20):
        yield


def same(value: str, count: int) -> pa.Array:
    """A column of equal texts, that takes the memory of one."""
    return pa.DictionaryArray.from_arrays(np.zeros(count, np.int32), pa.array([value]))


def write(path: Path, compression: str = "zstd", **columns: pa.Array) -> Path:
    pq.write_table(pa.table(columns), path, store_schema=False, compression=compression)
    return path


def test_more_rows_than_bytes(tmp_path: Path):
    path = write(tmp_path / "x.parquet", text=same("a", MANY))
    assert path.stat().st_size < 10_000
    with pytest.raises(UserError, match=r"x\.parquet: claims 3,000,000 rows, but has only [0-9,]+ bytes"):
        list(rows(Settings(path=str(path))))


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_text_that_repeats(tmp_path: Path, wrapped: bool):
    texts = same(LONG, 9000)
    if wrapped:
        texts = pa.ListArray.from_arrays(np.arange(0, 9001, dtype=np.int32), texts)
    path = write(tmp_path / "x.parquet", compression="none", text=texts, id=pa.array(np.arange(9000).astype(str)))
    with pytest.raises(
        UserError, match=r"bytes that expand to [0-9,]+ or more; a file may expand to 100 times its size"
    ):
        list(rows(Settings(path=str(path), text_column="id", label_column="text")))


def test_pages_that_become_much_more(tmp_path: Path):
    values = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(1 << 24, np.float32)), 1 << 18)
    pq.write_table(pa.table({"features": values}), tmp_path / "x.parquet", compression="zstd")
    del values
    with pytest.raises(UserError, match=r"bytes that expand to 67,[0-9,]+ or more"):
        import_features(tmp_path / "x.parquet", tmp_path / "x.zarr")
    assert not (tmp_path / "x.zarr").exists()


def test_ids_that_repeat(tmp_path: Path):
    values = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(2000, dtype=np.float32)), 1)
    write(tmp_path / "x.parquet", compression="none", features=values, id=same(LONG, 2000))
    with pytest.raises(UserError, match=r"bytes that expand to [0-9,]+ or more"):
        import_features(tmp_path / "x.parquet", tmp_path / "x.zarr")


@pytest.mark.parametrize("value", [b"\xff\xfe", ["a"], None, 1.5])
def test_ids_that_are_no_text(tmp_path: Path, value: object):
    values = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(4, dtype=np.float32)), 2)
    write(tmp_path / "x.parquet", features=values, id=pa.array([value, value]))
    with pytest.raises(UserError, match=r"x\.parquet: column `id` holds "):
        import_features(tmp_path / "x.parquet", tmp_path / "x.zarr")


def test_small_tables_may_repeat_as_they_like(tmp_path: Path):
    path = write(tmp_path / "x.parquet", text=same("a" * 10_000, 100))
    assert [row.content for row in rows(Settings(path=str(path)))] == ["a" * 10_000] * 100


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["a", None, "", "a", "ü"]),
        pa.array(["a", None, "", "a", "ü"], pa.large_string()),
        pa.array(["a", None, "", "a", "ü"]).dictionary_encode(),
        pa.array([b"a", None, b"\xff", b"", b"a"]),
        pa.array([1, None, 3, 4, 1]),
        pa.array([1.5, None, float("inf"), 0.0, 1.0]),
        pa.array([True, None, False, True, True]),
        pa.array([["a", "b"], None, [], ["a", None], ["b"]]),
        pa.array([["a", "b"], None, [], ["a", None], ["b"]], pa.large_list(pa.string())),
        pa.array([[1, 2], None, [3, 4], [5, None], [7, 8]], pa.list_(pa.int64(), 2)),
        pa.array([[["a"], []], None, [], [None, ["a", "b"]], [["c"]]]),
        pa.array([None] * 5),
    ],
    ids=lambda column: str(column.type),
)
@pytest.mark.parametrize("groups", [2, 5])
def test_cells_are_those_that_pyarrow_reads(tmp_path: Path, column: pa.Array, groups: int):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"x": column, "y": range(5)}), path, row_group_size=groups)
    expected = pq.read_table(path, columns=["x"]).to_pylist()
    batches = parquet.batches(path, parquet.opened(path), ["x"])
    assert [{"x": cell} for batch in batches for cell in parquet.cells(batch.column("x"))] == expected


PACKERS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: pa.Codec("zstd").compress(content, asbytes=True),
}


@pytest.mark.parametrize("suffix", PACKERS)
@pytest.mark.parametrize("form", [".csv", ".json", ".txt"])
def test_compressed_texts(tmp_path: Path, suffix: str, form: str):
    path = tmp_path / f"x{form}{suffix}"
    path.write_bytes(PACKERS[suffix](b"x" * (2 << 20)))
    with pytest.raises(
        UserError, match=r"bytes that expand to 1,[0-9,]+ or more; a file may expand to 100 times its size"
    ):
        list(rows(Settings(path=str(path))))


def test_hdf5_of_zeros(tmp_path: Path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("features", (100, 1 << 16), np.float32, chunks=(1, 1 << 16), compression="gzip")
        file["features"][0] = 1.0
    with pytest.raises(UserError, match=r"bytes that expand to 26,214,400 or more"):
        import_features(tmp_path / "x.h5", tmp_path / "x.zarr")


def test_hdf5_of_ids_that_repeat(tmp_path: Path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["features"] = np.ones((300, 2), np.float32)
        file.create_dataset("ids", data=np.array([b"x" * 100_000] * 300), chunks=(1,), compression="gzip")
    with pytest.raises(UserError, match=r"x\.h5: [0-9,]+ bytes that expand to "):
        import_features(tmp_path / "x.h5", tmp_path / "x.zarr")


def test_texts_are_made_once_though_arrow_gives_those_of_earlier_batches_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    texts = [None if row == 5 else f"text {row // 2}" for row in range(12)]
    path, made = write(tmp_path / "x.parquet", x=pa.array(texts)), list[int]()
    monkeypatch.setattr(parquet, "BATCH_ROWS", 4)

    def plain(column: pa.Array) -> list[str]:
        made.append(len(column))
        return column.to_pylist()

    batches = list(parquet.batches(path, parquet.opened(path), ["x"]))
    assert len(batches[-1].column("x").dictionary) == 6
    assert [cell for batch in batches for cell in parquet.cells(batch.column("x"), plain)] == texts
    assert made == [2, 2, 2]
