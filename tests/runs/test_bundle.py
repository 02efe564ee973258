"""Bundles change with what a run stands on, and with nothing else."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from pipeline.data.dataset import Dataset
from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.probing import probes
from pipeline.runs.bundle import join

from ..conftest import class_logits, write_store


def bundles(root: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in (root / "bundles").iterdir()}


def test_every_run_gets_a_bundle_of_its_own_teachers(project: Path, params: Params):
    result = join(params, project)
    assert result.runs == result.changed == ["none", "aft", "both"]
    read = {name: json.loads(text) for name, text in bundles(project).items()}
    assert {name: list(bundle["teachers"]) for name, bundle in read.items()} == {
        "none": [],
        "aft": ["wise"],
        "both": ["loud", "wise"],
    }
    assert sorted(read["aft"]["code"]) == ["pipeline/methods/aft.py", "pipeline/students/bag_of_words.py"]


def test_joining_again_changes_nothing(project: Path, params: Params):
    join(params, project)
    before = bundles(project)
    assert join(params, project).changed == []
    assert bundles(project) == before


def test_another_teacher_changes_only_the_runs_that_use_it(project: Path, params: Params):
    join(params, project)
    before = bundles(project)
    data = Dataset.open(project / "data")
    store = write_store(data, project / "features" / "new.zarr", 8, seed=9)
    settings = params.read(probes.ProbeSettings, "probe")
    probes.probe("new", data, store, settings, project / "probes" / "new")
    values = yaml.safe_load((project / "params.yaml").read_text())
    values["teachers"]["new"] = values["teachers"]["wise"]
    values["runs"]["newer"] = {"student": "bag", "teachers": ["new"], "methods": [{"name": "kd", "weight": 1.0}]}
    assert join(Params(values), project).changed == ["newer"]
    assert {name: text for name, text in bundles(project).items() if name != "newer"} == before


def test_a_changed_store_changes_the_runs_that_use_it(project: Path, params: Params):
    join(params, project)
    write_store(Dataset.open(project / "data"), project / "features" / "loud.zarr", 8, seed=77)
    assert join(params, project).changed == ["both"]


def test_a_run_that_is_gone_leaves_no_bundle(project: Path, params: Params):
    join(params, project)
    del params.values["runs"]["both"]
    join(params, project)
    assert sorted(bundles(project)) == ["aft", "none"]


def test_a_store_of_another_dataset_is_refused(project: Path, params: Params):
    manifest = project / "data" / "manifest.json"
    manifest.write_text(manifest.read_text().replace(Dataset.open(project / "data").digest, "0" * 32))
    with pytest.raises(UserError, match=r"wise\.zarr") as caught:
        join(params, project)
    assert "\n" not in str(caught.value)


def test_a_missing_store_and_a_missing_probe_say_what_to_run(project: Path, params: Params):
    (project / "probes" / "loud.safetensors").unlink()
    with pytest.raises(UserError, match="run `aft probe loud`"):
        join(params, project)
    (project / "features" / "wise.zarr").rename(project / "features" / "away.zarr")
    with pytest.raises(UserError, match=r"wise\.zarr"):
        join(params, project)


def test_a_bundle_holds_the_code_of_the_methods_that_a_method_is_made_of(project: Path, params: Params):
    params.values["runs"]["aft"]["methods"] = [{"name": "aft_plus", "weight": 1.0}]
    join(params, project)
    code = json.loads((project / "bundles" / "aft.json").read_text())["code"]
    assert {f"pipeline/methods/{name}.py" for name in ("aft", "aft_plus", "logit_kd")} < set(code)


def test_a_head_that_a_method_follows_changes_the_runs_that_follow_it_alone(project: Path, params: Params):
    data, path = Dataset.open(project / "data"), project / "features" / "wise.zarr"
    logits, runs = class_logits(data), params.values["runs"]
    join(params, project)
    runs["head"] = {
        "student": "bag",
        "teachers": ["wise"],
        "methods": [{"name": "logit_kd", "weight": 1.0, "logits": "head"}],
    }
    with pytest.raises(UserError, match=r"wise\.zarr: no head `logits`.* `aft extract wise`, or set `logits: probe`"):
        join(params, project)
    store = write_store(data, path, 24, 1, logits)
    assert join(params, project).changed == ["head"]
    read = {name: json.loads(text)["teachers"] for name, text in bundles(project).items()}
    assert read["head"]["wise"] == read["aft"]["wise"] | {"logits": store.head_digest("logits")}
    shutil.rmtree(path)
    write_store(data, path, 24, 1, logits + 1)
    assert join(params, project).changed == ["head"]
