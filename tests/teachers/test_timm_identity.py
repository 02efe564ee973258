"""What a configuration says of features is in the recipe: each field of a timm folder's config.json is changed."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm as library
import torch

from pipeline.errors import UserError
from pipeline.params import parse
from pipeline.teachers import timm
from pipeline.teachers.timm import ImageModel, Settings

from .test_timm import noise

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vision transformer in timm's format, whose pooling needs no weights of its own."""
    path: Path = tmp_path_factory.mktemp("timm")
    torch.manual_seed(0)
    model = library.create_model("test_vit", global_pool="avg", fc_norm=False, img_size=64)
    library.models.save_for_hf(model, path, safe_serialization=True)
    return path


def load(model: str, **settings: Any) -> ImageModel:
    return timm.load(parse(Settings, {"model": model, **settings}, "teachers.x"), "float32", CPU)


def pooled(teacher: ImageModel) -> torch.Tensor:
    images = [noise(70, 90), noise(90, 66, 1)]
    return teacher.forward(teacher.collate([teacher.transform(image) for image in images]))["pooled"]


def changed(folder: Path, to: Path, place: str, value: Any) -> str:
    """A copy of a folder with one field of its config.json changed."""
    shutil.copytree(folder, to, dirs_exist_ok=True)
    config = json.loads((to / "config.json").read_text())
    *sections, key = place.split("/")
    here = config
    for section in sections:
        here = here[section]
    here[key] = value
    (to / "config.json").write_text(json.dumps(config))
    return f"local-dir:{to}"


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("model_args/global_pool", "token"),
        ("model_args/fc_norm", True),
        ("model_args/img_size", 96),
        ("model_args/num_heads", 4),
        ("model_args/act_layer", "relu"),
        ("model_args/unheard_of", 1),
        ("architecture", "test_vit2"),
        ("architecture", "no_such_model"),
        ("pretrained_cfg/mean", [0.1, 0.2, 0.3]),
        ("pretrained_cfg/mean", [0.7]),
        ("pretrained_cfg/std", [0.1, 0.2, 0.3]),
        ("pretrained_cfg/std", [0.0, 0.2, 0.3]),
        ("pretrained_cfg/input_size", [3, 96, 96]),
        ("pretrained_cfg/input_size", [1, 64, 64]),
        ("pretrained_cfg/crop_pct", 0.5),
        ("pretrained_cfg/crop_mode", "squash"),
        ("pretrained_cfg/crop_mode", "elsewhere"),
        ("pretrained_cfg/interpolation", "bilinear"),
        ("pretrained_cfg/interpolation", "random"),
        ("pretrained_cfg/unheard_of", 1),
    ],
)
def test_each_field_that_matters_gives_another_recipe_or_is_refused(
    folder: Path, tmp_path: Path, place: str, value: Any
) -> None:
    recipe = load(f"local-dir:{folder}").recipe
    try:
        other = load(changed(folder, tmp_path / "other", place, value)).recipe
    except UserError as error:
        assert "\n" not in str(error)
        return
    assert other != recipe
    json.dumps(other)


def test_what_is_not_in_the_recipe_changes_no_feature(folder: Path, tmp_path: Path) -> None:
    """Every other field, whatever timm writes now or later: another recipe, a refusal, or the same features."""
    reference = load(f"local-dir:{folder}")
    config = json.loads((folder / "config.json").read_text())
    places = [*config, *(f"{section}/{key}" for section in ("pretrained_cfg", "model_args") for key in config[section])]
    same = 0
    for place in places:
        try:
            other = load(changed(folder, tmp_path / place.replace("/", "-"), place, None))
        except UserError as error:
            assert "\n" not in str(error)
            continue
        if other.recipe == reference.recipe:
            same += 1
            assert torch.equal(pooled(other), pooled(reference)), place
    assert same, "a licence is no part of a recipe"


def test_a_folders_pooling_is_what_the_teacher_does(folder: Path, tmp_path: Path) -> None:
    token = load(changed(folder, tmp_path, "model_args/global_pool", "token"))
    both = load(f"local-dir:{folder}", heads=["pooled", "tokens"])
    batch = both.collate([both.transform(noise(70, 90))])
    tokens = both.forward(batch)["tokens"]
    torch.testing.assert_close(both.forward(batch)["pooled"], tokens[:, 1:].mean(1))
    torch.testing.assert_close(token.forward(batch)["pooled"], tokens[:, 0])


def test_a_file_of_weights_has_the_configuration_next_to_it(folder: Path, tmp_path: Path) -> None:
    name = changed(folder, tmp_path / "other", "pretrained_cfg/mean", [0.1, 0.2, 0.3])
    one = load("test_vit", weights=str(tmp_path / "other" / "model.safetensors"))
    assert one.recipe == load(name).recipe
    assert one.recipe["transform"]["mean"] == [0.1, 0.2, 0.3]
    with pytest.raises(UserError, match=r"config\.json: a test_vit, but the model is test_vit2; set `model: test_vit`"):
        load("test_vit2", weights=str(folder / "model.safetensors"))


@pytest.mark.parametrize("text", ["{", "[1", "\ufeff\x00"])
def test_a_damaged_configuration_next_to_weights_is_refused(folder: Path, tmp_path: Path, text: str) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json: damaged"):
        load("test_vit", weights=str(tmp_path / "model.safetensors"))


def test_a_configuration_of_another_library_is_ignored(folder: Path, tmp_path: Path) -> None:
    model = library.create_model("test_vit", img_size=64)
    library.models.save_for_hf(model, tmp_path, safe_serialization=True)
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    assert load("test_vit", weights=str(tmp_path / "model.safetensors")).recipe["architecture"] == "test_vit"
    with pytest.raises(UserError, match=r"it needs a config\.json with an `architecture`"):
        load(f"local-dir:{tmp_path}")


def test_a_folder_without_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "config.json", tmp_path)
    with pytest.raises(UserError, match=r"no weights there; it needs one of model\.safetensors"):
        load(f"local-dir:{tmp_path}")
    assert (
        load(f"local-dir:{tmp_path}", weights=str(folder / "model.safetensors")).recipe
        == load(f"local-dir:{folder}").recipe
    )
