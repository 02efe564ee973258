"""Classifiers of torchvision against the library's own recipe: its transforms, its model, its names of layers."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

from pipeline.errors import UserError
from pipeline.params import parse
from pipeline.store.format import check_head_name
from pipeline.teachers import torchvision as family
from pipeline.teachers.torchvision import Classifier, Settings

from .test_timm import features_of, noise

CPU = torch.device("cpu")
PICTURES = [noise(260, 300), noise(300, 270, 1), noise(256, 256, 2)]

EXTRACTED = {
    "resnet18": ("flatten", "layer:layer3", "layer3"),
    "vgg11": ("classifier.5", "layer:features.10", "features.10"),
    "densenet121": ("flatten", "layer:features.denseblock2", "features.denseblock2.cat"),
    "mobilenet_v3_small": ("classifier.2", "layer:features.5", "features.5.add"),
    "efficientnet_b0": ("flatten", "layer:features.4", "features.4.2.add"),
    "convnext_tiny": ("classifier.1", "layer:features.3", "features.3.2.add"),
    "regnet_y_400mf": ("flatten", "layer:trunk_output.block2", "trunk_output.block2.block2-2.activation"),
    "shufflenet_v2_x0_5": ("mean", "layer:stage3", "stage3.7.view_1"),
    "mnasnet0_5": ("mean", "layer:layers.8", "layers.8.2.add"),
    "googlenet": ("flatten", "layer:inception4a", "inception4a.cat"),
    "inception_v3": ("flatten", "layer:Mixed_5d", "Mixed_5d.cat"),
}
"""Per model, the node of torchvision's feature extraction for `pooled`, and a layer with its node."""


def load(model: str, weights: Path, **settings: Any) -> Classifier:
    section = {"model": model, "weights": str(weights), **settings}
    return family.load(parse(Settings, section, "teachers.x"), "float32", CPU)


def documented(name: str, model: nn.Module, node: str) -> Tensor:
    """What the documentation of torchvision has people do."""
    preprocess = models.get_model_weights(name).DEFAULT.transforms()
    batch = torch.stack([preprocess(Image.open(io.BytesIO(picture)).convert("RGB")) for picture in PICTURES])
    with torch.no_grad():
        return create_feature_extractor(model, [node])(batch)[node]


def cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.cosine_similarity(one.flatten(1), other.flatten(1)).min())


def compare(name: str, tmp_path: Path) -> None:
    pooled, layer, node = EXTRACTED[name]
    inputs = {"transform_input": True} if name in ("googlenet", "inception_v3") else {}
    torch.manual_seed(0)
    model = models.get_model(name, **inputs, **({"init_weights": False} if inputs else {}))
    # Statistics as after training, or features shrink to nothing: those of one batch.
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.2)
            module.momentum = None
    with torch.no_grad():
        model.train()(torch.randn(4, 3, 299, 299))
    model.eval()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    teacher = load(name, tmp_path / "w.safetensors", heads=["pooled", layer, "logits"], arguments=inputs)
    for head in teacher.heads:
        check_head_name(head)
    outputs = features_of(teacher, PICTURES)  # type: ignore[arg-type]
    if name in ("googlenet", "inception_v3"):
        model.aux_logits, model.aux1, model.aux2, model.AuxLogits = False, None, None, None
    assert cosine(outputs["pooled"], documented(name, model, pooled)) > 0.9999
    assert cosine(outputs[layer], documented(name, model, node).mean((2, 3))) > 0.9999
    with torch.no_grad():
        logits = model(
            torch.stack(
                [
                    models.get_model_weights(name).DEFAULT.transforms()(Image.open(io.BytesIO(picture)).convert("RGB"))
                    for picture in PICTURES
                ]
            )
        )
    torch.testing.assert_close(outputs["logits"], logits, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "mnasnet0_5", "regnet_y_400mf"])
def test_equals_the_librarys_own_recipe(name: str, tmp_path: Path) -> None:
    compare(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(EXTRACTED.keys() - {"mobilenet_v3_small", "mnasnet0_5", "regnet_y_400mf"}))
