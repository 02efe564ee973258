"""Students of timm: architectures with images of another size, and weights that do not fit."""

import shutil
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
from pipeline.students import Blueprint, load_student, save_student, student_blueprint
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
        "gmlp_ti16_224",
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
    if model == "deit_tiny_patch16_224":
        found = blueprint(pictures, model, size=SIZE, pretrained=True, weights=str(tmp_path / "own.safetensors"))
        assert found.build()(found.inputs(pictures).batch(ROWS))[1].shape == (4, 2)
        return
    with pytest.raises(UserError, match=r"not weights of mixer_s32_224: 'blocks.0.mlp_tokens") as caught:
        blueprint(pictures, model, size=SIZE, pretrained=True, weights=str(tmp_path / "own.safetensors"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model", ["crossvit_tiny_240", "deit_tiny_distilled_patch16_224", "efficientvim_m1"])
def test_a_model_with_several_classifiers_gets_one(pictures: Dataset, model: str):
    found = blueprint(pictures, model)
    student = found.build()
    features, logits = student(found.inputs(pictures).batch(ROWS))
    assert features.shape == (4, student.width)
    assert logits.shape == (4, 2)
    assert not any("head_dist" in name for name in student.state_dict())


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "model.backbone."])
@pytest.mark.parametrize("model", ["test_vit", "crossvit_tiny_240"])
def test_weights_under_a_prefix_are_the_students(pictures: Dataset, tmp_path: Path, model: str, prefix: str):
    torch.manual_seed(5)
    state = library.create_model(model, num_classes=9).state_dict()
    save_file({f"{prefix}{name}": value for name, value in state.items()}, tmp_path / "w.safetensors")
    student = blueprint(pictures, model, pretrained=True, weights=str(tmp_path / "w.safetensors")).build()
    loaded = student.model.state_dict()
    body = {name: value for name, value in state.items() if not name.startswith("head.")}
    assert body.keys() == {name for name in loaded if not name.startswith("head.")}
    assert all(torch.equal(loaded[name], value) for name, value in body.items())


def test_weights_that_are_not_the_models_are_refused_before_any_image_is_decoded(pictures: Dataset, tmp_path: Path):
    state = library.create_model("test_vit").state_dict()
    save_file({f"odd{number}": value for number, value in enumerate(state.values())}, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"not weights of test_vit: it lacks \d+ of the model's \d+ tensors"):
        blueprint(pictures, "test_vit", pretrained=True, weights=str(tmp_path / "w.safetensors"))
    assert not (pictures.path.parent / ".aft").exists()


def test_a_folder_in_timms_format_is_the_student(pictures: Dataset, tmp_path: Path):
    torch.manual_seed(5)
    model = library.create_model("test_vit", global_pool="avg", fc_norm=False, in_chans=1)
    library.models.save_for_hf(model, tmp_path / "m", safe_serialization=True)
    found = blueprint(pictures, f"local-dir:{tmp_path / 'm'}", pretrained=True)
    student = found.build().eval()
    batch = found.inputs(pictures).batch(ROWS)
    assert batch.shape == (4, 1, 160, 160)
    with torch.inference_mode():
        expected = model.eval().forward_head(model.forward_features(batch), pre_logits=True)
        torch.testing.assert_close(student(batch)[0], expected)
    save_student(tmp_path / "student", found, student)
    shutil.rmtree(tmp_path / "m")
    _, again = load_student(tmp_path / "student")
    with torch.inference_mode():
        assert torch.equal(again(batch)[0], student(batch)[0]), "a checkpoint needs no other file"


def test_weights_are_those_of_the_file(pictures: Dataset, tmp_path: Path):
    torch.manual_seed(5)
    state = library.create_model("test_vit").state_dict()
    save_file(state, tmp_path / "w.safetensors")
    student = blueprint(pictures, "test_vit", pretrained=True, weights=str(tmp_path / "w.safetensors")).build()
    loaded = student.model.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items() if not name.startswith("head."))
    assert loaded["head.weight"].shape == (2, student.width)


@pytest.mark.parametrize("model", ["test_vit", "eva02_tiny_patch14_224", "deit_tiny_distilled_patch16_224"])
def test_the_first_layers_of_a_model_are_kept_with_their_weights(pictures: Dataset, tmp_path: Path, model: str):
    torch.manual_seed(5)
    state = library.create_model(model).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    own = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    found = blueprint(pictures, model, layers=2, pretrained=True, weights=str(tmp_path / "w.safetensors"))
    student = found.build()
    loaded = {name: value for name, value in student.model.state_dict().items() if not name.startswith("head")}
    assert own > 2 and len(student.model.blocks) == 2
    assert all(torch.equal(state[name], value) for name, value in loaded.items())
    assert not any(name.startswith("blocks.2.") for name in loaded)
    save_student(tmp_path / "student", found, student)
    _, again = load_student(tmp_path / "student")
    assert len(again.model.blocks) == 2


@pytest.mark.parametrize(
    ("model", "layers", "message"),
    [
        ("test_vit", 7, "test_vit: layers: 7, and it has 6; set fewer"),
        ("test_resnet", 2, "test_resnet: cannot be cut to 2 layers: it is no stack of equal blocks"),
        ("test_efficientnet", 2, "test_efficientnet: cannot be cut to 2 layers"),
    ],
)
def test_layers_that_are_not_there_are_refused(pictures: Dataset, model: str, layers: int, message: str):
    with pytest.raises(UserError, match=message):
        blueprint(pictures, model, layers=layers)


def test_settings_are_strict():
    with pytest.raises(UserError, match="size: should be greater than or equal to 8"):
        parse(family.Settings, {"model": "test_vit", "size": 4}, "students.x")


@pytest.mark.parametrize(
    ("model", "layers"), [("resnet10t", 4), ("vit_tiny_patch16_224", 12), ("deit_tiny_distilled_patch16_224", 12)]
)
def test_layers_are_numbered_from_the_input_to_the_new_head(model: str, layers: int):
    with torch.device("meta"):
        student = family.TimmStudent(family.TimmModel(model, model, None, {}, {}), 3, 0.0)
    depths = student.depths()
    assert depths.keys() == dict(student.named_parameters()).keys()
    top = max(depths.values())
    assert top == layers + 1 and set(depths.values()) == set(range(top + 1))
    head = student.head or student.model.get_classifier()
    own = {id(parameter) for parameter in head.parameters()}
    assert {name for name, depth in depths.items() if depth == top} == {
        name for name, parameter in student.named_parameters() if id(parameter) in own
    }
