"""The assessment: its scores against their definitions, what it must not depend on, and what it refuses."""

import json
import shutil
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data.dataset import Dataset
from pipeline.errors import UserError
from pipeline.functional.logme import logme
from pipeline.params import Params
from pipeline.probing.assessment import PATH, Assessment, Score, Subset
from pipeline.probing.probes import ProbeSettings, probe
from pipeline.probing.subsets import Scored, _search, assess
from pipeline.reporting.comparison import load
from pipeline.store import FeatureStore
from pipeline.students import student_outputs, student_recipe

from ..conftest import write_store
from ..functional.test_knn import by_definition


@pytest.fixture(scope="module")
def found(made_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Assessment:
    root = Path(shutil.copytree(made_project, tmp_path_factory.mktemp("assessed") / "project"))
    return assess(Params.load(root / "params.yaml"), root)


def changed(params: Params, **sections: object) -> Params:
    return Params(params.values | sections, params.source)


def one(found: Assessment, *teachers: str):
    return next(subset for subset in found.subsets if set(subset.teachers) == set(teachers))


def standard(project: Path, teacher: str, rows: np.ndarray, draw: int) -> np.ndarray:
    """A teacher's features of `rows`, standardised by the training rows of a draw."""
    features = FeatureStore.open(project / "features" / f"{teacher}.zarr")[:].astype(np.float64)
    train = features[Dataset.open(project / "data").split(draw).train]
    return (features[rows] - train.mean(0)) / train.std(0)


def test_all_subsets_of_a_few_teachers_are_scored_on_every_draw(found: Assessment):
    assert [subset.teachers for subset in found.subsets] == [("wise",), ("loud",), ("wise", "loud")]
    assert all([score.draw for score in subset.scores] == [0, 1] for subset in found.subsets)
    assert (found.draws, found.labelled, found.val, found.test) == (2, 30, 30, 60)
    assert (found.bank_rows, found.cka_rows) == (30, 100)
    both = one(found, "wise", "loud")
    assert (both.width, both.bytes_per_row) == (32, sum(teacher.bytes_per_row for teacher in found.teachers))


def test_a_single_teachers_probe_is_that_of_the_probe_stage(found: Assessment, project: Path):
    for name in ("wise", "loud"):
        splits = json.loads((project / "probes" / f"{name}.json").read_text())["splits"]
        for score, split in zip(one(found, name).scores, splits, strict=True):
            assert score.strength == split["strength"]
            assert score.val_accuracy == pytest.approx(split["val_accuracy"])
            assert score.val_log_loss == pytest.approx(split["val_log_loss"], rel=1e-4)
            assert score.test_accuracy == pytest.approx(split["test_accuracy"])


def test_neighbours_are_those_of_standardised_rows_with_teachers_alike(found: Assessment, project: Path):
    data = Dataset.open(project / "data")
    for draw in range(2):
        split = data.split(draw)

        def features(rows: np.ndarray, draw: int = draw, train: np.ndarray = split.train) -> np.ndarray:
            parts = []
            for teacher in ("wise", "loud"):
                norm = np.mean([sum(x * x for x in row) ** 0.5 for row in standard(project, teacher, train, draw)])
                parts.append(standard(project, teacher, rows, draw) / norm)
            return np.hstack(parts)

        bank, labels = features(split.labelled).tolist(), data.labels[split.labelled]
        right = {}
        for number in (1, 5, 9):
            votes = by_definition(bank, labels, features(split.val).tolist(), number, range(3))
            right[number] = float(np.mean(votes == data.labels[split.val]))
        score = one(found, "wise", "loud").scores[draw]
        assert score.knn_val_accuracy == pytest.approx(max(right.values()))
        assert score.neighbours == min(number for number, share in right.items() if share == max(right.values()))
        votes = by_definition(bank, labels, features(split.test).tolist(), score.neighbours, range(3))
        assert score.knn_test_accuracy == pytest.approx(float(np.mean(votes == data.labels[split.test])))


def test_the_evidence_is_that_of_raw_features_of_equal_size(found: Assessment, project: Path):
    data = Dataset.open(project / "data")
    rows = data.split(1).labelled
    labels = torch.from_numpy(data.labels[rows])
    raw = {
        name: FeatureStore.open(project / "features" / f"{name}.zarr")[rows].astype(np.float32)
        for name in ("wise", "loud")
    }
    for name, features in raw.items():
        alone = logme(torch.from_numpy(features), labels, 3).score
        assert one(found, name).scores[1].logme == pytest.approx(alone, rel=1e-3)
    sizes = {name: np.sqrt(np.mean([sum(float(x) ** 2 for x in row) for row in rows])) for name, rows in raw.items()}
    both = np.hstack([raw[name] / sizes[name] for name in raw]).astype(np.float32)
    assert one(found, "wise", "loud").scores[1].logme == pytest.approx(logme(torch.from_numpy(both), labels, 3).score)


def debiased(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased HSIC as Song et al. (2012), equation 5, write it, divided by those of each with itself."""

    def hsic(k: np.ndarray, m: np.ndarray) -> float:
        n = len(k)
        k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
        total = np.trace(k @ m) + k.sum() * m.sum() / (n - 1) / (n - 2) - 2 * (k @ m).sum() / (n - 2)
        return total / n / (n - 3)

    k, m = x @ x.T, y @ y.T
    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


def test_kernels_are_compared_on_training_rows_by_debiased_cka(found: Assessment, project: Path, params: Params):
    data = Dataset.open(project / "data")
    for draw in range(2):
        train = data.split(draw).train
        rows = np.sort(train[np.sort(np.random.default_rng(draw).permutation(len(train))[:100])])
        wise, loud = (
            FeatureStore.open(project / "features" / f"{name}.zarr")[rows].astype(np.float64)
            for name in ("wise", "loud")
        )
        assert found.pairs[0].cka[draw] == pytest.approx(debiased(wise, loud), abs=1e-4)
        recipe = student_recipe(params.section("students.bag"), "students.bag", data, train)
        torch.manual_seed(draw)
        student = recipe.build()
        ((features, _),) = student_outputs(student, recipe.inputs(data), rows, torch.device("cpu"))
        start = next(start for start in found.starts if start.teacher == "wise")
        assert start.cka[draw] == pytest.approx(debiased(wise, features.double().numpy()), abs=1e-4)


def test_gains_and_overlaps_are_over_the_better_of_two(found: Assessment):
    both, better = one(found, "wise", "loud"), one(found, "wise")
    assert better.val_accuracy > one(found, "loud").val_accuracy
    assert both.best_part == ("wise",)
    expected = [x.val_accuracy - y.val_accuracy for x, y in zip(both.scores, better.scores, strict=True)]
    assert both.gain is not None
    assert both.gain.mean == pytest.approx(sum(expected) / 2)
    pair = found.pairs[0]
    for draw in range(2):
        p, q = (one(found, name).scores[draw].val_accuracy for name in pair.teachers)
        assert pair.by_chance[draw] == pytest.approx(p + q - 2 * p * q)
        assert abs(p - q) - 1e-9 <= pair.one_right[draw] <= min(p + q, 2 - p - q) + 1e-9


def test_test_labels_change_no_choice_and_no_recommendation(
    found: Assessment, project: Path, params: Params, monkeypatch: pytest.MonkeyPatch
):
    data = Dataset.open(project / "data")
    lies = data.labels.copy()
    everywhere = {row for draw in range(2) for role in ("labelled", "val") for row in getattr(data.split(draw), role)}
    hidden = np.setdiff1d(np.arange(len(data)), list(everywhere))
    assert len(np.intersect1d(hidden, data.split(0).test)) > 20
    lies[hidden] = (np.maximum(lies[hidden], 0) + 1) % 3
    monkeypatch.setattr(Dataset, "labels", property(lambda data: lies))
    after = assess(params, project)

    def blind(of: Assessment) -> Assessment:
        def scores(subset: Subset) -> tuple[Score, ...]:
            return tuple(replace(x, test_accuracy=None, knn_test_accuracy=None) for x in subset.scores)

        subsets = tuple(replace(subset, seconds=0.0, scores=scores(subset)) for subset in of.subsets)
        return replace(of, subsets=subsets, seconds=0.0)

    assert blind(after) == blind(found)
    assert one(after, "wise").test_accuracy != one(found, "wise").test_accuracy


def test_validation_labels_do_choose(found: Assessment, project: Path, params: Params, monkeypatch: pytest.MonkeyPatch):
    data = Dataset.open(project / "data")
    lies = data.labels.copy()
    rows = np.setdiff1d(data.split(0).val, data.split(1).labelled)  # what training sees stays as the probes saw it
    lies[rows] = (lies[rows] + 1) % 3
    monkeypatch.setattr(Dataset, "labels", property(lambda data: lies))
    assert one(assess(params, project), "wise").scores[0].val_accuracy < one(found, "wise").scores[0].val_accuracy


def test_the_order_of_teachers_does_not_matter(found: Assessment, project: Path, params: Params):
    turned = changed(params, teachers=dict(reversed(params.section("teachers").items())))
    after = assess(turned, project)
    assert [subset.teachers for subset in after.subsets] == [("loud",), ("wise",), ("loud", "wise")]
    for subset in found.subsets:
        other = one(after, *subset.teachers)
        for x, y in zip(subset.scores, other.scores, strict=True):
            assert asdict(x) == pytest.approx(asdict(y), rel=1e-3)
    assert set(after.recommended) == set(found.recommended)
    assert after.pairs[0].one_right == found.pairs[0].one_right
    assert after.pairs[0].cka == pytest.approx(found.pairs[0].cka, abs=1e-5)


def add(project: Path, params: Params, name: str, width: int = 8, seed: int = 0, copy: str | None = None) -> Params:
    """Another teacher with made-up features, or with those of one that is there."""
    data = Dataset.open(project / "data")
    path = project / "features" / f"{name}.zarr"
    if copy is None:
        store = write_store(data, path, width, seed)
    else:
        shutil.copytree(project / "features" / f"{copy}.zarr", path)
        store = FeatureStore.open(path)
    probe(name, data, store, params.read(ProbeSettings, "probe"), project / "probes" / name)
    return changed(params, teachers=params.section("teachers") | {name: {"family": "transformers", "model": "m"}})


def test_the_same_teacher_twice_adds_nothing(project: Path, params: Params):
    found = assess(add(project, params, "twin", copy="wise"), project)
    wise, twin, both = one(found, "wise"), one(found, "twin"), one(found, "wise", "twin")
    for x, y, z in zip(wise.scores, twin.scores, both.scores, strict=True):
        assert x == y
        assert (z.neighbours, z.knn_val_accuracy) == (x.neighbours, x.knn_val_accuracy)
        assert z.logme == pytest.approx(x.logme, abs=1e-3)
    pair = next(pair for pair in found.pairs if set(pair.teachers) == {"wise", "twin"})
    assert pair.one_right == (0.0, 0.0)
    assert pair.cka == pytest.approx((1, 1), abs=1e-5)
    assert both.gain is not None
    assert both.gain.inside_noise
    assert found.recommended in (("wise",), ("twin",))


def test_one_teacher_is_assessed_and_said_to_be_alone(project: Path, params: Params):
    found = assess(changed(params, teachers={"wise": params.section("teachers.wise")}), project)
    assert found.recommended == ("wise",)
    assert "the only teacher" in found.reasons[0]
    assert len(found.subsets) == len(found.starts) == 1
    assert found.pairs == ()


def test_of_many_teachers_the_best_additions_are_followed(project: Path, params: Params):
    for seed, name in enumerate(("third", "fourth")):
        params = add(project, params, name, 4, seed)
    few = changed(params, assess={"neighbours": [5], "exhaustive": 2, "kernel_rows": 50})
    found = assess(few, project)
    names = tuple(params.section("teachers"))
    scored = [subset.teachers for subset in found.subsets]
    assert scored[:10] == [*combinations(names, 1), *combinations(names, 2)]
    best = max(found.subsets[4:10], key=lambda subset: subset.val_accuracy)
    assert all(set(best.teachers) < set(teachers) for teachers in scored[10:12])
    assert {len(teachers) for teachers in scored[10:12]} == {3}
    longer = max(found.subsets[10:12], key=lambda subset: subset.val_accuracy)
    assert scored[12:] == ([names] if longer.val_accuracy > best.val_accuracy else [])


def test_the_path_of_additions_ends_where_nothing_is_added():
    worth = {"a": 3, "b": 2, "c": 1, "d": 0, "e": -1}
    asked = []

    def score(subset):
        asked.append(subset)
        accuracy = float(sum(worth[name] for name in subset))
        return Scored((Score(0, 0.1, accuracy, 0.0, None, 1, 0.0, None, 0.0),), (), 0.0)

    _search(("e", "d", "c", "b", "a"), score, False)
    assert asked[5 + 10 :] == [
        ("e", "b", "a"),
        ("d", "b", "a"),
        ("c", "b", "a"),
        ("e", "c", "b", "a"),
        ("d", "c", "b", "a"),
    ]
    assert len(asked) == len(set(asked))


def test_what_is_written_is_what_is_returned(project: Path, params: Params):
    found = assess(params, project)
    assert load(Assessment, project / PATH, "aft assess") == found


def test_the_section_may_be_missing_and_its_numbers_bound_the_work(project: Path, params: Params):
    values = {name: section for name, section in params.values.items() if name not in ("assess", "students")}
    assert assess(Params(values), project).starts == ()
    found = assess(changed(params, assess={"neighbour_rows": 8, "kernel_rows": 9, "neighbours": [1, 50]}), project)
    assert (found.bank_rows, found.cka_rows) == (8, 9)
    assert {score.neighbours for subset in found.subsets for score in subset.scores} <= {1, 8}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"assess": {"kernel_row": 3}}, "did you mean `kernel_rows`"),
        ({"assess": {"neighbours": [0, 3]}}, "whole numbers from 1"),
        ({"teachers": {}}, "`teachers` is empty"),
        ({"teachers": {"mute": {"family": "timm", "model": "m"}}}, "run `aft extract mute`"),
    ],
)
def test_mistakes_are_told(project: Path, params: Params, sections: dict, message: str):
    with pytest.raises(UserError, match=message):
        assess(changed(params, **sections), project)
    assert not (project / PATH).exists()


def test_a_store_of_another_dataset_is_refused(project: Path, params: Params):
    data = Dataset.open(project / "data")
    data.digest = "0" * 32
    shutil.rmtree(project / "features" / "loud.zarr")
    write_store(data, project / "features" / "loud.zarr", 8, 2)
    with pytest.raises(UserError, match="features of another dataset"):
        assess(params, project)


def test_statistics_of_other_features_or_none_are_refused(project: Path, params: Params):
    shutil.copy(project / "probes" / "wise.safetensors", project / "probes" / "loud.safetensors")
    with pytest.raises(UserError, match="fitted on other features"):
        assess(params, project)
    (project / "probes" / "loud.safetensors").unlink()
    with pytest.raises(UserError, match="run `aft probe loud`"):
        assess(params, project)


def test_students_that_read_features_have_no_kernel_to_compare(project: Path, params: Params):
    students = params.section("students") | {"head": {"family": "linear_probe"}}
    found = assess(changed(params, students=students), project)
    assert {start.student for start in found.starts} == {"bag"}
