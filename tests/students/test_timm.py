"""Students of timm: architectures with images of another size, and weights that do not fit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm as library
import torch
from safetensors.torch import save_file

from pipeline.data import Dataset
from pipeline.errors import UserError
from pipeline.params import parse
from pipeline.students import Blueprint, student_blueprint
from pipeline.students import timm as family

SIZE = 64
ROWS = np.arange(4)


def blueprint(pictures: Dataset, model: str, **settings: Any) -> Blueprint:
    section = {"family": "timm", "model": model, "pretrained": False} | settings
    return student_blueprint(section, "students.x", pictures, ROWS)


@pytest.mark.parametrize(
    "model",
    [
        "efficientvit_b0",
        "deit_tiny_patch16_224",
        "swin_tiny_patch4_window7_224",
        "beit_base_patch16_224",
        "mixer_s32_224",
    ],
)
def test_every_architecture_learns_from_images_of_another_size(pictures: Dataset, model: str):
    found = blueprint(pictures, model, size=SIZE)
    student = found.build()
    batch = found.inputs(pictures).batch(ROWS)
    assert batch.shape == (4, 3, SIZE, SIZE)
    features, logits = student(batch)
    assert features.shape == (4, student.width)
    assert logits.shape == (4, 2)
    logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in student.parameters() if parameter.requires_grad)


def test_the_models_own_size_is_taken_where_none_is_set(pictures: Dataset):
    assert blueprint(pictures, "test_vit").inputs(pictures).batch(ROWS).shape == (4, 3, 160, 160)


def test_a_size_that_does_not_fit_is_refused_before_any_image_is_decoded(pictures: Dataset):
    with pytest.raises(UserError, match="test_vit: images of 100 x 100 do not fit it"):
        blueprint(pictures, "test_vit", size=100)
    assert not (pictures.path.parent / ".aft").exists()


def test_an_unknown_model_is_refused_with_its_neighbours(pictures: Dataset):
    with pytest.raises(UserError, match="no model 'resnet18x'; the nearest names are resnet18"):
        blueprint(pictures, "resnet18x")


@pytest.mark.parametrize("model", ["deit_tiny_patch16_224", "mixer_s32_224"])
def test_weights_of_the_models_own_size_are_resampled_or_refused_in_one_line(
    pictures: Dataset, tmp_path: Path, model: str
):
    save_file(library.create_model(model).state_dict(), tmp_path / "own.safetensors")
    found = blueprint(pictures, model, size=SIZE, pretrained=True, weights=str(tmp_path / "own.safetensors"))
    if model == "deit_tiny_patch16_224":
        assert found.build()(found.inputs(pictures).batch(ROWS))[1].shape == (4, 2)
        return
    with pytest.raises(UserError, match=r"mixer_s32_224: its weights cannot be loaded .*size mismatch") as caught:
        found.build()
    assert "\n" not in str(caught.value)


def test_a_model_with_several_heads_is_refused(pictures: Dataset):
    with pytest.raises(UserError, match="it has several heads, and a student has one"):
        blueprint(pictures, "deit_tiny_distilled_patch16_224").build()


def test_weights_are_those_of_the_file(pictures: Dataset, tmp_path: Path):
    torch.manual_seed(5)
    state = library.create_model("test_vit").state_dict()
    save_file(state, tmp_path / "w.safetensors")
    student = blueprint(pictures, "test_vit", pretrained=True, weights=str(tmp_path / "w.safetensors")).build()
    loaded = student.model.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items() if not name.startswith("head."))
    assert loaded["head.weight"].shape == (2, student.width)


def test_settings_are_strict():
    with pytest.raises(UserError, match="size: should be greater than or equal to 8"):
        parse(family.Settings, {"model": "test_vit", "size": 4}, "students.x")