def test_other_architectures_too(name: str, tmp_path: Path) -> None:
    compare(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layer", "axes"),
    [
        ("swin_t", "features.3", (1, 2)),
        ("vit_b_32", "encoder.layers.encoder_layer_4", 1),
        ("maxvit_t", "blocks.1", (2, 3)),
    ],
)
def test_positions_of_transformers_are_averaged(name: str, layer: str, axes: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = models.get_model(name, num_classes=5).eval()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    outputs = features_of(load(name, tmp_path / "w.safetensors", heads=["pooled", f"layer:{layer}"]), PICTURES)  # type: ignore[arg-type]
    seen: list[Tensor] = []
    model.get_submodule(layer).register_forward_hook(lambda module, inputs, output: seen.append(output))
    preprocess = models.get_model_weights(name).DEFAULT.transforms()
    with torch.no_grad():
        model(torch.stack([preprocess(Image.open(io.BytesIO(picture)).convert("RGB")) for picture in PICTURES]))
    states = seen[0][:, 1:] if name == "vit_b_32" else seen[0]
    assert cosine(outputs[f"layer:{layer}"], states.mean(axes)) > 0.9999


def test_checkpoints_have_prefixes_other_classes_or_no_classifier(squeezenet: Path, tmp_path: Path) -> None:
    state = load_file(squeezenet)
    whole = features_of(load("squeezenet1_1", squeezenet, heads=["pooled", "logits"]), PICTURES)  # type: ignore[arg-type]
    assert whole["logits"].shape == (3, 7)
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 3}, tmp_path / "c.pth")
    prefixed = features_of(load("squeezenet1_1", tmp_path / "c.pth", heads=["pooled"]), PICTURES)  # type: ignore[arg-type]
    assert torch.equal(prefixed["pooled"], whole["pooled"])
    save_file(
        {key: value for key, value in state.items() if not key.startswith("classifier")}, tmp_path / "b.safetensors"
    )
    first, second = (load("squeezenet1_1", tmp_path / "b.safetensors") for _ in range(2))
    assert first.recipe == second.recipe
    assert torch.equal(features_of(first, PICTURES)["pooled"], whole["pooled"])  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no classifier, so it has no head `logits`"):
        load("squeezenet1_1", tmp_path / "b.safetensors", heads=["logits"])


@pytest.mark.parametrize(
    ("settings", "answer"),
    [
        (
            {"model": "squeezenet11"},
            "torchvision has no classifier 'squeezenet11'; the nearest names are squeezenet1_1",
        ),
        ({"weights": "IMAGENET1K_V9"}, "has no 'IMAGENET1K_V9'; there are IMAGENET1K_V1, DEFAULT, or name a file"),
        ({"weights": "absent.pth"}, "absent.pth: no such file of weights"),
        ({"model": "squeezenet1_0"}, "not weights of squeezenet1_0: "),
        ({"model": "googlenet"}, "say how googlenet was trained: `arguments: {transform_input: true}`"),
        ({"arguments": {"wdth": 2}}, "squeezenet1_1: arguments: "),
        ({"transforms": "V9"}, "there are IMAGENET1K_V1"),
        ({"heads": ["layer:features.99"]}, "it has no module 'features.99'; there are features.9"),
        ({"heads": ["layer:features.3.squeeze.0"]}, "it has no module"),
        ({"heads": ["layer:features.3.squeeze"]}, "name the block"),
        ({"weights": "DEFAULT", "arguments": {"dropout": 0.1}}, "has its own; remove them"),
    ],
)
def test_what_is_wrong_is_one_line(settings: dict[str, Any], answer: str, squeezenet: Path) -> None:
    with pytest.raises(UserError, match=answer) as caught:
        family.load(
            parse(Settings, {"model": "squeezenet1_1", "weights": str(squeezenet)} | settings, "x"), "float32", CPU
        )
    assert "\n" not in str(caught.value)


def test_offline_it_says_what_to_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(family, "HF_HUB_OFFLINE", True)
    settings = parse(Settings, {"model": "squeezenet1_1"}, "x")
    with pytest.raises(
        UserError, match=r"HF_HUB_OFFLINE is set; download https://\S+ elsewhere and put it at \S+\.pth"
    ):
        family.load(settings, "float32", CPU)
    monkeypatch.setattr(family, "HF_HUB_OFFLINE", False)

    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("no route\nto host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", unreachable)
    with pytest.raises(UserError, match="cannot be loaded: no route to host; download"):
        family.load(settings, "float32", CPU)


def test_weights_by_name_are_those_in_the_cache_of_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = models.get_model("squeezenet1_1").state_dict()
    save_file(state, tmp_path / "w.safetensors")
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: state)
    monkeypatch.setattr(
        models.WeightsEnum if hasattr(models, "WeightsEnum") else models.SqueezeNet1_1_Weights,
        "get_state_dict",
        lambda *_, **__: state,
    )
    named = family.load(parse(Settings, {"model": "squeezenet1_1"}, "x"), "float32", CPU)
    assert named.recipe == load("squeezenet1_1", tmp_path / "w.safetensors").recipe


def test_everything_that_changes_a_feature_changes_the_recipe(squeezenet: Path, tmp_path: Path) -> None:
    before = load("squeezenet1_1", squeezenet).recipe
    state = load_file(squeezenet)
    save_file(state | {"features.0.bias": state["features.0.bias"] + 1e-6}, tmp_path / "w.safetensors")
    assert load("squeezenet1_1", tmp_path / "w.safetensors").recipe != before
    assert before["transform"] == {
        "resize": 256, "crop": 224, "interpolation": "bilinear",
        "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
    }  # fmt: skip
