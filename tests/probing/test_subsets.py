"""The assessment: its scores against their definitions, what it must not depend on, and what it refuses."""

import shutil
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data import Dataset
from pipeline.errors import UserError
from pipeline.functional.logme import logme
from pipeline.params import Params
from pipeline.probing import ProbeSettings, assess, probe
from pipeline.probing.subsets import Scored, _search, assessed_sources
from pipeline.project import Project
from pipeline.records import AssessmentRecord, Metric, ProbeRecord, SubsetRecord, SubsetScores
from pipeline.sources import Source
from pipeline.store import FeatureStore
from pipeline.students import student_blueprint, student_outputs

from ..conftest import write_store
from ..functional.test_knn import by_definition


@pytest.fixture(scope="module")
def found(made_project: Path, tmp_path_factory: pytest.TempPathFactory) -> AssessmentRecord:
    root = Path(shutil.copytree(made_project, tmp_path_factory.mktemp("assessed") / "project"))
    return assess(Params.load(root / "params.yaml"), Project(root))


def changed(params: Params, **sections: object) -> Params:
    return Params(params.values | sections, params.source)


def one(found: AssessmentRecord, *sources: str) -> SubsetRecord:
    return next(subset for subset in found.subsets if set(subset.sources) == set(sources))


def val_accuracy(subset: SubsetRecord) -> float:
    score = subset.mean("val", "accuracy")
    assert score is not None
    return score


def standard(project: Path, teacher: str, rows: np.ndarray, number: int) -> np.ndarray:
    """A teacher's features of `rows`, standardised by the training rows of a split."""
    features = FeatureStore.open(project / "features" / f"{teacher}.zarr")[:].astype(np.float64)
    train = features[Dataset.open(project / "data").split(number).train]
    return (features[rows] - train.mean(0)) / train.std(0)


def test_all_subsets_of_a_few_sources_are_scored_on_every_split(found: AssessmentRecord):
    assert [subset.sources for subset in found.subsets] == [("wise",), ("loud",), ("wise", "loud")]
    assert all([score.split for score in subset.scores] == [0, 1] for subset in found.subsets)
    assert (found.splits, found.labelled, found.val, found.test) == (2, 30, 30, 60)
    assert (found.bank_rows, found.cka_rows) == (30, 100)
    both = one(found, "wise", "loud")
    assert (both.width, both.bytes_per_row) == (32, sum(source.bytes_per_row for source in found.sources))


def test_a_single_sources_probe_is_that_of_the_probe_stage(found: AssessmentRecord, project: Path):
    for name in ("wise", "loud"):
        record = ProbeRecord.read(Project(project).probe(Source(name)) / "probe.json")
        for score, split in zip(one(found, name).scores, record.splits, strict=True):
            assert score.strength == split.strength
            assert score.val == pytest.approx(split.val, rel=1e-4)
            assert score.test == pytest.approx(split.test, rel=1e-4)


def test_neighbours_are_those_of_standardised_rows_of_equal_norms(found: AssessmentRecord, project: Path):
    data = Dataset.open(project / "data")
    for number in range(2):
        split = data.split(number)

        def features(rows: np.ndarray, number: int = number, train: np.ndarray = split.train) -> np.ndarray:
            parts = []
            for teacher in ("wise", "loud"):
                norm = np.mean([sum(x * x for x in row) ** 0.5 for row in standard(project, teacher, train, number)])
                parts.append(standard(project, teacher, rows, number) / norm)
            return np.hstack(parts)

        bank, labels = features(split.labelled).tolist(), data.labels[split.labelled]
        right = {}
        for near in (1, 5, 9):
            votes = by_definition(bank, labels, features(split.val).tolist(), near, range(3))
            right[near] = float(np.mean(votes == data.labels[split.val]))
        score = one(found, "wise", "loud").scores[number]
        assert score.knn_val == {"accuracy": pytest.approx(max(right.values()))}
        assert score.neighbours == min(near for near, share in right.items() if share == max(right.values()))
        votes = by_definition(bank, labels, features(split.test).tolist(), score.neighbours, range(3))
        assert score.knn_test == {"accuracy": pytest.approx(float(np.mean(votes == data.labels[split.test])))}


