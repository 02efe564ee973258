"""Tiny models with random weights, in the formats that users have."""

import shutil
from pathlib import Path

import pytest
import timm
import torch
import torchvision
import transformers as hf
from safetensors.torch import save_file


@pytest.fixture(scope="session")
def tiny_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of timm's `test_vit`, as a .safetensors file."""
    path: Path = tmp_path_factory.mktemp("weights") / "test_vit.safetensors"
    torch.manual_seed(0)
    save_file(timm.create_model("test_vit").state_dict(), path)
    return path


@pytest.fixture(scope="session")
def tiny_tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an image and text model of transformers and its image processor, random weights."""
    path: Path = tmp_path_factory.mktemp("tower")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = hf.CLIPConfig(
        text_config={**sizes, "vocab_size": 50, "max_position_embeddings": 8},
        vision_config={**sizes, "image_size": 32, "patch_size": 8, "projection_dim": 24},
        projection_dim=24,
    )
    torch.manual_seed(0)
    # Weights as large as those of a trained model: with the usual ones, all images give nearly one feature.
    model = hf.CLIPModel(config)
    for parameter in model.vision_model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(path)
    hf.CLIPImageProcessor(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def squeezenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of torchvision's `squeezenet1_1` for 7 classes, as a .safetensors file."""
    path: Path = tmp_path_factory.mktemp("squeezenet") / "squeezenet1_1.safetensors"
    torch.manual_seed(0)
    save_file(torchvision.models.get_model("squeezenet1_1", num_classes=7).state_dict(), path)
    return path


@pytest.fixture(scope="session")
def tiny_classifier(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The text encoder `tiny_encoder` in a model for five classes."""
    path: Path = tmp_path_factory.mktemp("classifier") / "model"
    shutil.copytree(tiny_encoder, path)
    torch.manual_seed(0)
    hf.BertForSequenceClassification.from_pretrained(tiny_encoder, num_labels=5).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def tiny_image_classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a ViT of transformers for five classes and its image processor, random weights."""
    path: Path = tmp_path_factory.mktemp("image classifier")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = hf.ViTForImageClassification(hf.ViTConfig(**sizes, image_size=32, patch_size=8, num_labels=5))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(path)
    hf.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(path)
    return path
