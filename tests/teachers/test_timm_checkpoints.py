"""Checkpoints as people have them: loaded right or refused, by teachers and students alike."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm as library
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.errors import UserError
from pipeline.params import parse
from pipeline.teachers import timm
from pipeline.teachers.timm import ImageModel, Settings

from .test_timm import features_of, noise

CPU = torch.device("cpu")
State = dict[str, Tensor]


def load(weights: Path, model: str = "test_vit", **settings: Any) -> ImageModel:
    return timm.load(
        parse(Settings, {"model": model, "weights": str(weights), **settings}, "teachers.x"), "float32", CPU
    )


def prefixed(prefix: str) -> Callable[[State], State]:
    return lambda state: {f"{prefix}{name}": value for name, value in state.items()}


FORMS: dict[str, Callable[[State], Any]] = {
    "state_dict": lambda state: {"state_dict": state, "epoch": 3, "args": argparse.Namespace(lr=0.1)},
    "model": lambda state: {"model": state, "optimizer": {"state": {}}},
    "model_ema": lambda state: {"model": {n: torch.zeros_like(v) for n, v in state.items()}, "model_ema": state},
    "nested": lambda state: {"state_dict": {"model": state}},
    "module.": prefixed("module."),
    "_orig_mod.": prefixed("_orig_mod."),
    "module._orig_mod.": prefixed("module._orig_mod."),
    "model.": prefixed("model."),
    "model.backbone.": prefixed("model.backbone."),
    "lightning": lambda state: {"state_dict": prefixed("model.")(state), "pytorch-lightning_version": "2"},
    "with a loss": lambda state: prefixed("net.")(state) | {"loss.weight": torch.ones(3)},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_teacher_is_the_same_for_every_layout_of_its_checkpoint(form: str, tiny_vit: Path, tmp_path: Path) -> None:
    torch.save(FORMS[form](load_file(tiny_vit)), tmp_path / "checkpoint.pth")
    teacher = load(tmp_path / "checkpoint.pth")
    assert teacher.recipe == load(tiny_vit).recipe
    assert len(teacher.notes) == (form == "with a loss")


def test_weights_that_are_not_used_are_named(tiny_vit: Path, tmp_path: Path) -> None:
    save_file(FORMS["with a loss"](load_file(tiny_vit)), tmp_path / "w.safetensors")
    (note,) = load(tmp_path / "w.safetensors").notes
    assert "tensors under 'net.', but not loss.weight" in note


def test_two_models_in_one_file_are_refused(tiny_vit: Path, tmp_path: Path) -> None:
    state = load_file(tiny_vit)
    copies = {name: value.clone() for name, value in prefixed("teacher.")(state).items()}
    save_file(prefixed("student.")(state) | copies, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"it holds several models, under 'student\.', 'teacher\.'; save one of them"):
        load(tmp_path / "w.safetensors")


def test_what_is_missing_under_a_prefix_is_named(tiny_vit: Path, tmp_path: Path) -> None:
    state = prefixed("model.")(load_file(tiny_vit))
    for name in ("blocks.0.norm1.bias", "blocks.1.norm1.bias"):
        del state[f"model.{name}"]
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"lacks 2 of the model's \d+ tensors \('blocks.0.norm1.bias', 'blocks.1"):
        load(tmp_path / "w.safetensors")


def test_weights_of_another_model_are_refused_with_shares_and_names(tiny_vit: Path, tmp_path: Path) -> None:
    save_file(library.create_model("test_resnet").state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(
        UserError, match=r"lacks \d+ of the model's \d+ tensors \(.* more\); it holds \d+ that"
    ) as caught:
        load(tmp_path / "w.safetensors")
    assert "\n" not in str(caught.value)


def test_a_family_that_timm_reads_leniently_is_read_strictly(tmp_path: Path) -> None:
    state = library.create_model("dla46x_c").state_dict()
    del state["level5.tree1.bn1.weight"]
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"lacks 1 of the model's \d+ tensors \('level5.tree1.bn1.weight'\)"):
        load(tmp_path / "w.safetensors", "dla46x_c")


@pytest.mark.parametrize(
    "model", ["test_vit", "test_resnet", "deit_tiny_distilled_patch16_224", "crossvit_tiny_240", "efficientvim_m1"]
)
def test_a_model_tuned_to_other_classes_keeps_its_classifiers(model: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tuned: Any = library.create_model(model, num_classes=7).eval()
    save_file(tuned.state_dict(), tmp_path / "w.safetensors")
    teacher = load(tmp_path / "w.safetensors", model, heads=["pooled", "logits"])
    image = noise(100, 130)
    outputs = features_of(teacher, [image])
    pixels = torch.from_numpy(teacher.transform(image)).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(teacher.recipe["transform"][key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.inference_mode():
        features = tuned.forward_features((pixels - mean) / std)
        torch.testing.assert_close(outputs["logits"], tuned.forward_head(features), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            outputs["pooled"], tuned.forward_head(features, pre_logits=True), rtol=1e-4, atol=1e-4
        )
    assert outputs["logits"].shape == (1, 7)


@pytest.mark.parametrize("model", ["test_vit", "test_resnet"])
def test_weights_for_one_channel_see_grey(model: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_file(library.create_model(model, in_chans=1).state_dict(), tmp_path / "w.safetensors")
    teacher = load(tmp_path / "w.safetensors", model)
    assert teacher.recipe["transform"]["input_size"] == [1, 160, 160]
    assert teacher.recipe["transform"]["mean"] == pytest.approx([np.mean([0.485, 0.456, 0.406])], abs=0.1)
    assert teacher.transform(noise(90, 100)).shape == (160, 160, 1)
    features = features_of(teacher, [noise(90, 100), noise(90, 100, 1)])["pooled"]
    assert not torch.allclose(features[0], features[1], atol=1e-3)


def test_weights_for_four_channels_are_refused(tmp_path: Path) -> None:
    save_file(library.create_model("test_resnet", in_chans=4).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="take images of 4 channels; they can have 1 or 3"):
        load(tmp_path / "w.safetensors", "test_resnet")


def test_a_tag_that_does_not_exist_is_refused_with_those_that_do(tiny_vit: Path) -> None:
    with pytest.raises(
        UserError, match=r"timm has no weights 'test_vit\.imagenet'; for test_vit there are test_vit\.r160"
    ):
        load(tiny_vit, "test_vit.imagenet")


def test_a_folder_that_is_not_there_is_refused_also_with_weights(tiny_vit: Path) -> None:
    with pytest.raises(UserError, match="local-dir:/none: no such folder"):
        load(tiny_vit, "local-dir:/none")
