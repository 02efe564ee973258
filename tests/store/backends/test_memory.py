"""The backend in memory, which the tests of the whole store use, keeps the contract."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.store import FeatureStore, Head, RowIndex, StoreWriter, backends
from tests.store.backends.contract import BackendContract
from tests.store.backends.memory import MemoryBackend


class TestMemoryBackend(BackendContract):
    @pytest.fixture
    def backend(self) -> MemoryBackend:
        return MemoryBackend()


def test_a_new_place_is_one_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UserError, match="cannot be read"):
        FeatureStore.open("ram://somewhere")
    shutil.copy(Path(__file__).with_name("memory.py"), tmp_path / "ram.py")
    monkeypatch.setattr(backends, "__path__", [*backends.__path__, str(tmp_path)])
    with pytest.raises(UserError, match="ram://somewhere: no feature store there"):
        FeatureStore.open("ram://somewhere")
    rows = RowIndex(["a"], bytes(16))
    with StoreWriter.open("ram://somewhere", rows=rows, dataset="d", recipe={}, heads={"h": Head((2,))}) as writer:
        for shard in writer.missing():
            writer.write(shard, {"h": np.ones((1, 2))})
