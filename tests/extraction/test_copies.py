"""Workers in other processes: a pickled copy of a worker writes the same store, or is refused."""

import pickle
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from pipeline.data import Dataset
from pipeline.errors import UserError
from pipeline.extraction import ExtractSettings, extract
from pipeline.extraction.worker import ShardWorker
from pipeline.machine import Machine
from pipeline.provenance import digest_files
from pipeline.store import FeatureStore

from ..engines.lengths import Lengths
from ..engines.test_stages import toy as toy

SETTINGS = ExtractSettings(dtype="float32", shard_rows=64, batch_size=32)


@pytest.fixture
def inside(project: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """The dataset of a project that is the current folder."""
    monkeypatch.chdir(project)
    return Dataset.open("data")


def worker(data: Dataset, load: Callable[[], Lengths] | None = None) -> ShardWorker:
    return ShardWorker(data, Lengths(), Path("features/own.zarr"), SETTINGS, load=load)


def test_a_copy_writes_into_the_same_store_and_holds_nothing_afterwards(inside: Dataset, tmp_path: Path):
    extract(inside, Lengths(), tmp_path / "here.zarr", SETTINGS)
    with worker(inside) as own:
        own.writer.rest()
        copy = pickle.loads(pickle.dumps(own))
        assert sum(done.rows for done in copy(range(own.writer.layout.shards))) == len(inside)
        # Whoever finishes the store needs it alone: the copy is still there, and does not hold it.
        assert own.writer._life.acquire()
        own.resume()
        assert own.rows_missing() == 0
    assert digest_files(Path("features/own.zarr")) == digest_files(tmp_path / "here.zarr")


def test_a_copy_with_other_weights_is_refused_and_writes_nothing(inside: Dataset):
    with worker(inside, load=partial(Lengths, scale=2)) as own:
        pickled = pickle.dumps(own)
        before = digest_files(Path("features/own.zarr"))
        with pytest.raises(UserError, match=r"would write other features .*recipe\.scale: 1 -> 2\); give all machines"):
            pickle.loads(pickled)
        assert digest_files(Path("features/own.zarr")) == before


def test_a_copy_of_other_rows_is_refused(inside: Dataset, project: Path):
    with worker(inside) as own:
        pickled = pickle.dumps(own)
        # The folder is the same on all machines, and on this one it is not: an older copy, say.
        pickled = pickled.replace(inside.digest.encode(), inside.digest[::-1].encode())
        with pytest.raises(UserError, match=r"would write other features .*\(dataset: "):
            pickle.loads(pickled)


def test_a_copy_on_a_machine_with_its_own_project_is_refused(
    inside: Dataset, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(project, tmp_path / "elsewhere")
    with worker(inside) as own:
        pickled = pickle.dumps(own)
        monkeypatch.chdir(tmp_path / "elsewhere")
        with pytest.raises(UserError, match=r"own.zarr: is not the store that the command writes, or its file system"):
            pickle.loads(pickled)
        assert not Path("features/own.zarr/zarr.json").exists()


def test_values_too_large_widen_the_store_of_all_processes(inside: Dataset, toy: str):
    settings = SETTINGS.model_copy(update={"dtype": "float16"})
    result = extract(inside, Lengths(scale=100), Path("wide.zarr"), settings, Machine(engine=toy))
    assert result.rows == len(inside)
    assert FeatureStore.open("wide.zarr").heads["pooled"].dtype == "bfloat16"
    extract(inside, Lengths(scale=100), Path("usual.zarr"), settings)
    assert digest_files(Path("wide.zarr")) == digest_files(Path("usual.zarr"))


def test_ranks_share_the_work_and_each_begins_elsewhere(inside: Dataset, monkeypatch: pytest.MonkeyPatch):
    order: list[int] = []

    def noted(make: Callable[[], ShardWorker], shards: list[int], *settings: object) -> object:
        order.extend(shards)
        return make()(shards)

    monkeypatch.setattr("pipeline.extraction.extractor.engine", lambda name: noted)
    result = extract(inside, Lengths(), Path("own.zarr"), SETTINGS, rank=1, world=2)
    assert order == [2, 3, 0, 1]
    assert result.written == len(inside)
