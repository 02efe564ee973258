"""Small stores, quickly made: what the tests of the store share."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.store import FeatureStore, Head, RowIndex, StoreWriter
from pipeline.store.backends import Backend


def row_index(ids: Sequence[str]) -> RowIndex:
    """Rows whose content depends on their id alone."""
    digests = np.array([np.frombuffer(name.encode().rjust(16)[:16], np.uint8) for name in ids])
    return RowIndex(ids, digests)


def features_of(ids: Sequence[str], shape: tuple[int, ...], salt: int = 0) -> np.ndarray:
    """Features that depend on the id alone: a row has the same ones at any place. float32 [n, *shape]."""
    seeds = [[salt, *name.encode()] for name in ids]
    rows = [np.random.default_rng(seed).standard_normal(shape, dtype=np.float32) for seed in seeds]
    return np.stack(rows) if rows else np.zeros((0, *shape), np.float32)


class Maker:
    """Writes stores, and remembers what it was asked to compute.

    Attributes:
        computed: ids of all rows that the last call handed out, in order.
        notes: of the last call's writer.
    """

    def __init__(self, path: Path):
        self.path = path
        self.computed: list[str] = []
        self.notes: list[str] = []

    def __call__(
        self,
        ids: Sequence[str],
        heads: Mapping[str, Head] | None = None,
        recipe: Mapping[str, Any] | None = None,
        path: Path | Backend | None = None,
        stop_after: int | None = None,
        features: Callable[[Sequence[str], tuple[int, ...]], np.ndarray] = features_of,
        **options: Any,
    ) -> FeatureStore | None:
        """A store of the ids' features; None if it was stopped after so many shards."""
        heads = heads or {"pooled": Head((6,), "float32")}
        path = path or self.path
        self.computed = []
        options = {"dataset": "data", "shard_rows": 8, **options}
        with StoreWriter.open(
            path, rows=row_index(ids), recipe=recipe or {"model": "m"}, heads=heads, **options
        ) as writer:
            self.notes = writer.notes
            for number, shard in enumerate(writer.missing()):
                if number == stop_after:
                    return None
                names = [ids[row] for row in shard.rows]
                self.computed += names
                writer.write(shard, {name: features(names, head.shape) for name, head in heads.items()})
        return FeatureStore.open(path)


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here cuts the power, so flushing only takes time; tests/store/backends test that it is done."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache for each test, not the user's."""
    path = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("AFT_CACHE", str(path))
    return path


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    return Maker(tmp_path / "store.zarr")


@pytest.fixture
def ids() -> list[str]:
    """Fifty rows: six shards of eight, and one of two."""
    return [f"row {number}" for number in range(50)]


def tree(path: Path) -> dict[str, bytes]:
    """All files of a store, with their bytes."""
    return {f.relative_to(path).as_posix(): f.read_bytes() for f in sorted(path.rglob("*")) if f.is_file()}


@pytest.fixture
def files_of() -> Callable[[Path], dict[str, bytes]]:
    return tree


@pytest.fixture
def features() -> Callable[..., np.ndarray]:
    return features_of


@pytest.fixture
def index() -> Callable[[Sequence[str]], RowIndex]:
    return row_index
