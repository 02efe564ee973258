"""A small model of every file of timm, random weights: its features are those of timm alone."""

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
LARGEST = 30e6
"""Parameters; files that seem to have no smaller model are left out."""

SMALL = (
    "nano",
    "atto",
    "femto",
    "pico",
    "micro",
    "xxs",
    "xxt",
    "tiny",
    "_t0",
    "_b0",
    "_s0",
    "_m0",
    "050",
    "18",
    "small",
)
"""What names of small models have in them, the smallest first."""


def small_model(module: str) -> str | None:
    """A small model of a file: the smallest of the first few by their names, built without memory."""
    names = [name for name in library.list_models(module=module) if not name.startswith("test_")]
    ranks = {name: next((rank for rank, part in enumerate(SMALL) if part in name), len(SMALL)) for name in names}
    sizes = {}
    for name in sorted(names, key=lambda name: (ranks[name], len(name), name))[:3]:
        with torch.device("meta"):
            try:
                model: Any = library.create_model(name)
            except Exception:  # some build tables of numbers, which need memory
                continue
        sizes[name] = sum(parameter.numel() for parameter in model.parameters())
    best = min(sizes, key=lambda name: sizes[name], default=None)
    return best if best and sizes[best] <= LARGEST else None


@pytest.mark.parametrize("module", library.list_modules())
def test_features_are_timms_own(module: str, tmp_path: Path) -> None:
    name = small_model(module)
    if name is None:
        pytest.skip("no small model in this file")
    # Visformer's last blocks amplify any rounding a hundredfold at random weights; see docs/teachers.md.
    compare(name, tmp_path, tolerance=1e-3 if module == "visformer" else 1e-5)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("vit_small_patch14_dinov2", 56),
        ("vit_small_patch14_reg4_dinov2", 56),
        ("vit_small_patch16_dinov3", 64),
        ("convnext_tiny.dinov3_lvd1689m", 64),
        ("vit_base_patch32_clip_224", 64),
        ("vit_base_patch16_siglip_224", 64),
        ("eva02_tiny_patch14_224", 56),
        ("naflexvit_base_patch16_gap", 64),
    ],
)
def test_features_of_foundation_models_are_timms_own(name: str, size: int, tmp_path: Path) -> None:
    """At a small size, for which position embeddings are made anew."""
    compare(name, tmp_path, size)


def compare(name: str, tmp_path: Path, size: int | None = None, tolerance: float = 1e-5) -> None:
    """Random weights of a model as a teacher, and in a plain script with timm."""
    torch.manual_seed(0)
    with torch.device("meta"):
        fixed = bool(size) and library.create_model(name).pretrained_cfg.get("fixed_input_size")
    model: Any = library.create_model(name, **({"img_size": size} if fixed else {})).eval()
    save_file({key: value.clone() for key, value in model.state_dict().items()}, tmp_path / "w.safetensors")
    section = {"model": name, "weights": str(tmp_path / "w.safetensors"), **({"size": size} if size else {})}
    teacher = timm.load(parse(Settings, section, "teachers.x"), "float32", CPU)
    images = [noise(100, 140), noise(200, 170, 1)]
    with torch.inference_mode():
        expected = model.forward_head(model.forward_features(timms_own(model, images, size)), pre_logits=True)
    outputs = features_of(teacher, images)["pooled"]
    scale = expected.abs().max().clamp_min(1e-6)
    assert float((outputs - expected).abs().max() / scale) < tolerance
