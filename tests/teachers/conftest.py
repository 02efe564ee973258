"""Tiny models with random weights, in the formats that users have."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file


@pytest.fixture(scope="session")
def tiny_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of timm's `test_vit`, as a .safetensors file."""
    path: Path = tmp_path_factory.mktemp("weights") / "test_vit.safetensors"
    torch.manual_seed(0)
    save_file(timm.create_model("test_vit").state_dict(), path)
    return path
