"""Bundles change with what a run stands on, and with nothing else."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from pipeline.code import Code
from pipeline.data import Dataset
from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.probing import ProbeSettings, probe
from pipeline.project import Project
from pipeline.records import from_json, to_json
from pipeline.runs import join

from ..conftest import class_logits, write_store


def bundles(root: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in (root / "bundles" / "run").iterdir()}


def test_every_run_gets_a_bundle_of_its_own_teachers(project: Path, params: Params):
    result = join(params, Project(project))
    assert result.runs == result.changed == ["none", "aft", "both"]
    read = {name: json.loads(text) for name, text in bundles(project).items()}
    assert {name: list(bundle["sources"]) for name, bundle in read.items()} == {
        "none": [],
        "aft": ["wise"],
        "both": ["wise", "loud"],
    }
    assert set(read["aft"]["sources"]["wise"]) == {"recipe", "content", "probe"}


def test_joining_again_changes_nothing(project: Path, params: Params):
    join(params, Project(project))
    before = bundles(project)
    assert join(params, Project(project)).changed == []
    assert bundles(project) == before


def test_another_teacher_changes_only_the_runs_that_use_it(project: Path, params: Params):
    join(params, Project(project))
    before = bundles(project)
    data = Dataset.open(project / "data")
    write_store(data, project / "features" / "new.zarr", 8, seed=9)
    probe("new", params.read(ProbeSettings, "probe"), Project(project))
    values = yaml.safe_load((project / "params.yaml").read_text())
    values["teachers"]["new"] = values["teachers"]["wise"]
    values["runs"]["newer"] = {"student": "bag", "teachers": ["new"], "methods": [{"name": "kd", "weight": 1.0}]}
    assert join(Params(values), Project(project)).changed == ["newer"]
    assert {name: text for name, text in bundles(project).items() if name != "newer"} == before


def test_a_changed_store_changes_the_runs_that_use_it(project: Path, params: Params):
    join(params, Project(project))
    write_store(Dataset.open(project / "data"), project / "features" / "loud.zarr", 8, seed=77)
    assert join(params, Project(project)).changed == ["both"]


def test_a_run_that_is_gone_leaves_no_bundle(project: Path, params: Params):
    join(params, Project(project))
    del params.values["runs"]["both"]
    join(params, Project(project))
    assert sorted(bundles(project)) == ["aft", "none"]


def test_a_store_of_another_dataset_is_refused(project: Path, params: Params):
    manifest = project / "data" / "manifest.json"
    manifest.write_text(to_json(from_json(manifest.read_bytes()) | {"digest": "0" * 32}))
    with pytest.raises(UserError, match=r"wise\.zarr") as caught:
        join(params, Project(project))
    assert "\n" not in str(caught.value)


def test_a_missing_store_and_a_missing_probe_say_what_to_run(project: Path, params: Params):
    shutil.rmtree(project / "probes" / "loud")
    with pytest.raises(UserError, match="run `aft probe loud`"):
        join(params, Project(project))
    (project / "features" / "wise.zarr").rename(project / "features" / "away.zarr")
    with pytest.raises(UserError, match=r"wise\.zarr"):
        join(params, Project(project))


def test_a_bundle_holds_a_digest_of_just_the_plug_ins_of_the_run(project: Path, params: Params):
    params.values["runs"]["again"] = params.values["runs"]["aft"]
    join(params, Project(project))
    code = {name: json.loads(text)["code"] for name, text in bundles(project).items()}
    expected = ("pipeline.tasks.classification", "pipeline.students.bag_of_words", "pipeline.methods.aft")
    assert code["aft"] == Code().digest(*expected)
    assert code["again"] == code["aft"]
    assert len(set(code.values())) == 3


def test_a_head_that_is_not_in_the_store_is_refused(project: Path, params: Params):
    params.values["runs"]["aft"]["teachers"] = ["wise/layer:4"]
    with pytest.raises(UserError, match=r"wise\.zarr: no head `layer:4`, which `wise/layer:4` stands for; write wise"):
        join(params, Project(project))


def test_a_head_that_a_method_follows_changes_the_runs_that_follow_it_alone(project: Path, params: Params):
    data, path = Dataset.open(project / "data"), project / "features" / "wise.zarr"
    logits, runs = class_logits(data), params.values["runs"]
    join(params, Project(project))
    runs["head"] = {
        "student": "bag",
        "teachers": ["wise"],
        "methods": [{"name": "logit_kd", "weight": 1.0, "logits": "head"}],
    }
    with pytest.raises(UserError, match=r"wise\.zarr: no head `logits`.* `aft extract wise`, or set `logits: probe`"):
        join(params, Project(project))
    store = write_store(data, path, 24, 1, logits)
    assert join(params, Project(project)).changed == ["head"]
    read = {name: json.loads(text)["sources"] for name, text in bundles(project).items()}
    assert read["head"]["wise"] == read["aft"]["wise"]
    assert read["head"]["wise/logits"] == {"recipe": store.recipe_digest, "content": store.head_digest("logits")}
    assert "wise/logits" not in read["aft"]
    shutil.rmtree(path)
    write_store(data, path, 24, 1, logits + 1)
    assert join(params, Project(project)).changed == ["head"]
