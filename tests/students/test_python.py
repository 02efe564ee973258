"""Models of one's own: made by a function, checked, trained, exported, and asked about before they are loaded."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.checks import check_params
from pipeline.data import Dataset
from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.predict import Predictor
from pipeline.project import Project
from pipeline.specs import expand
from pipeline.students import Blueprint, student_blueprint
from pipeline.training import train

from ..conftest import WORDS, write_encoder

MODULE = """
from torch import nn

from tests.students.own_model import Mean

class Pixels(nn.Module):
    def __init__(self, classes, inputs, width):
        super().__init__()
        self.width = width
        self.layer = nn.LazyLinear(width)
        self.head = nn.Linear(width, classes)

    def forward(self, images):
        assert images.shape[1] == 3
        features = self.layer(images.flatten(1))
        return features, self.head(features)

class Wrong(Mean):
    def forward(self, batch):
        return super().forward(batch)[1]

class Normed(Mean):
    def __init__(self, classes, inputs):
        super().__init__(classes, inputs)
        self.norm = nn.BatchNorm1d(self.width)

    def forward(self, batch):
        features, outputs = super().forward(batch)
        return self.norm(features), outputs

def number(classes, inputs):
    return 7

def fails(classes, inputs):
    raise RuntimeError("no such\\nlayer")
"""


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder"), WORDS, width=16, layers=1)


@pytest.fixture
def project(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small project, with a module in its folder, which is the current one."""
    (project / "my_models.py").write_text(MODULE)
    monkeypatch.chdir(project)
    monkeypatch.delitem(sys.modules, "my_models", raising=False)
    return project


def section(encoder: Path, name: str = "Mean", **more: Any) -> dict[str, Any]:
    return {"family": "python", "factory": f"my_models:{name}", "kind": "text", "tokenizer": str(encoder)} | more


def blueprint(project: Path, section: dict[str, Any]) -> Blueprint:
    data = Dataset.open(project / "data")
    return student_blueprint(section, "students.x", data, data.split(0).train)


def test_it_is_trained_taught_exported_and_used_only_if_trusted(
    project: Path, params: Params, encoder: Path, aft: Callable
):
    params.values["students"]["mine"] = section(encoder, options={"width": 6})
    params.values["runs"]["mine"] = {
        "student": "mine", "teachers": ["wise"], "methods": {"aft": {"weight": 1.0}}
    }  # fmt: skip
    check_params(params)
    assert train("mine", params, Project(project)).trained == 3
    (project / "params.yaml").write_text(json.dumps(params.values))
    assert aft("export", "mine", "--output", "home").returncode == 0
    with pytest.raises(UserError, match=r"home: loading a student of the family python runs the function 'my_mod"):
        Predictor(project / "home")
    assert len(Predictor(project / "home", trust=True)(["good1 good2"])) == 1
    refused = aft("predict", "home", "-", "--output", "-")
    assert refused.returncode == 2 and "pass --trust" in refused.stderr


def test_batch_norm_is_not_trained_on_one_row(project: Path, params: Params, encoder: Path):
    params.values["students"]["mine"] = section(encoder, "Normed")
    params.values["runs"]["mine"] = {"student": "mine", "train": {"batch_size": 1, "steps": 2, "seeds": [0]}}
    with pytest.raises(UserError, match=r"train \(for mine\).batch_size: 1: .*\(BatchNorm\), which needs two rows"):
        train("mine", params, Project(project))


def test_an_edit_of_its_file_is_another_student(project: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch):
    before = blueprint(project, section(encoder))
    (project / "my_models.py").write_text(MODULE + "\n# edited\n")
    monkeypatch.delitem(sys.modules, "my_models")
    after = blueprint(project, section(encoder))
    assert before.fitted["code"] != after.fitted["code"]
    assert before.fitted | {"code": ""} == after.fitted | {"code": ""}


def test_it_reads_images(project: Path, pictures: Dataset):
    made = student_blueprint(
        {"family": "python", "factory": "my_models:Pixels", "kind": "image", "size": 8, "options": {"width": 5}},
        "students.x", pictures, pictures.split(0).train,
    )  # fmt: skip
    assert made.reads == "image"
    student = made.build()
    features, outputs = student(made.inputs(pictures).batch(pictures.split(0).train[:3]))
    assert (features.shape, outputs.shape) == ((3, 5), (3, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"factory": "my_models"}, "factory: 'my_models': write it as package.module:function"),
        ({"factory": "nowhere:Mean"}, "factory: no module 'nowhere'; put it into the project's folder"),
        ({"factory": "my_models:Meen"}, r"factory: my_models has no function 'Meen' \(did you mean `Mean`\?\)"),
        ({"factory": "my_models:number"}, "my_models:number: made int; it must be a torch.nn.Module with an attribute"),
        ({"factory": "my_models:fails"}, "my_models:fails: RuntimeError: no such layer"),
        ({"options": {"depth": 3}}, "my_models:Mean: TypeError: .* unexpected keyword argument 'depth'"),
        (
            {"factory": "my_models:Wrong"},
            r"my_models:Wrong: gives Tensor for 1 row; it must give feat",
        ),
        ({"tokenizer": None}, "my_models:Mean: `kind: text` needs a `tokenizer`"),
        ({"kind": "image"}, "a python student reads image; the dataset holds text"),
    ],
)
def test_what_is_no_student_is_one_line(project: Path, encoder: Path, change: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message) as caught:
        blueprint(project, section(encoder) | change)
    assert "\n" not in str(caught.value)


def test_the_short_form():
    expected = {"family": "python", "factory": "my.models:make", "kind": "image"}
    assert expand("python:my.models:make", "students", "image", "here") == expected
    assert expand("python:m:f", "teachers", "image", "here") == {"family": "python", "factory": "m:f"}


def test_random_numbers_of_a_training_do_not_depend_on_the_trial_run(project: Path, encoder: Path):
    torch.manual_seed(3)
    made = blueprint(project, section(encoder))
    assert torch.equal(torch.rand(2), torch.rand(2, generator=torch.Generator().manual_seed(3)))
    assert made.build().width == 8
