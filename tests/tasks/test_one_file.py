"""A task is one file: a regression that only the tests know is prepared, probed, assessed, trained and evaluated."""

import csv
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest

from pipeline import tasks
from pipeline.data import Dataset, PrepareSettings, prepare
from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.plugins import plugin
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


@pytest.fixture(autouse=True)
def regression(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file next to this one, as if it were in pipeline/tasks/."""
    spec = spec_from_file_location("pipeline.tasks.regression", Path(__file__).with_name("regression.py"))
    assert spec and spec.loader
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    monkeypatch.setattr(
        "pipeline.training.ledger._code", lambda *plugins: "the digest of its code, were it in the folder"
    )
    spec.loader.exec_module(module)
    monkeypatch.setattr(
        tasks,
        "plugin",
        lambda kind, name, where="": module if name == "regression" else plugin(kind, name, where),
    )


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
    assert (data.task.name, data.task.outputs, data.task.classes) == ("regression", ("target",), ())
    assert data.labels.dtype == np.float32
    assert np.isnan(data.labels).sum() == 24
    for number in range(2):
        split = data.split(number)
        assert not np.isnan(data.labels[np.concatenate([split.labelled, split.val, split.test])]).any()
        assert np.isnan(data.visible_labels(number)[split.unlabelled]).all()
        above = (data.labels[split.test] > np.nanmedian(data.labels)).mean()
        assert above == pytest.approx(0.5, abs=0.02)


def test_a_label_that_is_no_number_is_one_line(tmp_path: Path):
    table(tmp_path / "raw" / "reviews.csv", "{:.1f} stars")
    with pytest.raises(UserError, match=r"row r0001.*is not a number") as caught:
        prepared(tmp_path)
    assert "\n" not in str(caught.value)


def test_probes_and_the_assessment_know_the_target(project: Project, params: Params):
    data = Dataset.open(project.data)
    saved = SavedProbe(project, SourceFeatures.open(project, Source("wise")), 0, data)
    rows = data.split(0).test
    spread = np.var(data.labels[rows])
    for kind in ("linear", "kernel"):
        assert data.task.score(saved.outputs(rows, kind), data.labels[rows]) < 0.8 * spread
    assert not np.allclose(
        saved.outputs(data.split(0).labelled, "linear_crossfit"), saved.outputs(data.split(0).labelled)
    )
    found = assess(params, project)
    assert found.primary.name == "mse"
    assert found.pairs[0].one_right == ()
    worst = max(found.subsets, key=lambda subset: subset.mean("val", "mse") or 0)
    assert found.recommended != worst.sources
    assert "MSE" in found.reasons[0]


@pytest.mark.parametrize("run", list(RUNS))
def test_runs_are_trained_and_evaluated(project: Project, params: Params, run: str):
    train(run, params, project)
    record = RunRecord.read(project.run(run) / "run.json")
    assert record.metric.name == "mse"
    losses = {candidate.weights: np.mean(candidate.complete) for candidate in record.candidates}
    assert losses[record.chosen] == min(losses.values())  # the least is the best
    result = evaluate(run, params, project)
    labels = Dataset.open(project.data)
    for score in result.results:
        rows = labels.split(score.split).test
        mse = score.scores["mse"]
        assert mse is not None and mse < 0.9 * np.var(labels.labels[rows])
        assert not score.collapsed
    assert (result.probe is None) == (run == "none")
