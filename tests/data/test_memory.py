"""What a row takes of the memory while data is prepared and read: some numbers, and no objects."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.data import Dataset, PrepareSettings, preparation, prepare
from pipeline.store import Head, RowIndex, StoreWriter
from pipeline.students import _tokens, bag_of_words
from pipeline.training.outputs import SavedOutputs, write_outputs
from tests.memory import bytes_a_row

FEW, MANY = 1_500, 4_500


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Writes a table of so many short texts."""
    folder = tmp_path_factory.mktemp("tables")

    def written(rows: int) -> Path:
        path = folder / f"{rows}.csv"
        if not path.exists():
            lines = (f"a-name-of-some-length-{row},{row % 97} {row // 97} words,{row % 2}" for row in range(rows))
            path.write_text("\n".join(["id,text,label", *lines]) + "\n")
        return path

    return written


def settings(path: Path, **more: object) -> PrepareSettings:
    source = {"family": "text_table", "path": str(path), "label_column": "label"} | more
    return PrepareSettings(source=source, task="classification", no_label=(), val=100, test=0.1, labelled=200)


@pytest.fixture(scope="module")
def dataset(table: Callable[[int], Path]) -> Callable[[int], Path]:
    """Prepares a dataset of so many rows."""

    def prepared(rows: int) -> Path:
        path = table(rows).with_suffix("")
        if not path.exists():
            prepare(settings(table(rows), id_column="id"), path)
        return path

    return prepared


@pytest.mark.parametrize("ids", [{"id_column": "id"}, {}])
def test_preparing_takes_a_hundred_bytes_a_row(
    table: Callable[[int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ids: dict[str, str]
) -> None:
    monkeypatch.setattr(preparation, "BATCH_ROWS", 256)
    assert bytes_a_row(lambda rows: prepare(settings(table(rows), **ids), tmp_path / "data"), FEW, MANY) < 140


def test_ids_of_a_dataset_take_nothing_and_those_of_a_store_their_own_bytes(
    dataset: Callable[[int], Path], tmp_path: Path
) -> None:
    paths = {rows: dataset(rows) for rows in (FEW, MANY)}
    assert bytes_a_row(lambda rows: len(set(Dataset.open(paths[rows]).ids[[0, rows - 1]])), FEW, MANY) < 1

    def write(rows: int) -> None:
        data = Dataset.open(paths[rows])
        index = RowIndex(data.ids, data.row_digests)
        heads = {"pooled": Head((2,))}
        with StoreWriter.open(
            tmp_path / f"{rows}.zarr", rows=index, dataset=data.digest, recipe={}, heads=heads, shard_rows=500
        ) as writer:
            for shard in writer.missing():
                writer.write(shard, {"pooled": np.ones((len(shard), 2), np.float16)})
            assert writer._rows.ids.first_difference(data.ids) is None

    # An id of 26 letters, where it ends, a digest, and while equal ids are looked for a hash and a place of each.
    assert bytes_a_row(write, FEW, MANY) < 26 + 8 + 16 + 40


def test_words_are_counted_and_encoded_block_by_block(
    dataset: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_tokens, "ROWS", 256)
    monkeypatch.setattr("pipeline.students._words.ROWS", 256)
    opened = {rows: Dataset.open(dataset(rows)) for rows in (FEW, MANY)}
    fitting = bag_of_words.Settings(vocabulary=100)

    def read(rows: int) -> None:
        fitted = bag_of_words.fit(fitting, opened[rows], np.arange(rows))
        bag_of_words.inputs(fitting, fitted, opened[rows])

    assert bytes_a_row(read, FEW, MANY) < 20


def test_ids_of_outputs_take_their_own_bytes(dataset: Callable[[int], Path], tmp_path: Path) -> None:
    opened = {rows: Dataset.open(dataset(rows)) for rows in (FEW, MANY)}

    def write(rows: int) -> None:
        ids = opened[rows].ids.take(np.arange(rows))
        outputs = np.broadcast_to(np.float32(0), (rows, 1))
        write_outputs(tmp_path / "o.parquet", [SavedOutputs(0, "test", ids, np.broadcast_to(0, rows), outputs)])

    assert bytes_a_row(write, FEW, MANY) < 150
