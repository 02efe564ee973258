"""One small model of every file of timm, random weights: its features are those of timm alone, or it is refused."""

from pathlib import Path
from typing import Any

import pytest
import timm as library
import torch
from safetensors.torch import save_file

from pipeline.params import parse
from pipeline.teachers import timm
from pipeline.teachers.timm import Settings

from .test_timm import features_of, noise, timms_own

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
LARGEST = 40e6
"""Parameters; files whose smallest model has more are left out."""


@pytest.fixture(scope="module", params=library.list_modules())
def name(request: pytest.FixtureRequest) -> str:
    found = [name for name in library.list_models(module=request.param) if not name.startswith("test_")]
    sizes = {}
    for candidate in found[:60]:
        with torch.device("meta"):
            try:
                model: Any = library.create_model(candidate)
            except Exception:  # some build tables of numbers, which need memory
                continue
        sizes[candidate] = sum(parameter.numel() for parameter in model.parameters())
    if not sizes or min(sizes.values()) > LARGEST:
        pytest.skip("no small model in this file")
    return min(sizes, key=lambda candidate: sizes[candidate])


def test_features_are_timms_own(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model: Any = library.create_model(name).eval()
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, tmp_path / "w.safetensors")
    section = {"model": name, "weights": str(tmp_path / "w.safetensors")}
    teacher = timm.load(parse(Settings, section, "teachers.x"), "float32", CPU)
    images = [noise(100, 140), noise(200, 170, 1)]
    with torch.inference_mode():
        expected = model.forward_head(model.forward_features(timms_own(model, images)), pre_logits=True)
    outputs = features_of(teacher, images)["pooled"]
    scale = expected.abs().max().clamp_min(1e-6)
    assert float((outputs - expected).abs().max() / scale) < 1e-5
