"""The probe: its statistics against their definition, its labels only where they may be seen."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from pipeline.data.dataset import Dataset
from pipeline.data.preparation import PrepareSettings, prepare
from pipeline.errors import UserError
from pipeline.functional import linear
from pipeline.functional.metrics import log_loss
from pipeline.functional.standardisation import statistics
from pipeline.params import Params
from pipeline.probing import probes
from pipeline.store import FeatureStore

from ..conftest import write_store


@pytest.fixture
def store(project: Path) -> FeatureStore:
    return FeatureStore.open(project / "features" / "wise.zarr")


def settings(params: Params) -> probes.ProbeSettings:
    return params.read(probes.ProbeSettings, "probe")


def test_statistics_are_those_of_the_training_rows(project: Path, store: FeatureStore):
    data = Dataset.open(project / "data")
    fitted = probes.load_probe(project / "probes" / "wise.safetensors", 1, data, store)
    rows = store[data.split(1).train].astype(np.float64)
    for feature in range(rows.shape[1]):
        column = [rows[n, feature] for n in range(len(rows))]
        mean = sum(column) / len(column)
        variance = sum((value - mean) ** 2 for value in column) / len(column)
        assert fitted.mean[feature] == pytest.approx(mean, abs=1e-5)
        assert fitted.std[feature] == pytest.approx(variance**0.5, rel=1e-5)
    standard = (rows - rows.mean(0)) / rows.std(0)
    norms = [sum(value**2 for value in row) ** 0.5 for row in standard]
    assert fitted.row_norm == pytest.approx(sum(norms) / len(norms), rel=1e-5)
    for number, weight in enumerate(fitted.weight.astype(np.float64)):
        products = [sum(a * b for a, b in zip(row, weight, strict=True)) / sum(weight**2) ** 0.5 for row in standard]
        assert fitted.direction_std[number] == pytest.approx(np.std(products), rel=1e-4)


def test_it_knows_what_the_features_know(project: Path):
    scores = json.loads((project / "probes" / "wise.json").read_text())["splits"]
    assert [score["split"] for score in scores] == [0, 1]
    assert all(score["test_accuracy"] > 0.8 for score in scores)
    assert all(score["train_rows"] == 30 for score in scores)


def test_what_is_read_back_scores_what_was_scored(project: Path, store: FeatureStore):
    data = Dataset.open(project / "data")
    for score in json.loads((project / "probes" / "wise.json").read_text())["splits"]:
        rows = data.split(score["split"]).test
        logits = probes.load_probe(project / "probes" / "wise.safetensors", score["split"], data, store).logits(
            store[rows]
        )
        assert (logits.argmax(1) == data.labels[rows]).mean() == pytest.approx(score["test_accuracy"])


def test_labels_outside_the_labelled_rows_change_only_scores_and_the_choice(
    project: Path, params: Params, monkeypatch: pytest.MonkeyPatch
):
    data = Dataset.open(project / "data")
    store = FeatureStore.open(project / "features" / "wise.zarr")
    one = settings(params).model_copy(update={"strengths": [0.1]})
    before, _ = probes._fit(data, 0, store.reader("pooled"), one)
    lies = data.labels.copy()
    for role in ("unlabelled", "val", "test"):
        rows = getattr(data.split(0), role)
        lies[rows] = (lies[rows] + 1) % 3
    monkeypatch.setattr(Dataset, "labels", property(lambda data: lies))
    after, _ = probes._fit(Dataset.open(project / "data"), 0, store.reader("pooled"), one)
    assert np.array_equal(before.weight, after.weight)
    assert np.array_equal(before.mean, after.mean)


def test_a_fold_is_judged_by_fits_that_did_not_see_its_labels(
    project: Path, params: Params, store: FeatureStore, monkeypatch: pytest.MonkeyPatch
):
    one = settings(params).model_copy(update={"strengths": [0.1], "sharpness": [0.5], "kernel_strengths": [10.0]})
    data = Dataset.open(project / "data")
    before, _ = probes._fit(data, 0, store.reader("pooled"), one)
    labelled = data.split(0).labelled
    folds = linear.folds(data.labels[labelled], 0)
    monkeypatch.setattr(linear, "folds", lambda labels, number: folds)
    lies = data.labels.copy()
    lies[labelled[folds == 3]] = (lies[labelled[folds == 3]] + 1) % 3
    monkeypatch.setattr(Dataset, "labels", property(lambda data: lies))
    after, _ = probes._fit(Dataset.open(project / "data"), 0, store.reader("pooled"), one)
    for had, has in ((before, after), (before.kernel, after.kernel)):
        assert not np.array_equal(had.weight, has.weight)
        assert np.array_equal(had.fold_weight[3], has.fold_weight[3])
        assert np.array_equal(had.fold_bias[3], has.fold_bias[3])
        assert not np.array_equal(had.fold_weight[2], has.fold_weight[2])


def test_the_kernel_probe_read_back_scores_what_was_scored(project: Path, store: FeatureStore):
    data = Dataset.open(project / "data")
    for score in json.loads((project / "probes" / "wise.json").read_text())["splits"]:
        split = data.split(score["split"])
        fitted = probes.load_probe(project / "probes" / "wise.safetensors", score["split"], data, store)
        logits = fitted.kernel.logits((store[split.test].astype(np.float32) - fitted.mean) / fitted.std)
        assert (logits.argmax(1) == data.labels[split.test]).mean() == pytest.approx(score["kernel_test_accuracy"])
        val = fitted.kernel.logits((store[split.val].astype(np.float32) - fitted.mean) / fitted.std)
        assert log_loss(val, data.labels[split.val]) == pytest.approx(score["kernel_val_log_loss"], abs=1e-3)
        everyone = fitted.kernel.logits((store[split.train].astype(np.float32) - fitted.mean) / fitted.std)
        np.testing.assert_allclose(fitted.kernel_std, everyone.std(0), rtol=1e-3)


def test_a_sample_of_rows_has_every_class_and_no_row_twice():
    labels = np.array([0] * 500 + [1] * 3 + [2] * 497)
    for most, expected in ((20, 20), (5000, 1000), (2, 3)):
        some = probes._some(labels, most, 0)
        assert len(some) == len(set(some)) == expected
        assert set(labels[some]) == {0, 1, 2}


def test_a_kernel_probe_can_do_with_some_of_the_rows(
    project: Path, params: Params, store: FeatureStore, tmp_path: Path
):
    few = settings(params).model_copy(update={"kernel_rows": 12, "landmarks": 6})
    data = Dataset.open(project / "data")
    probes.probe("wise", data, store, few, tmp_path / "wise")
    assert probes.load_probe(tmp_path / "wise.safetensors", 0, data, store).kernel.landmarks.shape[0] == 6


def test_a_probe_of_an_older_version_is_refused(project: Path, store: FeatureStore, tmp_path: Path):
    path = project / "probes" / "wise.safetensors"
    with safe_open(path, "numpy") as file:
        arrays = {key: file.get_tensor(key) for key in file.keys() if ".kernel" not in key}  # noqa: SIM118
        save_file(arrays, tmp_path / "wise.safetensors", file.metadata())
    with pytest.raises(UserError, match="written by another version; run `aft probe wise`"):
        probes.load_probe(tmp_path / "wise.safetensors", 0, Dataset.open(project / "data"), store)


def test_a_constant_feature_stays_finite(project: Path, params: Params):
    rows = np.arange(50)
    features = np.random.default_rng(0).normal(size=(50, 3))
    features[:, 1] = 7.0
    mean, std, norm = statistics(rows, lambda some: features[some])
    assert std[1] == 1.0
    assert mean[1] == pytest.approx(7.0)
    assert np.isfinite(norm)


def test_a_store_of_another_dataset_is_refused(project: Path, params: Params, tmp_path: Path):
    data = Dataset.open(project / "data")
    store = write_store(data, tmp_path / "other.zarr", 8, 0)
    data.digest = "0" * 32
    with pytest.raises(UserError, match="dataset"):
        probes.probe("wise", data, store, settings(params), tmp_path / "probe")


def test_what_is_not_there_says_what_to_run(project: Path, store: FeatureStore):
    with pytest.raises(UserError, match="run `aft probe mute`"):
        probes.load_probe(project / "probes" / "mute.safetensors", 0, Dataset.open(project / "data"), store)


def test_a_probe_of_other_labels_splits_or_features_is_refused(project: Path, params: Params, store: FeatureStore):
    path = project / "probes" / "wise.safetensors"
    data = Dataset.open(project / "data")
    assert probes.load_probe(path, 0, data, store)
    with pytest.raises(UserError, match="fitted on other features"):
        probes.load_probe(path, 0, data, FeatureStore.open(project / "features" / "loud.zarr"))
    values = params.read(PrepareSettings, "dataset")
    source = values.source | {"path": str(project / "raw" / "reviews.csv")}
    prepare(values.model_copy(update={"source": source, "labelled": 24}), project / "data")
    fewer = Dataset.open(project / "data")
    assert fewer.digest == data.digest
    with pytest.raises(UserError, match="run `aft probe wise`"):
        probes.load_probe(path, 0, fewer, store)


def test_a_damaged_probe_is_refused(project: Path, store: FeatureStore):
    path = project / "probes" / "wise.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="damaged"):
        probes.load_probe(path, 0, Dataset.open(project / "data"), store)


def test_features_that_say_nothing_are_refused(project: Path, params: Params):
    with pytest.raises(UserError, match="the same for every training row"):
        probes._fit(Dataset.open(project / "data"), 0, lambda rows: np.ones((len(rows), 4)), settings(params))
