"""Every task through every stage: prepared, probed, assessed, trained by every method, evaluated and reported."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest

from pipeline.checks import check_params
from pipeline.data import Dataset, PrepareSettings, prepare
from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.plugins import plugin, plugins
from pipeline.probing import ProbeSettings, SavedProbe, assess, probe
from pipeline.project import Project
from pipeline.records import EvaluationRecord, RunRecord
from pipeline.reporting import report
from pipeline.runs import join
from pipeline.sources import Source
from pipeline.store import SourceFeatures
from pipeline.training import evaluate, train

from ..conftest import PARAMS, write_store
from .cases import CASES, Case

OPTIONS = {
    "aft": {"weight": [0.0, 1.0], "task_directions": True},
    "factor_transfer": {"epochs": 3},
    "logit_kd": {"probe": "best", "cross_fit": True},
}


def runs(task: str) -> dict[str, dict]:
    """Plain training, a linear probe as the student, and a run of every method that the task has a use for."""
    found = {"none": {"student": "bag"}, "head": {"student": "head", "teachers": ["wise", "loud"]}}
    for method in plugins("methods"):
        if task not in getattr(plugin("methods", method), "TASKS", (task,)):
            continue
        teachers = ["wise", "loud"] if method == "logit_kd" else ["wise"]
        weight = "auto" if (task, method) == ("regression", "logit_kd") else 1.0  # measured in the labels' unit
        methods = {method: {"weight": weight} | OPTIONS.get(method, {})}
        found[method] = {"student": "bag", "teachers": teachers, "methods": methods}
    return found


def write_table(path: Path, case: Case) -> None:
    random = np.random.default_rng(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", "mood"])
        for row in range(240):
            words = [f"word{row % 3}{n}" for n in random.integers(0, 9, 6)]
            label = case.cell(row % 3, random.normal()) if row % 10 else ""
            writer.writerow([f"r{row:04}", f"{' '.join(words)} id{row}", label])


def params_of(task: str, root: Path) -> Params:
    case = CASES[task]
    source = PARAMS["dataset"]["source"] | case.source | {"path": str(root / "raw" / "reviews.csv")}
    quick = {"steps": 40, "batch_size": 30, "transfer_batch_size": 32, "learning_rate": 0.02, "seeds": [0, 1]}
    return Params(
        PARAMS
        | {"dataset": PARAMS["dataset"] | case.dataset | {"source": source}}
        | {"students": PARAMS["students"] | {"head": {"family": "linear_probe"}}, "train": quick, "runs": runs(task)}
    )


@pytest.fixture(scope="module", params=sorted(CASES))
def task(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def project(task: str, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Prepared and probed."""
    root = tmp_path_factory.mktemp(task)
    write_table(root / "raw" / "reviews.csv", CASES[task])
    params, project = params_of(task, root), Project(root)
    check_params(params)
    prepare(params.read(PrepareSettings, "dataset"), project.data)
    for name, width, seed in (("wise", 24, 1), ("loud", 8, 2)):
        write_store(Dataset.open(project.data), root / "features" / f"{name}.zarr", width, seed)
        probe(name, params.read(ProbeSettings, "probe"), project)
    return project


@pytest.fixture(scope="module")
def params(task: str, project: Project) -> Params:
    return params_of(task, project.root)


@pytest.fixture(scope="module")
def finished(params: Params, project: Project) -> Project:
    """With all runs trained and evaluated."""
    join(params, project)
    for run in params.section("runs"):
        train(run, params, project)
        evaluate(run, params, project)
    return project


def test_the_task_and_its_outputs_are_found(task: str, project: Project):
    data = Dataset.open(project.data)
    assert (data.task.name, data.task.outputs) == (task, CASES[task].outputs)
    known = data.task.strata(data.labels) >= 0
    assert (~known).sum() == 24
    for number in range(2):
        split = data.split(number)
        assert known[np.concatenate([split.labelled, split.val, split.test])].all()
        assert (data.task.strata(data.visible_labels(number)[split.unlabelled]) == -1).all()
        # Labels are spread in a part as they are in all rows: each class, each label, the mean of a regression.
        whole, part = (data.task.targets(data.labels[rows]) for rows in (known, split.test))
        assert part.mean(0) / whole.mean(0) == pytest.approx(1, abs=0.15 if task == "multilabel" else 0.05)


def test_probes_and_the_assessment_know_the_target(task: str, project: Project, params: Params):
    data = Dataset.open(project.data)
    saved = SavedProbe(project, SourceFeatures.open(project, Source("wise")), 0, data)
    split, metric = data.split(0), data.task.primary
    labels = data.labels[split.test]
    for kind in ("linear", "kernel"):
        assert data.task.better(data.task.score(saved.outputs(split.test, kind), labels), baseline(data, labels))
    assert not np.allclose(saved.outputs(split.labelled, "linear_crossfit"), saved.outputs(split.labelled))
    found = assess(params, project)
    assert found.primary == metric
    assert bool(found.pairs[0].one_right) == (task == "classification")
    scores = {subset.sources: subset.mean("val", metric.name) or 0 for subset in found.subsets}
    best = (max if metric.higher_is_better else min)(scores, key=scores.__getitem__)
    assert found.recommended == best or len(found.recommended) < len(best)
    assert metric.label in found.reasons[0]


