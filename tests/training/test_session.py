"""Where a training reads its teachers' features: on a GPU within a budget, else where they are; the same values."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from pipeline import training
from pipeline.data import Dataset, Split
from pipeline.errors import UserError
from pipeline.machine import Machine
from pipeline.params import Params
from pipeline.project import Project
from pipeline.runs import Run
from pipeline.store import FeatureStore, Reader
from pipeline.training import session as sessions
from pipeline.training.config import Plan

from ..conftest import class_logits, write_store

ROWS = np.array([3, 1, 4, 1, 5])


@pytest.fixture
def stores(project: Path) -> list[FeatureStore]:
    """Two stores of the same rows, the second one wider."""
    data = Dataset.open(project / "data")
    return [write_store(data, project / "features" / f"{width}.zarr", width, seed=width) for width in (8, 16)]


@pytest.fixture
def pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores that are asked for a GPU put their rows in ordinary memory."""
    reader = FeatureStore.reader

    def here(store: FeatureStore, *args: Any, device: str | None = None, **options: Any) -> Reader:
        return reader(store, *args, device=None if device is None else "cpu", **options)

    monkeypatch.setattr(FeatureStore, "reader", here)


def size(store: FeatureStore) -> int:
    return len(store) * store.heads["pooled"].row_bytes


def pooled(stores: list[FeatureStore]) -> list[tuple[FeatureStore, str]]:
    return [(store, "pooled") for store in stores]


def modes(readers: list[Reader]) -> list[str]:
    return [reader.mode for reader in readers]


@pytest.mark.usefixtures("pretended_gpu")
def test_teachers_share_the_gpus_budget_in_their_order(stores: list[FeatureStore]):
    gpu, (small, large) = torch.device("cuda"), map(size, stores)
    assert modes(sessions.open_readers(pooled(stores), gpu, small + large)) == ["device", "device"]
    assert modes(sessions.open_readers(pooled(stores), gpu, small + large - 1)) == ["device", "mapped"]
    assert modes(sessions.open_readers(pooled(stores), gpu, small - 1)) == ["mapped", "mapped"]
    assert modes(sessions.open_readers(pooled(stores[::-1]), gpu, large)) == ["device", "mapped"]


@pytest.mark.usefixtures("pretended_gpu")
def test_heads_of_the_teachers_own_get_what_features_leave_of_the_budget(project: Path):
    data, gpu = Dataset.open(project / "data"), torch.device("cuda")
    logits = class_logits(data)
    paths = [(project / "features" / f"{width}.zarr", width) for width in (8, 16)]
    stores = [write_store(data, path, width, width, logits) for path, width in paths]
    features, head = sum(map(size, stores)), len(data) * stores[0].heads["logits"].row_bytes

    heads = [(store, head) for head in ("pooled", "logits") for store in stores]

    def opened(budget: int) -> list[str]:
        return modes(sessions.open_readers(heads, gpu, budget))

    assert opened(features + 2 * head) == ["device"] * 4
    assert opened(features + 2 * head - 1) == ["device", "device", "device", "mapped"]
    assert opened(features) == ["device", "device", "mapped", "mapped"]
    readers = sessions.open_readers(heads, gpu, features + head)
    for reader in readers[2:]:
        assert np.array_equal(
            sessions.gather(reader, ROWS, torch.device("cpu")).numpy(), logits[ROWS].astype("float32")
        )


def test_without_a_gpu_features_stay_where_they_are(stores: list[FeatureStore]):
    assert modes(sessions.open_readers(pooled(stores), torch.device("cpu"), 10**12)) == ["mapped", "mapped"]


@pytest.mark.usefixtures("pretended_gpu")
def test_rows_are_the_same_wherever_they_are_read(stores: list[FeatureStore]):
    for budget in (0, 10**9):
        for reader, store in zip(
            sessions.open_readers(pooled(stores), torch.device("cuda"), budget), stores, strict=True
        ):
            found = sessions.gather(reader, ROWS, torch.device("cpu"))
            assert np.array_equal(found.numpy(), store[ROWS])


@pytest.mark.usefixtures("pretended_gpu")
def test_features_that_live_on_the_device_train_the_same_student_bit_for_bit(
    project: Path, params: Params, monkeypatch: pytest.MonkeyPatch
):
    def students() -> list[dict[str, np.ndarray]]:
        return [load_file(file) for file in sorted((project / "runs" / "aft" / "students").rglob("*.safetensors"))]

    params.values["train"]["steps"] = 5
    params.values["machine"]["workers"] = 1
    lines: list[str] = []
    training.train("aft", params, Project(project), say=lines.append)
    mapped = students()
    shutil.rmtree(project / "trials")
    open_readers = sessions.open_readers
    monkeypatch.setattr(
        sessions,
        "open_readers",
        lambda wanted, _, budget: open_readers(wanted, torch.device("cuda"), 10**9),
    )
    training.train("aft", params, Project(project), say=lines.append)
    assert lines[0].startswith("train aft: wise mapped: local and uncompressed")
    assert lines[2].startswith("train aft: wise device: ") and lines[2].endswith("granted on cpu")
    assert len(mapped) == 3
    for one, other in zip(mapped, students(), strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in one)


