"""Models of timm: their weights, the size of their input, and sizes that do not fit."""

from copy import deepcopy
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from pipeline.errors import UserError
from pipeline.pretrained.timm import TimmModel


@pytest.mark.parametrize("name", ["resnet18", "efficientvit_b0", "convnext_atto", "test_efficientnet"])
def test_models_that_take_any_size_need_no_argument(name: str):
    assert TimmModel.find(name).options(64) == {}


@pytest.mark.parametrize(
    "name",
    ["test_vit", "deit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "beit_base_patch16_224", "mixer_s32_224"],
)
def test_models_with_a_fixed_size_get_it_as_an_argument(name: str):
    options = TimmModel.find(name).options(64)
    assert options == {"img_size": 64}
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=3, **options).eval()
        assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 3)


def test_the_models_own_size_needs_no_argument():
    assert TimmModel.find("test_vit").options(None) == {}


@pytest.mark.parametrize(
    ("name", "size"), [("test_vit", 100), ("xcit_nano_12_p16_224", 100), ("crossvit_tiny_240", 64)]
)
def test_a_size_that_does_not_fit_is_refused_in_one_line(name: str, size: int):
    with pytest.raises(
        UserError, match=rf"{name}: images of {size} x {size} do not fit it .*the model's own \d+$"
    ) as caught:
        TimmModel.find(name).options(size)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_gets_its_neighbours():
    TimmModel.find("resnet18")
    with pytest.raises(UserError, match="timm has no model 'resnet18x'; the nearest names are resnet18"):
        TimmModel.find("resnet18x")


def test_weights_of_a_file_are_in_memory_once(tmp_path: Path):
    """timm kept them in the model's configuration, which took as much memory again, and time in every copy."""
    save_file(timm.create_model("test_vit").state_dict(), tmp_path / "w.safetensors")
    model, _ = TimmModel.find("test_vit", str(tmp_path / "w.safetensors")).load()
    copies = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    own = len(copies)
    deepcopy(model, copies)
    assert sum(isinstance(copied, torch.Tensor) for copied in copies.values()) == own
