"""Probes: statistics and outputs against their definitions, which labels they see, and their files."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data import Dataset, PrepareSettings, prepare
from pipeline.errors import UserError
from pipeline.functional import linear
from pipeline.functional.standardisation import statistics
from pipeline.params import Params
from pipeline.probing import Probe, ProbeSettings, SavedProbe, probe, probes
from pipeline.project import Project
from pipeline.provenance import digest_files
from pipeline.records import ProbeRecord
from pipeline.sources import Source
from pipeline.store import FeatureStore, Head, RowIndex, SourceFeatures, StoreWriter

from ..conftest import flip_a_bit, write_store

WISE = Source("wise")


@pytest.fixture
def data(project: Path) -> Dataset:
    return Dataset.open(project / "data")


@pytest.fixture
def features(project: Path) -> SourceFeatures:
    return SourceFeatures.open(Project(project), WISE)


def settings(params: Params, **changes: object) -> ProbeSettings:
    return params.read(ProbeSettings, "probe").model_copy(update=changes)


def saved(project: Path, number: int = 0, source: Source = WISE) -> SavedProbe:
    root = Project(project)
    return SavedProbe(root, SourceFeatures.open(root, source), number, Dataset.open(root.data))


def record(project: Path) -> ProbeRecord:
    return ProbeRecord.read(Project(project).probe(WISE) / "probe.json")


def by_definition(module: Probe, raw: np.ndarray, kind: str, fit: int = 0) -> list[float]:
    """Outputs of one row, in loops of floats."""
    x = [(float(v) - float(m)) / float(s) for v, m, s in zip(raw, module.mean, module.std, strict=True)]
    if kind == "kernel":
        norm = sum(v * v for v in x) ** 0.5
        gaps = [sum((v / norm - float(w)) ** 2 for v, w in zip(x, y, strict=True)) for y in module.landmarks]
        x = [np.exp(-float(module.sharpness) * gap) for gap in gaps]
    weight, bias = module.get_buffer(f"{kind}_weight")[fit], module.get_buffer(f"{kind}_bias")[fit]
    return [
        sum(v * float(w) for v, w in zip(x, row, strict=True)) + float(b) for row, b in zip(weight, bias, strict=True)
    ]


def test_statistics_are_those_of_the_training_rows(project: Path, data: Dataset, features: SourceFeatures):
    module = saved(project, 1).module
    rows = features.reader()(data.split(1).train).astype(np.float64)
    for feature in range(rows.shape[1]):
        column = [rows[n, feature] for n in range(len(rows))]
        mean = sum(column) / len(column)
        variance = sum((value - mean) ** 2 for value in column) / len(column)
        assert float(module.mean[feature]) == pytest.approx(mean, abs=1e-5)
        assert float(module.std[feature]) == pytest.approx(variance**0.5, rel=1e-5)
    standard = (rows - rows.mean(0)) / rows.std(0)
    norms = [sum(value**2 for value in row) ** 0.5 for row in standard]
    assert float(module.row_norm) == pytest.approx(sum(norms) / len(norms), rel=1e-5)


@pytest.mark.parametrize("kind", ["linear", "kernel"])
def test_cached_outputs_are_the_modules_and_both_are_the_definition(
    project: Path, data: Dataset, features: SourceFeatures, kind: str
):
    for number in range(2):
        found, everyone = saved(project, number), np.arange(len(data))
        raw = features.reader()(everyone).astype(np.float32)
        cached = found.outputs(everyone, kind)
        with torch.no_grad():
            again = found.module(torch.from_numpy(raw), kind).numpy()
        np.testing.assert_allclose(cached, again, rtol=1e-5, atol=1e-5)
        for row in range(0, len(data), 37):
            assert cached[row].tolist() == pytest.approx(by_definition(found.module, raw[row], kind), abs=2e-4)


@pytest.mark.parametrize("kind", ["linear", "kernel"])
def test_crossfitted_outputs_are_those_of_the_fit_without_the_rows_fold(
    project: Path, data: Dataset, features: SourceFeatures, kind: str
):
    for number in range(2):
        found, split = saved(project, number), data.split(number)
        rows = np.random.default_rng(0).permutation(len(data))
        folds = dict(zip(split.labelled, linear.folds(data.labels[split.labelled], number), strict=True))
        cached, plain = found.outputs(rows, f"{kind}_crossfit"), found.outputs(rows, kind)
        raw = features.reader()(rows).astype(np.float32)
        order = torch.tensor([folds.get(row, -1) for row in rows])
        with torch.no_grad():
            np.testing.assert_allclose(cached, found.module(torch.from_numpy(raw), kind, order), atol=1e-5)
        for place, row in enumerate(rows):
            if row not in folds:
                assert np.array_equal(cached[place], plain[place])
        for place in [p for p, row in enumerate(rows) if row in folds][::7]:
            expected = by_definition(found.module, raw[place], kind, 1 + folds[rows[place]])
            assert cached[place].tolist() == pytest.approx(expected, abs=2e-4)


def test_task_directions_have_unit_spread_and_are_products_with_unit_weights(
    project: Path, data: Dataset, features: SourceFeatures
):
    found, train = saved(project), data.split(0).train
    raw = features.reader()(train).astype(np.float64)
    shift, scale = (constant.double().numpy() for constant in found.module.directions("linear"))
    directions = (found.outputs(train, "linear") - shift) * scale
    x = (raw - raw.mean(0)) / raw.std(0)
    for number, weight in enumerate(found.module.linear_weight[0].double().numpy()):
        along = np.array([sum(a * b for a, b in zip(row, weight, strict=True)) / sum(weight**2) ** 0.5 for row in x])
        np.testing.assert_allclose(directions[:, number], along / along.std(), atol=1e-3)
    shift, scale = (constant.double().numpy() for constant in found.module.directions("kernel"))
    assert not shift.any()
    outputs = found.outputs(train, "kernel").astype(np.float64)
    np.testing.assert_allclose(scale, 1 / outputs.std(0), rtol=1e-4)


def test_a_direction_without_weight_stays_zero():
    constant = torch.zeros(1, 2, 3)
    module = Probe(linear_weight=constant, linear_bias=torch.ones(1, 2), linear_std=torch.full((2,), 1e-12))
    shift, scale = module.directions("linear")
    assert ((torch.ones(4, 2) - shift) * scale == 0).all()


def test_scores_are_those_of_the_cached_outputs(project: Path, data: Dataset):
    found = record(project)
    assert (found.source, [split.split for split in found.splits]) == ("wise", [0, 1])
    for scores in found.splits:
        split, outputs = data.split(scores.split), saved(project, scores.split)
        for kind, val, test in (
            ("linear", scores.val, scores.test),
            ("kernel", scores.kernel_val, scores.kernel_test),
        ):
            assert val == data.task.scores(outputs.outputs(split.val, kind), data.labels[split.val])
            assert test == data.task.scores(outputs.outputs(split.test, kind), data.labels[split.test])
        assert scores.test["accuracy"] > 0.8
        assert scores.train_rows == 30
        lower = scores.kernel_val["log_loss"] < scores.val["log_loss"]
        assert outputs.module.better == ("kernel" if lower else "linear")


def test_labels_outside_the_labelled_rows_change_only_scores_and_the_choice(
    project: Path, params: Params, data: Dataset, features: SourceFeatures, monkeypatch: pytest.MonkeyPatch
):
    one = settings(params, strengths=[0.1])
    before = probes.fit(data, 0, features.reader(), one).module
    lies = data.labels.copy()
    for role in ("unlabelled", "val", "test"):
        rows = getattr(data.split(0), role)
        lies[rows] = (lies[rows] + 1) % 3
    monkeypatch.setattr(Dataset, "labels", property(lambda data: lies))
    after = probes.fit(Dataset.open(project / "data"), 0, features.reader(), one).module
    assert torch.equal(before.linear_weight, after.linear_weight)
    assert torch.equal(before.mean, after.mean)


def test_the_fit_without_a_fold_does_not_see_its_labels(
    project: Path, params: Params, data: Dataset, features: SourceFeatures, monkeypatch: pytest.MonkeyPatch
):
    one = settings(params, strengths=[0.1], sharpness=[0.5], kernel_strengths=[10.0])
    before = probes.fit(data, 0, features.reader(), one).module
    labelled = data.split(0).labelled
    folds = linear.folds(data.labels[labelled], 0)
    monkeypatch.setattr(probes, "folds", lambda strata, number: folds)
    lies = data.labels.copy()
    lies[labelled[folds == 3]] = (lies[labelled[folds == 3]] + 1) % 3
    monkeypatch.setattr(Dataset, "labels", property(lambda data: lies))
    after = probes.fit(Dataset.open(project / "data"), 0, features.reader(), one).module
    for name in ("linear_weight", "linear_bias", "kernel_weight", "kernel_bias"):
        had, has = before.get_buffer(name), after.get_buffer(name)
        assert torch.equal(had[1 + 3], has[1 + 3])
        assert not torch.equal(had[0], has[0])
        assert not torch.equal(had[1 + 2], has[1 + 2])


def test_a_sample_of_rows_has_every_class_and_no_row_twice():
    labels = np.array([0] * 500 + [1] * 3 + [2] * 497)
    for most, expected in ((20, 20), (5000, 1000), (2, 3)):
        some = probes._sample(labels, most, 0)
        assert len(some) == len(set(some)) == expected
        assert set(labels[some]) == {0, 1, 2}


def test_a_kernel_probe_can_do_with_some_of_the_rows(project: Path, params: Params):
    probe("wise", settings(params, kernel_rows=12, landmarks=6), Project(project))
    assert saved(project).module.landmarks.shape[0] == 6


def test_rows_in_blocks_give_the_same_files(project: Path, params: Params, monkeypatch: pytest.MonkeyPatch):
    whole = saved(project).outputs(np.arange(240), "kernel_crossfit")
    monkeypatch.setattr(probes, "BLOCK", 7)
    probe("wise", settings(params), Project(project))
    np.testing.assert_allclose(saved(project).outputs(np.arange(240), "kernel_crossfit"), whole, atol=1e-5)


def test_the_same_inputs_give_the_same_bytes_in_another_process(project: Path, params: Params):
    before = digest_files(project / "probes" / "wise")
    code = (
        "import sys; from pathlib import Path;"
        "from pipeline.params import Params; from pipeline.project import Project;"
        "from pipeline.probing import ProbeSettings, probe; root = Path(sys.argv[1]);"
        "probe('wise', Params.load(root / 'params.yaml').read(ProbeSettings, 'probe'), Project(root))"
    )
    for _ in range(2):
        shutil.rmtree(project / "probes" / "wise")
        subprocess.run([sys.executable, "-c", code, str(project)], check=True)
        assert digest_files(project / "probes" / "wise") == before


def test_every_vector_head_of_a_store_gets_a_probe(project: Path, params: Params, data: Dataset):
    path, random = project / "features" / "heads.zarr", np.random.default_rng(0)
    shapes = {"pooled": (4,), "layer:4": (6,), "tokens": (3, 4)}
    heads = {name: Head(shape=shape, dtype="float32") for name, shape in shapes.items()}
    rows = RowIndex(ids=data.ids, digests=data.row_digests)
    with StoreWriter.open(path, rows=rows, dataset=data.digest, recipe={"seed": 0}, heads=heads) as writer:
        for shard in writer.missing():
            count = shard.stop - shard.start
            writer.write(shard, {name: random.normal(size=(count, *shape)) for name, shape in shapes.items()})
    result = probe("heads", settings(params), Project(project))
    assert [found.source for found in result.probes] == ["heads", "heads/layer:4"]
    assert str(result).splitlines()[1].startswith("probe of heads/layer:4: test accuracy ")
    assert saved(project, 1, Source("heads", "layer:4")).outputs(np.array([3])).shape == (1, 3)
    with pytest.raises(UserError, match="a row of head `tokens` is 3 x 4 numbers and not one vector"):
        SourceFeatures.open(Project(project), Source("heads", "tokens"))
    with pytest.raises(UserError, match=r"no head `cls`.*write heads/layer:4 or heads"):
        SourceFeatures.open(Project(project), Source("heads", "cls"))


def test_a_failed_probe_leaves_the_one_that_was_there(project: Path, params: Params, monkeypatch: pytest.MonkeyPatch):
    before = digest_files(project / "probes" / "wise")
    monkeypatch.setattr(probes, "save_module", lambda *_: (_ for _ in ()).throw(RuntimeError))
    with pytest.raises(RuntimeError):
        probe("wise", settings(params), Project(project))
    assert digest_files(project / "probes" / "wise") == before
    assert [path.name for path in (project / "probes").iterdir() if path.name.startswith(".")] == []


def test_a_constant_feature_stays_finite():
    rows = np.arange(50)
    features = np.random.default_rng(0).normal(size=(50, 3))
    features[:, 1] = 7.0
    mean, std, norm = statistics(rows, lambda some: features[some])
    assert std[1] == 1.0
    assert mean[1] == pytest.approx(7.0)
    assert np.isfinite(norm)


def test_a_store_of_another_dataset_is_refused(project: Path, params: Params, data: Dataset):
    data.digest = "0" * 32
    write_store(data, project / "features" / "other.zarr", 8, 0)
    with pytest.raises(UserError, match="dataset"):
        probe("other", settings(params), Project(project))


def test_a_missing_probe_names_the_command(project: Path, data: Dataset):
    write_store(data, project / "features" / "mute.zarr", 8, 0)
    with pytest.raises(UserError, match="no probe of `mute`; run `aft probe mute`"):
        saved(project, 0, Source("mute"))


def test_a_probe_of_other_labels_splits_or_features_is_refused(project: Path, params: Params, data: Dataset):
    assert saved(project)
    shutil.rmtree(project / "probes" / "loud")
    shutil.copytree(project / "probes" / "wise", project / "probes" / "loud")
    with pytest.raises(UserError, match="fitted on other features"):
        saved(project, 0, Source("loud"))
    values = params.read(PrepareSettings, "dataset")
    source = values.source | {"path": str(project / "raw" / "reviews.csv")}
    prepare(values.model_copy(update={"source": source, "labelled": 24}), project / "data")
    assert Dataset.open(project / "data").digest == data.digest
    with pytest.raises(UserError, match="run `aft probe wise`"):
        saved(project)


@pytest.mark.parametrize("name", ["probe.safetensors", "linear.npy", "kernel_crossfit.npy"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_damaged_files_are_one_line(project: Path, name: str, damage: str):
    path = Project(project).probe(WISE) / "0" / name
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:100])
    else:
        path.unlink()
    with pytest.raises(UserError, match="run `aft probe wise`") as caught:
        found = saved(project)
        found.outputs(np.arange(5), "kernel_crossfit")
        found.outputs(np.arange(5), "linear")
    assert "\n" not in str(caught.value)


def test_outputs_of_another_shape_are_damage(project: Path):
    path = Project(project).probe(WISE) / "0" / "linear.npy"
    np.save(path, np.zeros((240, 4), np.float32))
    with pytest.raises(UserError, match=r"linear.npy: damaged; run `aft probe wise` again"):
        saved(project).outputs(np.arange(5))


def test_records_hold_no_times(project: Path):
    assert "second" not in (Project(project).probe(WISE) / "probe.json").read_text()
    assert json.loads((Project(project).probe(WISE) / "probe.json").read_text())["metrics"][0]["name"] == "accuracy"


def test_features_that_are_all_equal_are_refused(params: Params, data: Dataset):
    with pytest.raises(UserError, match="the same for every training row"):
        probes.fit(data, 0, lambda rows: np.ones((len(rows), 4)), settings(params))


def test_a_store_without_a_vector_per_row_is_refused(project: Path, params: Params, data: Dataset):
    rows = RowIndex(ids=data.ids, digests=data.row_digests)
    heads = {"tokens": Head(shape=(3, 4), dtype="float32")}
    path = project / "features" / "maps.zarr"
    with StoreWriter.open(path, rows=rows, dataset=data.digest, recipe={"seed": 0}, heads=heads) as writer:
        for shard in writer.missing():
            writer.write(shard, {"tokens": np.zeros((shard.stop - shard.start, 3, 4))})
    with pytest.raises(UserError, match=r"no head is one vector per row.*add `pooled`"):
        probe("maps", settings(params), Project(project))
    assert FeatureStore.open(path).heads


def test_features_with_a_flipped_bit_are_not_probed(project: Path, params: Params):
    before = (Project(project).probe(WISE) / "probe.json").read_bytes()
    flip_a_bit(Project(project).store("wise"))
    with pytest.raises(UserError, match=r"wise\.zarr.*damaged"):
        probe("wise", settings(params), Project(project))
    assert (Project(project).probe(WISE) / "probe.json").read_bytes() == before
