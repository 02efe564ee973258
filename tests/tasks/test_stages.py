"""Every task through every stage: prepared, probed, assessed, trained, evaluated and reported."""

import csv
from pathlib import Path

import numpy as np
import pytest

from pipeline.data import Dataset, PrepareSettings, prepare
from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.probing import ProbeSettings, SavedProbe, assess, probe
from pipeline.project import Project
from pipeline.records import RunRecord
from pipeline.sources import Source
from pipeline.store import SourceFeatures
from pipeline.training import evaluate, train

from ..conftest import PARAMS, write_store

RUNS = {
    "none": {"student": "bag"},
    "logit_kd": {
        "student": "bag",
        "teachers": ["wise", "loud"],
        "methods": [{"name": "logit_kd", "weight": [0.0, 1.0], "probe": "best", "cross_fit": True}],
    },
    "aft": {
        "student": "bag",
        "teachers": ["wise"],
        "methods": [{"name": "aft", "weight": 1.0, "task_directions": True}],
    },
    "aft_plus": {"student": "bag", "teachers": ["wise"], "methods": [{"name": "aft_plus", "weight": "auto"}]},
    "b_tuning": {"student": "bag", "teachers": ["wise"], "methods": [{"name": "b_tuning", "weight": 1.0}]},
}


def table(path: Path, number: str = "{:.3f}") -> None:
    random = np.random.default_rng(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", "mood"])
        for row in range(240):
            truth = row % 3
            words = [f"word{truth}{n}" for n in random.integers(0, 9, 6)]
            label = number.format(truth + random.normal() / 10) if row % 10 else ""
            writer.writerow([f"r{row:04}", f"{' '.join(words)} id{row}", label])


@pytest.fixture
def project(tmp_path: Path) -> Project:
    table(tmp_path / "raw" / "reviews.csv")
    prepared(tmp_path)
    data = Dataset.open(tmp_path / "data")
    for name, width, seed in (("wise", 24, 1), ("loud", 8, 2)):
        write_store(data, tmp_path / "features" / f"{name}.zarr", width, seed)
        probe(name, Params(PARAMS).read(ProbeSettings, "probe"), Project(tmp_path))
    return Project(tmp_path)


def prepared(root: Path) -> None:
    settings = Params(PARAMS).read(PrepareSettings, "dataset")
    source = settings.source | {"path": str(root / "raw" / "reviews.csv")}
    prepare(settings.model_copy(update={"source": source, "task": "regression"}), root / "data")


@pytest.fixture
def params() -> Params:
    quick = {"steps": 60, "batch_size": 30, "transfer_batch_size": 32, "learning_rate": 0.02, "seeds": [0, 1]}
    return Params(PARAMS | {"train": quick, "runs": RUNS})


def test_labels_are_numbers_and_splits_are_stratified(project: Project):
    data = Dataset.open(project.data)
    assert (data.task.name, data.task.outputs, data.task.classes) == ("regression", ("value",), ())
    assert data.labels.dtype == np.float32
    assert np.isnan(data.labels).sum() == 24
    for number in range(2):
        split = data.split(number)
        assert not np.isnan(data.labels[np.concatenate([split.labelled, split.val, split.test])]).any()
        assert np.isnan(data.visible_labels(number)[split.unlabelled]).all()
        for share in (0.2, 0.4, 0.6, 0.8):
            below = (data.labels[split.test] < np.nanquantile(data.labels, share)).mean()
            assert below == pytest.approx(share, abs=0.02)


def test_a_label_that_is_no_number_is_one_line(tmp_path: Path):
    table(tmp_path / "raw" / "reviews.csv", "{:.1f} stars")
    with pytest.raises(UserError, match=r"row r0001.*is not a number") as caught:
        prepared(tmp_path)
    assert "\n" not in str(caught.value)


def test_probes_and_the_assessment_know_the_target(project: Project, params: Params):
    data = Dataset.open(project.data)
    saved = SavedProbe(project, SourceFeatures.open(project, Source("wise")), 0, data)
    rows = data.split(0).test
    spread = np.std(data.labels[rows])
    for kind in ("linear", "kernel"):
        assert data.task.score(saved.outputs(rows, kind), data.labels[rows]) < 0.9 * spread
    assert not np.allclose(
        saved.outputs(data.split(0).labelled, "linear_crossfit"), saved.outputs(data.split(0).labelled)
    )
    found = assess(params, project)
    assert found.primary.name == "rmse"
    assert found.pairs[0].one_right == ()
    worst = max(found.subsets, key=lambda subset: subset.mean("val", "rmse") or 0)
    assert found.recommended != worst.sources
    assert "RMSE" in found.reasons[0]


@pytest.mark.parametrize("run", list(RUNS))
def test_runs_are_trained_and_evaluated(project: Project, params: Params, run: str):
    train(run, params, project)
    record = RunRecord.read(project.run(run) / "run.json")
    assert record.metric.name == "rmse"
    losses = {candidate.weights: np.mean(candidate.complete) for candidate in record.candidates}
    assert losses[record.chosen] == min(losses.values())  # the least is the best
    result = evaluate(run, params, project)
    labels = Dataset.open(project.data)
    for score in result.results:
        rows = labels.split(score.split).test
        rmse = score.scores["rmse"]
        assert rmse is not None and rmse < 0.95 * np.std(labels.labels[rows])
        assert not score.collapsed
    assert (result.probe is None) == (run == "none")
