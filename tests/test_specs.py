"""Short forms of teachers and students: what each stands for, and what a wrong one gets."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.specs import expand


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        (
            "timm:vit_small_patch14_dinov2.lvd142m",
            "image",
            {"family": "timm", "model": "vit_small_patch14_dinov2.lvd142m"},
        ),
        ("timm:hf-hub:me/mine@v1", "image", {"family": "timm", "model": "hf-hub:me/mine@v1"}),
        ("hf:me/mine", "text", {"family": "transformers", "model": "me/mine"}),
        ("hf:me/mine@v1.0", "text", {"family": "transformers", "model": "me/mine", "revision": "v1.0"}),
        ("hf:./me@home/mine", "text", {"family": "transformers", "model": "./me@home/mine"}),
        ("hf:me/mine@v1.0", "image", {"family": "transformers_vision", "model": "me/mine", "revision": "v1.0"}),
        ("file:models/mine", "text", {"family": "transformers", "model": "models/mine"}),
        ("file:models/mine", "image", {"family": "timm", "model": "local-dir:models/mine"}),
        (
            "file:models/mine/model.safetensors",
            "image",
            {"family": "timm", "model": "local-dir:models/mine", "weights": "models/mine/model.safetensors"},
        ),
        ("torchvision:resnet50", "image", {"family": "torchvision", "model": "resnet50"}),
        (
            "torchvision:resnet50@IMAGENET1K_V1",
            "image",
            {"family": "torchvision", "model": "resnet50", "weights": "IMAGENET1K_V1"},
        ),
        ("onnx:models/enc.onnx", "text", {"family": "onnx", "model": "models/enc.onnx"}),
        ("file:models/enc.onnx", "image", {"family": "onnx", "model": "models/enc.onnx"}),
        ("package:words/enc.onnx", "text", {"family": "onnx", "model": "package:words/enc.onnx"}),
        ("file:raw/features.npy", "image", {"family": "features", "path": "raw/features.npy"}),
        ("python:my.teachers:encoder", "text", {"family": "python", "factory": "my.teachers:encoder"}),
        ("package:words/model", "text", {"family": "transformers", "model": "package:words/model"}),
        ("package:eyes/model", "image", {"family": "timm", "model": "local-dir:package:eyes/model"}),
    ],
)
def test_a_short_form_stands_for_a_mapping(text: str, kind: str, expected: dict[str, Any]):
    assert expand(text, "teachers", kind, "here") == expected


@pytest.mark.parametrize(
    ("text", "section", "answer"),
    [
        (
            "resnet18",
            "teachers",
            "here: 'resnet18' is not a short form; write one of timm:NAME, hf:NAME, torchv",
        ),
        ("tim:resnet18", "teachers", r"is not a short form \(did you mean `timm`\?\)"),
        ("timm:", "teachers", "'timm:' names no model; write timm:NAME"),
        ("hf:  ", "teachers", "names no model"),
        ("onnx:a.onnx", "students", "'onnx:a.onnx' cannot be trained; write timm:NAME"),
        ("file:a.npy", "students", "'file:a.npy' cannot be trained"),
        ("hf:me/mine", "students", "students of images come from timm; write timm:NAME"),
    ],
)
def test_a_wrong_one_is_one_line(text: str, section: str, answer: str):
    with pytest.raises(UserError, match=answer) as caught:
        expand(text, section, "image", "here")
    assert "\n" not in str(caught.value)


def write(folder: Path, teacher: str) -> Path:
    path = folder / "params.yaml"
    path.write_text(
        "dataset: {source: {family: text_table, path: raw/t.csv}}\n"
        f"teachers: {{one: {teacher!r}, two: {{family: timm, model: resnet18}}}}\n"
        "students: {small: 'timm:resnet18'}\n"
    )
    return path


def test_params_hold_mappings_whatever_was_written(tmp_path: Path):
    params = Params.load(write(tmp_path, "hf:me/mine"), ["teachers.one.pooling=cls", "teachers.three=timm:resnet34"])
    assert params.section("teachers.one") == {"family": "transformers", "model": "me/mine", "pooling": "cls"}
    assert params.section("teachers.two") == {"family": "timm", "model": "resnet18"}
    assert params.section("teachers.three") == {"family": "timm", "model": "resnet34"}
    assert params.section("students.small") == {"family": "timm", "model": "resnet18"}


def test_the_place_of_a_wrong_one_is_in_the_message(tmp_path: Path):
    with pytest.raises(UserError, match=r"params\.yaml: teachers\.one: 'bert' is not a short form"):
        Params.load(write(tmp_path, "bert"))
