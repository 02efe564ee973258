"""A run on a layer of a teacher, `wise/layer:4`, through every stage after extraction."""

import shutil
from pathlib import Path

import numpy as np

from pipeline.data import Dataset
from pipeline.params import Params
from pipeline.probing import ProbeSettings, assess, probe
from pipeline.project import Project
from pipeline.records import BundleRecord, EvaluationRecord, RunRecord
from pipeline.reporting import report
from pipeline.runs import join
from pipeline.store import Head, RowIndex, StoreWriter
from pipeline.training import evaluate, train


def write_heads(data: Dataset, path: Path, layer_scale: float) -> None:
    """A store whose layer knows the class of a row and whose pooled features are noise."""
    random = np.random.default_rng(0)
    truth = np.array([int(name[1:]) % 3 for name in data.ids])
    values = {
        "pooled": random.normal(size=(len(data), 6)),
        "layer:4": layer_scale * (3 * np.eye(3)[truth] + random.normal(size=(len(data), 3))),
    }
    heads = {name: Head(shape=array.shape[1:], dtype="float32") for name, array in values.items()}
    rows = RowIndex(ids=data.ids, digests=data.row_digests)
    shutil.rmtree(path, ignore_errors=True)
    with StoreWriter.open(path, rows=rows, dataset=data.digest, recipe={"seed": 0}, heads=heads) as writer:
        for shard in writer.missing():
            writer.write(shard, {name: array[shard.start : shard.stop] for name, array in values.items()})


def test_a_layer_is_a_source_in_every_stage(project: Path, params: Params):
    paths, data = Project(project), Dataset.open(project / "data")
    write_heads(data, paths.store("wise"), 1.0)
    methods = {"kd": {"weight": 1.0}}
    params.values["runs"] = {
        "none": {"student": "bag"},
        "layer": {"student": "bag", "teachers": ["wise/layer:4"], "methods": methods},
        "both": {"student": "bag", "teachers": ["wise", "wise/layer:4", "loud"], "methods": methods},
    }
    probe("wise", params.read(ProbeSettings, "probe"), paths)
    found = assess(params, paths)
    assert {"wise", "wise/layer:4", "loud"} <= {name for subset in found.subsets for name in subset.sources}
    join(params, paths)
    assert list(BundleRecord.read(paths.bundle("layer")).sources) == ["wise/layer:4"]
    for run in params.values["runs"]:
        train(run, params, paths)
        evaluate(run, params, paths)
    assert RunRecord.read(paths.run("both") / "run.json").sources == ("wise", "wise/layer:4", "loud")
    evaluation = EvaluationRecord.read(paths.evaluation("layer"))
    assert evaluation.probe is not None
    # Only the layer knows the classes: a probe of the pooled features would be at chance, one third.
    assert min(score.scores["accuracy"] for score in evaluation.probe) > 0.8
    assert "wise/layer:4" in report(params, paths).page.read_text()


def test_another_layer_changes_only_the_runs_that_read_it(project: Path, params: Params):
    paths, data = Project(project), Dataset.open(project / "data")
    params.values["runs"] = {
        "pooled": {"student": "bag", "teachers": ["wise"], "methods": {"kd": {"weight": 1.0}}},
        "layer": {"student": "bag", "teachers": ["wise/layer:4"], "methods": {"kd": {"weight": 1.0}}},
    }
    for scale, changed in ((1.0, ["pooled", "layer"]), (2.0, ["layer"])):
        write_heads(data, paths.store("wise"), scale)
        probe("wise", params.read(ProbeSettings, "probe"), paths)
        assert join(params, paths).changed == changed
