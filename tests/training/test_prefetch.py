"""Steps made ahead: the same numbers as steps made when they are needed, and nothing that waits for the GPU."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.params import Params
from pipeline.project import Project
from pipeline.runs import Candidate
from pipeline.training.batches import Part, batches
from pipeline.training.config import Plan
from pipeline.training.parallel import Group
from pipeline.training.prefetch import Ready, get_ready, prefetched
from pipeline.training.session import Session, TrialData
from pipeline.training.trial import ready_parts

from .pictures import of_pictures, write_project

AUGMENT = {
    "crop": {},
    "flip": {},
    "trivial_augment": {},
    "colour": {},
    "erase": {},
    "mixup": {"share": 0.5},
    "cutmix": {},
}


def steps_of(data: TrialData, count: int) -> list[Ready]:
    steps = enumerate(batches(data.split, 0, data.settings, False))
    with prefetched(ready_parts(data, steps, {}), data.session.device) as found:
        return [next(found) for _ in range(count)]


def test_all_tensors_of_a_part_are_known(project: Path, params: Params):
    params.values["train"]["augment"] = {"word_dropout": {}}
    data = Session(Plan.read("aft", params, Project(project))).trial_data(0, Candidate((3.0,)))
    rows, labelled = next(batches(data.split, 0, data.settings, True))
    ready = get_ready(data, Part(rows, labelled), frozenset({"features", "linear"}), data.augmented(rows, labelled, 0))
    numbers, offsets = ready.inputs
    found = list(ready.tensors())
    expected = [numbers, offsets, ready.labels, *ready.teachers, *ready.teacher_outputs["linear"]]
    assert [id(tensor) for tensor in found] == [id(tensor) for tensor in expected]
    assert ready.mixed is None and ready.start == labelled
    shared = get_ready(data.shared(Group(1, 2)), Part(rows, labelled), frozenset())
    assert len(list(shared.tensors())) == 3 and shared.inputs.total == len(rows)


def test_on_a_cpu_a_step_is_made_when_it_is_needed():
    asked: list[int] = []

    def made() -> Any:
        for number in range(3):
            asked.append(number)
            yield number

    with prefetched(made(), torch.device("cpu")) as found:
        assert next(found) == 0 and asked == [0]
        assert list(found) == [1, 2]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("memory", [0.0, 2.0], ids=["copied", "kept"])
def test_on_a_gpu_steps_are_those_of_a_cpu_and_nothing_waits(tmp_path: Path, memory: float):
    root, plain = write_project(tmp_path), Candidate(())
    params = of_pictures(augment=AUGMENT)
    expected = steps_of(Session(Plan.read("none", params, Project(root))).trial_data(0, plain), 6)
    params.values["machine"] = {"device": "cuda", "device_memory": memory}
    data = Session(Plan.read("none", params, Project(root))).trial_data(0, plain)
    steps_of(data, 2)  # the first ones set things up
    try:
        torch.cuda.set_sync_debug_mode("error")
        found = steps_of(data, 6)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for one, other in zip(expected, found, strict=True):
        for alone, there in zip(one.tensors(), other.tensors(), strict=True):
            torch.testing.assert_close(there.cpu(), alone, atol=1e-3, rtol=1e-3)