def test_the_evidence_is_that_of_raw_features_of_equal_size(found: AssessmentRecord, project: Path):
    data = Dataset.open(project / "data")
    rows = data.split(1).labelled
    targets = torch.eye(3)[torch.from_numpy(data.labels[rows])]
    raw = {
        name: FeatureStore.open(project / "features" / f"{name}.zarr")[rows].astype(np.float32)
        for name in ("wise", "loud")
    }
    for name, features in raw.items():
        alone = logme(torch.from_numpy(features), targets).score
        assert one(found, name).scores[1].logme == pytest.approx(alone, rel=1e-3)
    sizes = {name: np.sqrt(np.mean([sum(float(x) ** 2 for x in row) for row in rows])) for name, rows in raw.items()}
    both = np.hstack([raw[name] / sizes[name] for name in raw]).astype(np.float32)
    assert one(found, "wise", "loud").scores[1].logme == pytest.approx(logme(torch.from_numpy(both), targets).score)


def debiased(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased HSIC as Song et al. (2012), equation 5, write it, divided by those of each with itself."""

    def hsic(k: np.ndarray, m: np.ndarray) -> float:
        n = len(k)
        k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
        total = np.trace(k @ m) + k.sum() * m.sum() / (n - 1) / (n - 2) - 2 * (k @ m).sum() / (n - 2)
        return total / n / (n - 3)

    k, m = x @ x.T, y @ y.T
    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


def test_kernels_are_compared_on_training_rows_by_debiased_cka(found: AssessmentRecord, project: Path, params: Params):
    data = Dataset.open(project / "data")
    for number in range(2):
        train = data.split(number).train
        rows = np.sort(train[np.sort(np.random.default_rng(number).permutation(len(train))[:100])])
        wise, loud = (
            FeatureStore.open(project / "features" / f"{name}.zarr")[rows].astype(np.float64)
            for name in ("wise", "loud")
        )
        assert found.pairs[0].cka[number] == pytest.approx(debiased(wise, loud), abs=1e-4)
        blueprint = student_blueprint(params.section("students.bag"), "students.bag", data, train)
        torch.manual_seed(number)
        student = blueprint.build()
        ((features, _),) = student_outputs(student, blueprint.inputs(data), rows, torch.device("cpu"))
        start = next(start for start in found.starts if start.source == "wise")
        assert start.cka[number] == pytest.approx(debiased(wise, features.double().numpy()), abs=1e-4)


def test_gains_and_overlaps_are_over_the_better_of_two(found: AssessmentRecord):
    both, better = one(found, "wise", "loud"), one(found, "wise")
    assert val_accuracy(better) > val_accuracy(one(found, "loud"))
    assert both.best_part == ("wise",)
    expected = [x.val["accuracy"] - y.val["accuracy"] for x, y in zip(both.scores, better.scores, strict=True)]
    assert both.gain is not None
    assert both.gain.mean == pytest.approx(sum(expected) / 2)
    pair = found.pairs[0]
    for number in range(2):
        p, q = (one(found, name).scores[number].val["accuracy"] for name in pair.sources)
        assert pair.by_chance[number] == pytest.approx(p + q - 2 * p * q)
        assert abs(p - q) - 1e-9 <= pair.one_right[number] <= min(p + q, 2 - p - q) + 1e-9


def test_test_labels_change_no_choice_and_no_recommendation(
    found: AssessmentRecord, project: Path, params: Params, monkeypatch: pytest.MonkeyPatch
):
    data = Dataset.open(project / "data")
    lies = data.labels.copy()
    everywhere = {row for k in range(2) for role in ("labelled", "val") for row in getattr(data.split(k), role)}
    hidden = np.setdiff1d(np.arange(len(data)), list(everywhere))
    assert len(np.intersect1d(hidden, data.split(0).test)) > 20
    lies[hidden] = (np.maximum(lies[hidden], 0) + 1) % 3
    monkeypatch.setattr(Dataset, "labels", property(lambda data: lies))
    after = assess(params, Project(project))

    def blind(of: AssessmentRecord) -> AssessmentRecord:
        def scores(subset: SubsetRecord) -> tuple[SubsetScores, ...]:
            return tuple(x.model_copy(update={"test": {}, "knn_test": {}}) for x in subset.scores)

        subsets = tuple(subset.model_copy(update={"scores": scores(subset)}) for subset in of.subsets)
        return of.model_copy(update={"subsets": subsets})

    assert blind(after) == blind(found)
    assert one(after, "wise").mean("test", "accuracy") != one(found, "wise").mean("test", "accuracy")


def test_validation_labels_do_choose(
    found: AssessmentRecord, project: Path, params: Params, monkeypatch: pytest.MonkeyPatch
):
    data = Dataset.open(project / "data")
    lies = data.labels.copy()
    rows = np.setdiff1d(data.split(0).val, data.split(1).labelled)  # what training sees stays as the probes saw it
    lies[rows] = (lies[rows] + 1) % 3
    monkeypatch.setattr(Dataset, "labels", property(lambda data: lies))
    before, after = (one(of, "wise").scores[0].val for of in (found, assess(params, Project(project))))
    assert after["accuracy"] < before["accuracy"]


def test_the_order_of_sources_does_not_matter(found: AssessmentRecord, project: Path, params: Params):
    turned = changed(params, teachers=dict(reversed(params.section("teachers").items())))
    after = assess(turned, Project(project))
    assert [subset.sources for subset in after.subsets] == [("loud",), ("wise",), ("loud", "wise")]
    for subset in found.subsets:
        other = one(after, *subset.sources)
        for x, y in zip(subset.scores, other.scores, strict=True):
            assert (x.strength, x.neighbours) == (y.strength, y.neighbours)
            for what in ("val", "test", "knn_val", "knn_test"):
                assert getattr(x, what) == pytest.approx(getattr(y, what), rel=1e-3)
            assert x.logme == pytest.approx(y.logme, rel=1e-3)
    assert set(after.recommended) == set(found.recommended)
    assert after.pairs[0].one_right == found.pairs[0].one_right
    assert after.pairs[0].cka == pytest.approx(found.pairs[0].cka, abs=1e-5)


def add(project: Path, params: Params, name: str, width: int = 8, seed: int = 0, copy: str | None = None) -> Params:
    """Another teacher with made-up features, or with those of one that is there."""
    data = Dataset.open(project / "data")
    path = project / "features" / f"{name}.zarr"
    if copy is None:
        write_store(data, path, width, seed)
    else:
        shutil.copytree(project / "features" / f"{copy}.zarr", path)
    probe(name, params.read(ProbeSettings, "probe"), Project(project))
    return changed(params, teachers=params.section("teachers") | {name: {"family": "transformers", "model": "m"}})


def test_the_same_features_twice_adds_nothing(project: Path, params: Params):
    found = assess(add(project, params, "copy", copy="wise"), Project(project))
    wise, copy, both = one(found, "wise"), one(found, "copy"), one(found, "wise", "copy")
    for x, y, z in zip(wise.scores, copy.scores, both.scores, strict=True):
        assert x == y
        assert (z.neighbours, z.knn_val) == (x.neighbours, x.knn_val)
        assert z.logme == pytest.approx(x.logme, abs=1e-3)
    pair = next(pair for pair in found.pairs if set(pair.sources) == {"wise", "copy"})
    assert pair.one_right == (0.0, 0.0)
    assert pair.cka == pytest.approx((1, 1), abs=1e-5)
    assert both.gain is not None
    assert both.gain.inside_noise
    assert found.recommended in (("wise",), ("copy",))


def test_one_source_has_nothing_to_choose_from(project: Path, params: Params):
    found = assess(changed(params, teachers={"wise": params.section("teachers.wise")}, runs={}), Project(project))
    assert found.recommended == ("wise",)
    assert "the only source" in found.reasons[0]
    assert len(found.subsets) == len(found.starts) == 1
    assert found.pairs == ()


def test_of_many_sources_the_best_additions_are_followed(project: Path, params: Params):
    for seed, name in enumerate(("third", "fourth")):
        params = add(project, params, name, 4, seed)
    few = changed(params, assess={"neighbours": [5], "exhaustive": 2, "kernel_rows": 50})
    found = assess(few, Project(project))
    names = tuple(params.section("teachers"))
    scored = [subset.sources for subset in found.subsets]
    assert scored[:10] == [*combinations(names, 1), *combinations(names, 2)]
    best = max(found.subsets[4:10], key=val_accuracy)
    assert all(set(best.sources) < set(teachers) for teachers in scored[10:12])
    assert {len(teachers) for teachers in scored[10:12]} == {3}
    longer = max(found.subsets[10:12], key=val_accuracy)
    assert scored[12:] == ([names] if val_accuracy(longer) > val_accuracy(best) else [])


def test_the_path_of_additions_ends_where_nothing_is_added():
    worth = {"a": 3, "b": 2, "c": 1, "d": 0, "e": -1}
    asked = []

    def score(subset):
        asked.append(subset)
        accuracy = float(sum(worth[name] for name in subset))
        scores = SubsetScores(
            split=0, strength=0.1, val={"worth": accuracy}, test={}, neighbours=1, knn_val={}, knn_test={}, logme=0.0
        )
        return Scored((scores,), (), ())

    _search(("e", "d", "c", "b", "a"), score, False, Metric(name="worth", label="worth"))
    assert asked[5 + 10 :] == [
        ("e", "b", "a"),
        ("d", "b", "a"),
        ("c", "b", "a"),
        ("e", "c", "b", "a"),
        ("d", "c", "b", "a"),
    ]
    assert len(asked) == len(set(asked))


def test_what_is_written_is_what_is_returned(project: Path, params: Params):
    found = assess(params, Project(project))
    assert AssessmentRecord.read(Project(project).assessment) == found
    assert "seconds" not in found.model_dump_json()


def test_the_section_may_be_missing_and_its_numbers_bound_the_work(project: Path, params: Params):
    values = {name: section for name, section in params.values.items() if name not in ("assess", "students")}
    assert assess(Params(values), Project(project)).starts == ()
    few = {"neighbour_rows": 8, "kernel_rows": 9, "neighbours": [1, 50]}
    found = assess(changed(params, assess=few), Project(project))
    assert (found.bank_rows, found.cka_rows) == (8, 9)
    assert {score.neighbours for subset in found.subsets for score in subset.scores} <= {1, 8}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"assess": {"kernel_row": 3}}, "did you mean `kernel_rows`"),
        ({"assess": {"neighbours": [0, 3]}}, "whole numbers from 1"),
        ({"teachers": {}}, "`teachers` is empty"),
        ({"runs": {}, "teachers": {"mute": {"family": "timm", "model": "m"}}}, "run `aft extract mute`"),
    ],
)
def test_mistakes_are_refused(project: Path, params: Params, sections: dict, message: str):
    with pytest.raises(UserError, match=message):
        assess(changed(params, **sections), Project(project))
    assert not Project(project).assessment.exists()


def test_a_store_of_another_dataset_is_refused(project: Path, params: Params):
    data = Dataset.open(project / "data")
    data.digest = "0" * 32
    shutil.rmtree(project / "features" / "loud.zarr")
    write_store(data, project / "features" / "loud.zarr", 8, 2)
    with pytest.raises(UserError, match="features of another dataset"):
        assess(params, Project(project))


def test_statistics_of_other_features_or_none_are_refused(project: Path, params: Params):
    shutil.rmtree(project / "probes" / "loud")
    shutil.copytree(project / "probes" / "wise", project / "probes" / "loud")
    with pytest.raises(UserError, match="fitted on other features"):
        assess(params, Project(project))
    shutil.rmtree(project / "probes" / "loud")
    with pytest.raises(UserError, match="run `aft probe loud`"):
        assess(params, Project(project))


def test_students_that_read_features_have_no_kernel_to_compare(project: Path, params: Params):
    students = params.section("students") | {"head": {"family": "linear_probe"}}
    found = assess(changed(params, students=students), Project(project))
    assert {start.student for start in found.starts} == {"bag"}


def test_sources_are_pooled_features_of_every_teacher_and_those_of_runs():
    def names(teachers: dict, **runs: list[str]) -> list[str]:
        sections = {name: {"teachers": sources} for name, sources in runs.items()}
        return [source.name for source in assessed_sources(Params({"teachers": teachers, "runs": sections}))]

    assert names({"a": {}, "b": {"heads": ["tokens", "pooled"]}}, one=["b", "a/layer:4"]) == ["a", "a/layer:4", "b"]
    assert names({"a": {"heads": ["cls", "logits"]}}) == ["a/cls"]
    with pytest.raises(UserError, match=r"runs\.one\.teachers: 'a b' is not a source"):
        names({"a": {}}, one=["a b"])
