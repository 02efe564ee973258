"""Other pretrained weights under the same name are another student: no trial of the old ones is taken for its own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from pipeline.data import Dataset
from pipeline.params import read_plugin

from ..conftest import WORDS, write_encoder
from .conftest import write_pictures


def fitted(data: Dataset, **section: Any) -> dict[str, Any]:
    family, settings = read_plugin("students", section, "students.s")
    found: dict[str, Any] = family.fit(settings, data, np.arange(len(data)))
    return found


def change(path: Path) -> None:
    """Change one weight of a file."""
    tensors = load_file(path)
    next(iter(tensors.values())).view(-1)[0] += 1
    save_file(tensors, path, {"format": "pt"})


@pytest.mark.parametrize("family", ["transformers", "static"])
def test_weights_of_a_text_model_are_part_of_the_student(tmp_path: Path, made_project: Path, family: str):
    data, folder = Dataset.open(made_project / "data"), write_encoder(tmp_path / "m", WORDS)
    before = fitted(data, family=family, model=str(folder))
    assert fitted(data, family=family, model=str(folder)) == before
    change(folder / "model.safetensors")
    assert fitted(data, family=family, model=str(folder)) != before
    if family == "transformers":
        untrained = fitted(data, family=family, model=str(folder), pretrained=False)
        change(folder / "model.safetensors")
        assert fitted(data, family=family, model=str(folder), pretrained=False) == untrained


def test_weights_of_an_image_model_are_part_of_the_student(tmp_path: Path):
    data, path = write_pictures(tmp_path / "pictures"), tmp_path / "w.safetensors"
    torch.manual_seed(0)
    save_file(timm.create_model("test_vit").state_dict(), path)
    before = fitted(data, family="timm", model="test_vit", weights=str(path))
    change(path)
    after = fitted(data, family="timm", model="test_vit", weights=str(path))
    assert {key for key in before if before[key] != after[key]} == {"weights"}