def test_a_store_that_exceeds_the_memory_is_reported_as_slow(
    project: Path, params: Params, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("pipeline.store.choice.available_memory", lambda: 100)
    params.values["train"]["steps"] = 2
    params.values["machine"]["workers"] = 1
    lines: list[str] = []
    training.train("aft", params, Project(project), say=lines.append)
    assert lines[0].startswith("train aft: wise window: ")
    assert lines[0].endswith("; steps take rows in random order, so the disk or the network sets the pace")


def test_methods_are_refused_batches_from_which_they_learn_nothing(
    project: Path, params: Params, monkeypatch: pytest.MonkeyPatch
):
    def draw(name: str, **search: Any) -> sessions.TrialData:
        run = Run.model_validate(
            params.values["runs"][name] | {"search": {f"train.{k}": [v] for k, v in search.items()}}
        )
        return sessions.Session(Plan(name, params, Project(project), run, Machine())).trial_data(0, run.candidates()[0])

    assert draw("aft", batch_size=2).split.unlabelled.size  # then methods see batches of their own
    split = Dataset.split

    def labelled(rows: int | None) -> Any:
        def only(data: Dataset, number: int) -> Split:
            whole = split(data, number)
            return replace(whole, labelled=whole.labelled[:rows], unlabelled=whole.unlabelled[:0])

        return only

    monkeypatch.setattr(Dataset, "split", labelled(None))
    with pytest.raises(UserError, match=r"train \(for aft\): batch_size: 2: .* set it to 3 or more") as caught:
        draw("aft", batch_size=2)
    assert "\n" not in str(caught.value)
    draw("aft", batch_size=3)
    draw("none", batch_size=1)
    monkeypatch.setattr(Dataset, "split", labelled(2))
    with pytest.raises(UserError, match="methods need 3 training rows, and there are 2"):
        draw("aft", batch_size=3)


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_row_is_given_the_outputs_of_the_row_whose_features_it_is_given(project: Path, params: Params, shuffle: bool):
    """Cross-fitted ones by the fit without the fold of that row, not of the student's."""
    run = Run.model_validate(params.values["runs"]["both"] | {"shuffle_teachers": shuffle})
    plan = Plan("both", params, Project(project), run, Machine())
    data, everyone = Dataset.open(project / "data"), np.arange(240)
    stores = [FeatureStore.open(project / "features" / f"{name}.zarr") for name in ("wise", "loud")]
    for seed in (0, 1):
        found = sessions.Session(plan).trial_data(seed, run.candidates()[0])
        features, outputs = found.teachers(everyone, ["features", "linear_crossfit", "kernel"])
        given = [int((features[0].numpy() == row).all(1).nonzero()[0][0]) for row in stores[0][:]]
        source_of = np.argsort(given)  # the row of the store whose features each row has
        assert (source_of != everyone).any() == shuffle
        for k, (store, saved) in enumerate(zip(stores, found.probes, strict=True)):
            assert np.array_equal(features[k].numpy(), store[source_of].astype(np.float32))
            assert np.array_equal(outputs["linear_crossfit"][k].numpy(), saved.outputs(source_of, "linear_crossfit"))
            assert np.array_equal(outputs["kernel"][k].numpy(), saved.outputs(source_of, "kernel"))
        labelled = data.split(seed).labelled
        assert not np.array_equal(
            found.probes[0].outputs(labelled, "linear_crossfit"), found.probes[0].outputs(labelled)
        )
        assert found.teachers(everyone, [])[0] == () and found.teachers(everyone, [])[1] == {}


@pytest.mark.gpu
def test_memory_is_pinned_for_cuda_alone(project: Path):
    """Elsewhere, torch refuses to pin, or pins for another device. `meta` stands for a device such as `mps`."""
    reader = FeatureStore.open(project / "features" / "wise.zarr").reader("pooled")
    rows = sessions.gather(reader, np.arange(3), torch.device("meta"))
    assert rows.device.type == "meta"
    assert rows.shape == (3, *reader.shape)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("budget", [0, 10**9])
def test_rows_arrive_on_the_gpu(stores: list[FeatureStore], budget: int):
    gpu = torch.device("cuda")
    for reader, store in zip(sessions.open_readers(pooled(stores), gpu, budget), stores, strict=True):
        found = [sessions.gather(reader, rows, gpu) for rows in (ROWS, ROWS[::-1], ROWS)]  # copies under way at once
        assert all(rows.device.type == "cuda" for rows in found)
        for rows, expected in zip(found, (ROWS, ROWS[::-1], ROWS), strict=True):
            assert np.array_equal(rows.cpu().numpy(), store[expected])
