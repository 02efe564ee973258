"""One file adds an engine: both stages run through one that loses workers, repeats items and knows no order."""

import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline import training
from pipeline.data import Dataset
from pipeline.extraction import ExtractSettings, extract
from pipeline.machine import Machine
from pipeline.params import Params
from pipeline.project import Project
from pipeline.provenance import digest_files
from pipeline.store import FeatureStore

from .lengths import Lengths


def unreliable(make_worker: Callable[[], Any], items: Sequence[Any], *settings: Any) -> Iterator[Any]:
    """A new worker from a pickle for every item, the last item first, and each of them twice."""
    maker = pickle.dumps(make_worker)
    for item in reversed(list(items)):
        for _ in range(2):
            yield from pickle.loads(maker)()([item])


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of that engine."""
    monkeypatch.setattr("pipeline.engines.plugin", lambda kind, name, where: SimpleNamespace(map=unreliable))
    return "toy"


def test_extraction_runs_through_any_engine(project: Path, tmp_path: Path, toy: str):
    data = Dataset.open(project / "data")
    settings = ExtractSettings(dtype="float32", shard_rows=64)
    result = extract(data, Lengths(), tmp_path / "toy.zarr", settings, Machine(engine=toy))
    assert (result.written, result.reused) == (len(data), 0)
    rows = np.arange(len(data))
    expected = [Lengths().transform(text) for text in data.content(rows)]
    np.testing.assert_array_equal(FeatureStore.open(tmp_path / "toy.zarr")[rows], expected)


def test_training_runs_through_any_engine(project: Path, params: Params, toy: str):
    params.values["train"] |= {"steps": 5, "seeds": [0, 1]}
    training.train("aft", params, Project(project))
    usual = digest_files(project / "runs" / "aft")
    trials = Project(project).trials.rename(project / "usual")
    params.values["machine"]["engine"] = toy
    assert training.train("aft", params, Project(project)).found == 0
    assert digest_files(project / "runs" / "aft") == usual
    assert {path.name for path in Project(project).trials.iterdir()} == {path.name for path in trials.iterdir()}
