"""Everything that is wrong in params.yaml is found before anything expensive begins."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.checks import check, check_params, check_task
from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.project import Project

from .conftest import PARAMS

ROOT = Path(__file__).parent.parent


def changed(name: str, value: Any) -> Params:
    """The settings of the small project, one of them changed; a value of None drops it."""
    values = copy.deepcopy(PARAMS)
    *sections, key = name.split("/")
    here: Any = values
    for section in sections:
        here = here[section]
    if value is None:
        del here[key]
    else:
        here[key] = value
    return Params(values)


def test_a_section_that_is_left_out_has_its_defaults():
    check_params(Params({"dataset": PARAMS["dataset"]}))
    without = changed("machine", None)
    assert "machine" not in without.values
    check_params(without)
    with pytest.raises(UserError, match="no section `dataset`"):
        check_params(changed("dataset", None))


def test_what_is_shipped_is_valid():
    check_params(Params.load(ROOT / "params.yaml"))  # those of params/ are in test_presets.py


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("dataset/tset", 60, "dataset: unknown key `tset`"),
        ("dataset/source/family", "text_tabel", r"no 'text_tabel' .*did you mean `text_table`"),
        ("dataset/source/pth", "x", "dataset.source: unknown key `pth`"),
        ("extract/precision", "float64", "extract.precision"),
        ("machine/track", "b; touch pwned #", "machine.track: no 'b; touch pwned #'"),
        ("machine/track", "../../up", "machine.track: no '../../up'"),
        ("machine/engine", "loacl", "machine.engine: no 'loacl' .*did you mean `local`"),
        ("teachers/wise/poling", "cls", "teachers.wise: unknown key `poling`"),
        ("teachers/wise/family", "transformer", "did you mean `transformers`"),
        ("teachers/a.b", {"family": "transformers", "model": "m"}, "'a.b' is not a valid name"),
        ("probe/strength", [1.0], "probe: unknown key `strength`"),
        ("assess/neighbors", [1], "assess: unknown key `neighbors`"),
        ("students/bag/witdh", 3, "students.bag: unknown key `witdh`"),
        (
            "students/cnn",
            {"family": "compact_cnn", "size": 8, "channels": 1},
            "reads image, and the dataset holds text",
        ),
        ("students/a b", {"family": "bag_of_words"}, "'a b' is not a valid name"),
        ("train/step", 3, "train: unknown key `step`"),
        ("train/learning_rate", "1e-4", "write 1.0e-4"),
        ("train/epochs", 3.0, "train: give `steps` or `epochs`, not both$"),
        ("train/accumulate", 17, "train: accumulate: 17 parts of a batch of 16; set fewer$"),
        ("train/decayed", "matrices", "train: decayed: matrices, and weight_decay is 0"),
        ("train/layer_decay", 0.7, r"train \(for none\): layer_decay: is for students that start from pretrained"),
        ("train/trained_layers", 1, "trained_layers: is for students that start from pretrained weights"),
        ("train/channels_last", True, "channels_last: is for students that read images; remove it"),
        ("runs/none/search", {"train.val": ["accuracy"]}, r"not seeds, race or val"),
        ("runs/none/train", {"sampling": "balanced", "class_weights": "balanced"}, "balance twice; drop one"),
        ("train/seeds", [0, 0], r"seeds: should be different numbers >= 0"),
        ("train/seeds", [-1], r"seeds: should be different numbers >= 0"),
        ("machine/device", "gpu", "should be auto, cpu, cuda, cuda:N"),
        ("trian", {}, "unknown section `trian` .did you mean `train`"),
        ("runs/aft/student", "bog", "no section `students.bog`"),
        ("runs/aft/teachers", ["wize"], "no section `teachers.wize`"),
        ("runs/aft/teachers", ["wise/layer:4"], "reads head `layer:4` of `wise`, and teachers.wise.heads has pooled"),
        ("runs/aft/teachers", ["wise/4"], "is not a source of features"),
        ("runs/aft/methods", {"aft": {"weight": 1.0, "gats": "x"}}, "runs.aft.methods.aft: unknown key `gats`"),
        ("runs/aft/methods", {"atf": {"weight": 1.0}}, "did you mean `aft`"),
        ("runs/aft/methods", {"logit_kd": {"weight": 1.0, "logits": "head"}}, "reads head `logits` of `wise`"),
        ("runs/aft/train", {"step": 3}, r"train \(for aft\): unknown key `step`"),
        ("runs/aft/train", {"seeds": [1, 1]}, r"train \(for aft\)\.seeds"),
        ("runs/aft/search", {"student.droput": [0.5]}, r"students.bag \(with runs.aft.search\): unknown key `droput`"),
        ("runs/aft/search", {"student.dropout": ["much"]}, r"with runs.aft.search\).dropout"),
        ("runs/aft/search", {"train.warmup": [2.0]}, r"train \(for aft\).warmup"),
        ("runs/aft/search", {"methods.aft.kernel": ["square"]}, r"methods.aft.kernel"),
        ("runs/a b", {"student": "bag"}, "'a b' is not a valid name"),
    ],
)
def test_a_mistake_anywhere_is_one_line(name: str, value: Any, message: str):
    with pytest.raises(UserError, match=message) as caught:
        check_params(changed(name, value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "same",
    [
        {"student": "bag"},
        {"student": "twin"},
        {"student": "bag", "train": {"steps": 30}},
        {"student": "bag", "search": {"student.dropout": [0.1]}},
    ],
)
def test_two_runs_that_are_the_same_are_refused_however_they_are_written(same: dict[str, Any]):
    params = changed("students/twin", PARAMS["students"]["bag"] | {"width": 16})  # type: ignore[index]
    params.values["runs"]["again"] = same
    with pytest.raises(UserError, match=r"runs\.none and runs\.again are the same run, .*; drop one"):
        check_params(params)
    same["train"] = {"seeds": [5]}
    check_params(params)


def test_two_points_of_a_sweep_whose_teachers_are_the_same_are_refused():
    params = changed("teachers/clever", PARAMS["teachers"]["wise"])  # type: ignore[index]
    over = {"student": ["bag"], "methods": {"aft": {"weight": 1.0}}, "teachers": ["wise", "clever"]}
    params.values["sweep"] = {"big": {"over": over}}
    message = r"sweep\.big: .*teachers=clever: the same trainings as .*teachers=wise, .* two names; drop one"
    with pytest.raises(UserError, match=message):
        check_params(params)
    params.values["teachers"]["clever"] = params.values["teachers"]["clever"] | {"pooling": "cls"}
    check_params(params)


AFT = {"student": "bag", "teachers": ["wise"], "methods": {"aft": {"weight": [0.0, 3.0]}}}
SEARCHED = AFT | {"search": {"student.dropout": [0.1, 0.3], "methods.aft.warm_up": [0, 2]}}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (AFT, AFT | {"methods": {"aft": {"weight": [3.0, 0.0, 3.0]}}}, True),
        (AFT, AFT | {"teachers": ["clever"]}, True),
        (AFT, AFT | {"train": {"seeds": [2, 0, 1]}}, True),
        (SEARCHED, SEARCHED | {"search": {"methods.aft.warm_up": [2, 0], "student.dropout": [0.3, 0.1]}}, True),
        (AFT, AFT | {"teachers": ["loud"]}, False),
        (AFT, AFT | {"teachers": ["wise/cls"]}, False),
        (AFT, AFT | {"methods": {"aft": {"weight": [0.0, 3.0, 10.0]}}}, False),
        (SEARCHED, SEARCHED | {"search": {"student.dropout": [0.1, 0.3], "methods.aft.warm_up": [0]}}, False),
    ],
)
def test_the_order_of_a_grid_and_the_name_of_a_teacher_make_no_other_run(
    one: dict[str, Any], other: dict[str, Any], same: bool
):
    params = changed("teachers/clever", dict(reversed(PARAMS["teachers"]["wise"].items())))  # type: ignore[index]
    params.values["runs"] = {"one": one, "other": other}
    for name in ("wise", "clever", "loud"):
        params.values["teachers"][name]["heads"] = ["pooled", "cls"]
    params.values["teachers"]["loud"]["pooling"] = "cls"
    if not same:
        check_params(params)
        return
    with pytest.raises(UserError, match=r"runs\.one and runs\.other are the same run"):
        check_params(params)


def test_a_point_of_a_sweep_may_be_a_run():
    params = changed("sweep", {"sizes": {"over": {"run": ["none"], "student.dropout": [0.1, 0.3]}}})
    check_params(params)
    params.values["sweep"]["more"] = params.values["sweep"]["sizes"]
    check_params(params)


def test_a_run_may_use_a_head_that_its_teacher_keeps():
    params = changed("teachers/wise/heads", ["pooled", "cls"])
    params.values["runs"]["aft"]["teachers"] = ["wise/cls", "wise"]
    check_params(params)


def test_check_says_what_is_there_and_what_there_is_to_do(project: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(project)
    params = Params.load(project / "params.yaml")
    found = check(params, Project(project))
    text = str(found)
    assert "data: 240 texts prepared" in text
    assert "labelled training rows of split 0: class 'bad' 10, class 'good' 10, class 'plain' 10" in text
    assert "teacher wise: features of all 240 rows are there" in text
    assert "run aft: 6 trials, 0 found, 6 to train" in text


def test_check_says_how_long_a_training_is_where_that_follows_from_rows(
    project: Path, params: Params, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(project)
    del params.values["train"]["steps"]
    params.values["runs"]["none"]["train"] = {"epochs": 7.0}
    params.values["students"]["solved"] = {"family": "tfidf"}
    params.values["runs"] |= {"solved": {"student": "solved"}, "short": {"student": "bag", "train": {"steps": 9}}}
    found = check(params, Project(project)).found
    assert "run none: 3 trials, 0 found, 3 to train, of 7 steps" in found
    assert "run aft: 6 trials, 0 found, 6 to train, of 200 steps" in found
    assert "run solved: 3 trials, 0 found, 3 to train" in found
    assert "run short: 3 trials, 0 found, 3 to train" in found


def test_check_names_teachers_without_features_and_loads_none(project: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(project)
    params = Params.load(project / "params.yaml")
    params.values["teachers"]["third"] = {"family": "transformers", "model": str(project / "nothing")}
    found = check(params, Project(project))
    (line,) = [line for line in found.found if line.startswith("teacher third")]
    assert "features of all 240 rows are to be extracted" in line
    assert "`aft extract third --dry-run`" in line
    assert found.problems == []
    assert "run both:" in str(found)


def test_probes_that_are_not_fitted_yet_are_no_problem(project: Path, params: Params, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(project)
    (project / "probes" / "loud" / "pooled").rename(project / "away")  # its own folder stays, as `aft init` makes one
    found = check(params, Project(project))
    assert found.problems == []
    assert "run both: 3 trials" in found.found and "run aft: 6 trials, 0 found, 6 to train" in found.found


def test_before_the_data_is_prepared_trials_are_counted(project: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(project)
    params = Params.load(project / "params.yaml")
    for name in ("data", "features", "probes"):
        (project / name).rename(project / f"{name}-away")
    found = check(params, Project(project))
    assert found.problems == []
    assert "data: the source can be read" in str(found)
    assert "run aft: 6 trials" in str(found)
    assert "run none: 3 trials" in str(found)
    params.values["dataset"]["source"]["path"] = "raw/absent.csv"
    assert "absent.csv: no such file" in check(params, Project(project)).problems[0]


def test_a_mistake_in_a_run_is_found_by_the_first_stage_and_nothing_is_written(aft: Callable[..., Any], project: Path):
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["runs"]["aft"]["methods"][0]["gats"] = "sigmoid"
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    before = (project / "data" / "manifest.json").stat().st_mtime_ns
    done = aft("prepare")
    assert done.returncode == 2
    assert "unknown key `gats`" in done.stderr
    assert (project / "data" / "manifest.json").stat().st_mtime_ns == before


def test_the_length_of_a_run_replaces_that_of_the_section_in_either_unit():
    check_params(changed("runs/none/train", {"epochs": 2.0}))
    check_params(changed("runs/none/search", {"train.epochs": [1.0, 2.0]}))


def test_a_frozen_student_takes_no_methods(tiny_encoder: Path):
    values = copy.deepcopy(PARAMS)
    values["students"]["bag"] = {"family": "transformers", "model": str(tiny_encoder)}
    values["runs"]["none"]["train"] = {"trained_layers": 0, "layer_decay": 0.5}
    check_params(Params(values))
    values["runs"]["aft"]["train"] = {"trained_layers": 0}
    with pytest.raises(UserError, match=r"train \(for aft\): trained_layers: 0 trains the head alone"):
        check_params(Params(values))


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        ("classification", {"val": "acuracy"}, r"has no score `acuracy` \(did you mean `accuracy`\?\)"),
        ("classification", {"val": "temperature"}, "has no score `temperature`"),
        ("regression", {"label_smoothing": 0.1}, "label_smoothing: regression has no classes to smooth; remove it"),
        ("multilabel", {"sampling": "balanced"}, "sampling: multilabel has no classes to balance; remove it"),
    ],
)
def test_an_option_that_does_not_fit_the_task_is_one_line(task: str, settings: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        check_task(changed("runs/none/train", settings), task)
