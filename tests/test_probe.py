"""The probe: its statistics against their definition, its labels only where they may be seen."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline import probe
from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.prepared import Prepared
from pipeline.store import FeatureStore

from .conftest import write_store


@pytest.fixture
def store(project: Path) -> FeatureStore:
    return FeatureStore.open(project / "features" / "wise.zarr")


def settings(params: Params) -> probe.ProbeSettings:
    return params.read(probe.ProbeSettings, "probe")


def test_statistics_are_those_of_the_training_rows(project: Path, store: FeatureStore):
    data = Prepared.open(project / "data")
    fitted = probe.load(project / "probes" / "wise.safetensors", 1)
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
    data = Prepared.open(project / "data")
    for score in json.loads((project / "probes" / "wise.json").read_text())["splits"]:
        rows = data.split(score["split"]).test
        logits = probe.load(project / "probes" / "wise.safetensors", score["split"]).logits(store[rows])
        assert (logits.argmax(1) == data.labels[rows]).mean() == pytest.approx(score["test_accuracy"])


def test_labels_outside_the_labelled_rows_change_only_scores_and_the_choice(project: Path, params: Params):
    data = Prepared.open(project / "data")
    store = FeatureStore.open(project / "features" / "wise.zarr")
    one = params.read(probe.ProbeSettings, "probe").model_copy(update={"strengths": [0.1]})
    probe.probe("wise", data, store, one, project / "probes" / "before")
    for role in ("unlabelled", "val", "test"):
        rows = getattr(data.split(0), role)
        data.labels.setflags(write=True)
        data.labels[rows] = (data.labels[rows] + 1) % 3
    probe.probe("wise", data, store, one, project / "probes" / "after")
    before, after = (probe.load(project / "probes" / f"{name}.safetensors", 0) for name in ("before", "after"))
    assert np.array_equal(before.weight, after.weight)
    assert np.array_equal(before.mean, after.mean)


def test_two_classes_get_two_opposite_rows():
    weight, bias = probe._per_class(np.array([[2.0, -4.0]]), np.array([1.0]))
    assert weight.tolist() == [[-1.0, 2.0], [1.0, -2.0]]
    assert bias.tolist() == [-0.5, 0.5]


def test_a_constant_feature_stays_finite(project: Path, params: Params):
    rows = np.arange(50)
    features = np.random.default_rng(0).normal(size=(50, 3))
    features[:, 1] = 7.0
    mean, std, norm = probe._statistics(rows, lambda some: features[some])
    assert std[1] == 1.0
    assert mean[1] == pytest.approx(7.0)
    assert np.isfinite(norm)


def test_a_store_of_another_dataset_is_refused(project: Path, params: Params, tmp_path: Path):
    data = Prepared.open(project / "data")
    store = write_store(data, tmp_path / "other.zarr", 8, 0)
    data.digest = "0" * 32
    with pytest.raises(UserError, match="dataset"):
        probe.probe("wise", data, store, settings(params), tmp_path / "probe")


def test_what_is_not_there_says_what_to_run(project: Path):
    with pytest.raises(UserError, match="run `aft probe mute`"):
        probe.load(project / "probes" / "mute.safetensors", 0)
    with pytest.raises(UserError, match="no probe for draw 9"):
        probe.load(project / "probes" / "wise.safetensors", 9)


def test_features_that_say_nothing_are_refused(project: Path, params: Params):
    with pytest.raises(UserError, match="the same for every training row"):
        probe._fit(Prepared.open(project / "data"), 0, lambda rows: np.ones((len(rows), 4)), settings(params))
