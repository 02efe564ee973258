"""A small project of pictures, with the features of a made-up teacher."""

import copy
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.params import Params
from pipeline.probing import ProbeSettings, probe
from pipeline.project import Project
from pipeline.store import Head, RowIndex, StoreWriter

from ..conftest import PARAMS
from ..students.conftest import write_pictures


def write_project(root: Path) -> Path:
    """Sixty pictures, all training rows with labels, and the teacher `wise`, which knows nothing of them."""
    data = write_pictures(root, 60)
    features = np.random.default_rng(1).normal(size=(len(data), 12))
    rows = RowIndex(ids=data.ids, digests=data.row_digests)
    heads = {"pooled": Head(shape=(12,), dtype="float16")}
    path = root / "features" / "wise.zarr"
    with StoreWriter.open(path, rows=rows, dataset=data.digest, recipe={}, heads=heads) as writer:
        for shard in writer.missing():
            writer.write(shard, {"pooled": features[shard.start : shard.stop]})
    probe("wise", Params(PARAMS).read(ProbeSettings, "probe"), Project(root))
    return root


def of_pictures(device: str = "cpu", **train: Any) -> Params:
    """Its settings: plain training and AFT of a small CNN, for eight steps."""
    values = copy.deepcopy(PARAMS)
    values["students"] = {"cnn": {"family": "compact_cnn", "width": 16, "size": 16}}
    values["train"] = {"steps": 8, "batch_size": 12, "learning_rate": 0.01, "seeds": [0]} | train
    values["machine"] = {"device": device, "workers": 1}
    values["runs"] = {
        "none": {"student": "cnn"},
        "aft": {"student": "cnn", "teachers": ["wise"], "methods": {"aft": {"weight": 3.0}}},
    }
    return Params(values)