def baseline(data: Dataset, labels: np.ndarray) -> float:
    return data.task.score(np.tile(data.task.baseline(labels), (len(labels), 1)), labels)


def test_every_run_learns_and_chooses_in_the_right_direction(finished: Project, params: Params):
    data = Dataset.open(finished.data)
    for run in params.section("runs"):
        record = RunRecord.read(finished.run(run) / "run.json")
        assert record.metric == data.task.primary
        means = {
            candidate.weights: np.mean(candidate.finite) for candidate in record.candidates if not candidate.dropped
        }
        assert means[record.chosen] == (max if record.metric.higher_is_better else min)(means.values()), run
        result = EvaluationRecord.read(finished.evaluation(run))
        for score in result.results:
            labels = data.labels[data.split(score.split).test]
            found = score.scores[record.metric.name]
            assert found is not None and data.task.better(found, baseline(data, labels)), run
            assert not score.collapsed, run
        assert (result.probe is None) == (run == "none")


def test_the_report_uses_the_words_of_the_task(task: str, finished: Project, params: Params):
    found = report(params, finished)
    metric = Dataset.open(finished.data).task.primary
    page = found.page.read_text(encoding="utf-8")
    page = re.sub(r"<style>.*?</style>|<details>.*?</details>", "", page, flags=re.DOTALL)
    said = " ".join(re.sub(r"<[^>]*>", " ", page).split())
    assert metric.label in said
    if task == "regression":
        assert "validation RMSE, kWh" in said  # the axis of the curves
        assert "Lower is better" in said
        assert not re.search(r"accuracy|\bclass(es)?\b", said)
    else:
        assert "3 classes" in said
        assert ("accuracy" in said) == (task == "classification")
    for run, entry in found.metrics.items():
        results = EvaluationRecord.read(finished.evaluation(run)).results
        assert entry[metric.name] == pytest.approx(np.mean([each.scores[metric.name] for each in results]))


@pytest.mark.parametrize("task", ["multilabel", "regression"], scope="function")
def test_what_a_task_has_no_use_for_is_refused_before_anything_is_read(task: str, tmp_path: Path):
    values = params_of(task, tmp_path).values
    values["dataset"] |= {"task": task}
    run = {"student": "bag", "teachers": ["wise"], "methods": {"logit_standardisation": {"weight": 1.0}}}
    with pytest.raises(UserError, match=rf"runs.x.methods: `logit_standardisation` is for classification.*is {task}"):
        check_params(Params(values | {"runs": {"x": run}}))
    for changed in ({"train": {"class_weights": "balanced"}}, {"search": {"train.class_weights": [None, "balanced"]}}):
        with pytest.raises(UserError, match=rf"train \(for x\): class_weights: {task} has no classes to weight"):
            check_params(Params(values | {"runs": {"x": {"student": "bag"} | changed}}))


def test_settings_of_the_labels_are_checked_first(tmp_path: Path):
    values = params_of("regression", tmp_path).values
    for changed, problem in (
        ({"task": "regresion"}, "did you mean `regression`"),
        ({"classes": ["a", "b"]}, "a regression has no classes"),
        ({"task": "classification"}, "classes have no unit"),
    ):
        with pytest.raises(UserError, match=problem):
            check_params(Params(values | {"dataset": values["dataset"] | changed}))


def test_a_label_that_is_not_a_number_is_one_line_with_its_row(tmp_path: Path):
    for cell in ("4 stars", "nan", "inf"):
        write_table(tmp_path / "raw" / "reviews.csv", Case(lambda kind, noise, cell=cell: cell))
        with pytest.raises(UserError, match=rf"^row r0001 \(line 3\): label '{cell}' is not a") as caught:
            prepare(params_of("regression", tmp_path).read(PrepareSettings, "dataset"), tmp_path / "data")
        assert "\n" not in str(caught.value)


def test_classes_may_be_whole_numbers_in_a_fixed_order(tmp_path: Path):
    write_table(tmp_path / "raw" / "reviews.csv", Case(lambda kind, noise: f"{kind}.0"))
    settings = params_of("classification", tmp_path).read(PrepareSettings, "dataset")
    with pytest.raises(UserError, match=r"dataset.task: the labels are numbers, such as 1.0, 2.0, 0.0: write"):
        prepare(settings, tmp_path / "data")
    asked = settings.model_copy(update={"task": "classification", "classes": ("2", "0", "1")})
    assert prepare(asked, tmp_path / "data").classes == ("2", "0", "1")
    assert Dataset.open(tmp_path / "data").labels[1] == 2
