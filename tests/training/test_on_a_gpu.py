"""Training on a made-up GPU: all is on one device, the numbers are those of a CPU, and no step waits for the GPU."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.params import Params
from pipeline.plugins import plugin, plugins
from pipeline.project import Project
from pipeline.training.config import Plan
from pipeline.training.session import Session
from pipeline.training.trial import TrialResult, run_trial

from ..made_up_gpu import MadeUpGpu
from .pictures import of_pictures, write_project

METHODS = plugins("methods")
AUGMENTATIONS = [name for name in plugins("augmentations") if plugin("augmentations", name).KIND == "image"]
STEPS = 12
"""Of 400, so that the log has a line every 20."""
OPTIONS: dict[str, dict[str, Any]] = {
    "bag_of_words": {"augment": {"word_dropout": {}}, "average": 0.9, "label_smoothing": 0.1},
    "compact_cnn": {"augment": {name: {} for name in AUGMENTATIONS}, "accumulate": 2},
}


def trained(params: Params, project: Path, device: str) -> tuple[TrialResult, Counter[str]]:
    """A trial to its end, and what ten of its steps waited for, between two lines of the log."""
    params.values["machine"] = {"device": device, "workers": 1, "checkpoint_minutes": None}
    session = Session(Plan.read("trial", params, Project(project)))
    training = run_trial(session, 0, session.plan.run.candidates()[0], end=STEPS)
    waits: Counter[str] = Counter()
    for step in range(STEPS + 2):
        if device == "cuda" and step == 3:  # the first steps set things up, and number 0 has a line of the log
            before = MadeUpGpu.current.waits.copy()
        if device == "cuda" and step == STEPS:
            waits = MadeUpGpu.current.waits - before
        try:
            next(training)
        except StopIteration as result:
            found: TrialResult = result.value
            found.student.cpu()
            return found, waits
    raise AssertionError("it should have ended")


def compare(params: Params, project: Path) -> None:
    params.values["train"] |= {"steps": 400, "seeds": [0]}
    params.values["runs"]["trial"].setdefault("train", {})
    expected, _ = trained(params, project, "cpu")
    with MadeUpGpu():
        found, waits = trained(params, project, "cuda")
    assert not waits
    np.testing.assert_allclose(found.row_scores, expected.row_scores, atol=1e-4)
    for one, other in zip(found.student.state_dict().values(), expected.student.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_every_method(project: Path, params: Params, method: str):
    methods = {method: {"weight": 3.0, **({"epochs": 5} if method == "factor_transfer" else {})}}
    params.values["runs"]["trial"] = {"student": "bag", "teachers": ["wise", "loud"], "methods": methods}
    compare(params, project)


@pytest.mark.parametrize("family", OPTIONS)
def test_every_option_of_a_step(project: Path, params: Params, tmp_path: Path, family: str):
    if family == "compact_cnn":
        project, params = write_project(tmp_path / "pictures"), of_pictures()
    methods = {"methods": {"aft": {"weight": 3.0}, "aft_plus": {"weight": 1.0}}}
    student = "cnn" if family == "compact_cnn" else "bag"
    params.values["runs"]["trial"] = {"student": student, "teachers": ["wise"], **methods, "train": OPTIONS[family]}
    compare(params, project)
