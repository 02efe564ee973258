"""Mapped files are compared with their checksums before results are kept, and only once."""

import multiprocessing
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import verified
from pipeline.errors import UserError
from pipeline.store import FeatureStore, Head

HEADS = {"pooled": Head((6,), "float32"), "small": Head((5,), "int8"), "sparse": Head((16,), "float32", codec="zstd")}


@pytest.fixture
def store(make: Any, ids: list[str]) -> FeatureStore:
    return make(ids, heads=HEADS)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were read to be compared, so far."""
    names: list[str] = []
    checksum = verified.file_checksum

    def watched(path: Path) -> str:
        names.append(path.name)
        return checksum(path)

    monkeypatch.setattr(verified, "file_checksum", watched)
    return names


def flip(path: Path, at: int = 5) -> None:
    """Change one bit; the file stays as long as it was."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("mode", ["mapped", "window"])
@pytest.mark.parametrize("background", [False, True])
def test_a_flipped_bit_in_a_mapped_file_is_an_error_before_results_are_kept(
    store: FeatureStore, make: Any, mode: str, background: bool
):
    flip(make.path / "pooled" / "c.3.0")
    reader = store.reader("pooled", mode=mode)
    if background:
        reader.verify_in_background()
    for _ in range(2):
        with pytest.raises(UserError, match=r"pooled/c\.3\.0: damaged; delete this file and run the extraction again"):
            reader.verified()
    make.path.joinpath("pooled", "c.3.0").unlink()
    make([f"row {number}" for number in range(50)], heads=HEADS)
    FeatureStore.open(make.path).reader("pooled", mode=mode).verified()


def test_a_scale_counts_as_well(store: FeatureStore, make: Any):
    flip(make.path / "small.scale" / "c.1")
    store.reader("pooled").verified()
    with pytest.raises(UserError, match=r"small\.scale/c\.1: damaged"):
        store.reader("small").verified()


@pytest.mark.parametrize("mode", ["resident", "device"])
@pytest.mark.parametrize("head", list(HEADS))
def test_rows_that_are_loaded_are_compared_as_they_come(store: FeatureStore, make: Any, mode: str, head: str):
    store.reader(head, mode=mode, device="cpu").verified()
    flip(make.path / head / "c.3.0")
    with pytest.raises(UserError, match=rf"{head}/c\.3\.0 \(rows 24-31\): damaged"):
        store.reader(head, mode=mode, device="cpu")


@pytest.mark.parametrize("mode", ["mapped", "window", "resident", "device"])
def test_who_knows_better_reads_what_differs_from_its_checksum(
    store: FeatureStore, make: Any, mode: str, monkeypatch: pytest.MonkeyPatch
):
    flip(make.path / "pooled" / "c.3.0")
    monkeypatch.setenv(verified.NO_VERIFY, "1")
    reader = store.reader("pooled", mode=mode, device="cpu")
    reader.verified()
    assert len(reader(np.arange(24, 32))) == 8


def test_unchanged_files_are_read_once_by_all_processes(store: FeatureStore, make: Any, read: list[str]):
    reader = store.reader("pooled")
    reader.verified()
    reader.verified()
    assert read == [f"c.{shard}.0" for shard in range(7)]
    FeatureStore.open(make.path).reader("pooled").verified()
    pickle.loads(pickle.dumps(reader)).verified()
    assert len(read) == 7
    store.reader("small").verified()
    assert len(read) == 21, "another head has files of its own"


def test_a_file_that_changed_is_read_again(store: FeatureStore, make: Any, read: list[str]):
    store.reader("pooled").verified()
    shard = make.path / "pooled" / "c.2.0"
    shutil.copy(shard, make.path / "copy")
    (make.path / "copy").rename(shard)
    read.clear()
    store.reader("pooled").verified()
    assert read == ["c.2.0"]
    flip(shard)
    with pytest.raises(UserError, match=r"c\.2\.0: damaged"):
        store.reader("pooled").verified()


@pytest.mark.parametrize("what", ["not JSON", "a list", "nowhere to write"])
def test_without_memory_of_it_files_are_read_again(
    store: FeatureStore, own_cache: Path, read: list[str], what: str, monkeypatch: pytest.MonkeyPatch
):
    if what == "nowhere to write":
        (own_cache / "verified").write_text("a file")
    store.reader("pooled").verified()
    for record in own_cache.glob("verified/*"):
        record.write_text("{" if what == "not JSON" else "[1]")
    store.reader("pooled").verified()
    assert len(read) == 14


def test_a_shard_that_is_gone_is_named(store: FeatureStore, make: Any):
    reader = store.reader("pooled")
    (make.path / "pooled" / "c.6.0").unlink()
    with pytest.raises(UserError, match=r"c\.6\.0: no such file; run the extraction again"):
        reader.verified()


def _verify(reader: Any, answer: Any) -> None:
    try:
        reader.verified()
        answer.put("sound")
    except UserError as error:
        answer.put(str(error))


def test_a_forked_process_compares_by_itself(store: FeatureStore, make: Any, monkeypatch: pytest.MonkeyPatch):
    flip(make.path / "pooled" / "c.0.0")
    reader = store.reader("pooled")
    # As if the process forked before its thread had run.
    monkeypatch.setattr(reader._files, "_thread", type("Ended", (), {"join": lambda self: None})())
    context = multiprocessing.get_context("fork")
    answer = context.Queue()
    child = context.Process(target=_verify, args=(reader, answer))
    child.start()
    assert "c.0.0: damaged" in answer.get()
    child.join()


def test_a_raw_copy_is_compared_with_what_was_written_into_it(store: FeatureStore, tmp_path: Path):
    reader = store.reader("sparse", mode="cache", cache=tmp_path / "cache")
    reader.verified()
    copy = tmp_path / "cache" / store.head_digest("sparse")
    flip(copy / "sparse" / "c.2.0")
    with pytest.raises(UserError, match=r"sparse/c\.2\.0: damaged; delete .*; it is made again from the store"):
        store.reader("sparse", mode="cache", cache=tmp_path / "cache").verified()
    shutil.rmtree(copy)
    again = store.reader("sparse", mode="cache", cache=tmp_path / "cache")
    again.verified()
    np.testing.assert_array_equal(again(range(50)), store.reader("sparse")(range(50)))
