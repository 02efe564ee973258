"""Image models of transformers against the library's own documented recipe: its processor, then its model."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.errors import UserError
from pipeline.params import parse
from pipeline.teachers import transformers_vision as family
from pipeline.teachers.transformers_vision import ImageTower, Settings

from .test_timm import features_of, noise

CPU = torch.device("cpu")
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
SQUARE = {**SIZES, "image_size": 32, "patch_size": 8}
CROP = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}


def load(folder: Path, **settings: Any) -> ImageTower:
    return family.load(parse(Settings, {"model": str(folder), **settings}, "teachers.x"), "float32", CPU)


def save(folder: Path, model: Any, processor: Any) -> Any:
    """A folder with weights as large as those of a trained model: with the usual ones all features are nearly one."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return model


def siglip() -> Any:
    text = {**SIZES, "vocab_size": 50, "max_position_embeddings": 8, "projection_size": 32}
    return hf.SiglipModel(hf.SiglipConfig(text_config=text, vision_config=SQUARE))


MODELS: dict[str, Any] = {
    "vit": lambda: (hf.ViTModel(hf.ViTConfig(**SQUARE)), hf.ViTImageProcessor(size={"height": 32, "width": 32})),
    "deit": lambda: (hf.DeiTModel(hf.DeiTConfig(**SQUARE)), hf.DeiTImageProcessor(**CROP)),
    "dinov2": lambda: (hf.Dinov2Model(hf.Dinov2Config(**{**SQUARE, "mlp_ratio": 2})), hf.BitImageProcessor(**CROP)),
    "dinov2, another size": lambda: (
        hf.Dinov2Model(hf.Dinov2Config(**{**SQUARE, "image_size": 64})),
        hf.BitImageProcessor(**CROP),
    ),
    "dinov2, registers": lambda: (
        hf.Dinov2WithRegistersModel(hf.Dinov2WithRegistersConfig(**SQUARE, num_register_tokens=4)),
        hf.BitImageProcessor(**CROP),
    ),
    "dinov3": lambda: (
        hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**SQUARE, num_register_tokens=4)),
        hf.DINOv3ViTImageProcessor(size={"height": 32, "width": 32}),
    ),
    "clip vision": lambda: (hf.CLIPVisionModel(hf.CLIPVisionConfig(**SQUARE)), hf.CLIPImageProcessor(**CROP)),
    "siglip": lambda: (siglip(), hf.SiglipImageProcessor(size={"height": 32, "width": 32})),
    "siglip vision": lambda: (
        hf.SiglipVisionModel(hf.SiglipVisionConfig(**SQUARE)),
        hf.SiglipImageProcessor(size={"height": 32, "width": 32}),
    ),
    "convnext": lambda: (
        hf.ConvNextModel(hf.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2)),
        hf.ConvNextImageProcessor(size={"shortest_edge": 64}),
    ),
}


def documented(folder: Path, model: Any, pictures: list[bytes]) -> Any:
    """What the documentation of transformers has people do."""
    processor = hf.AutoImageProcessor.from_pretrained(folder)
    opened = [Image.open(io.BytesIO(picture)).convert("RGB") for picture in pictures]
    inputs = processor(images=opened, return_tensors="pt")
    with torch.no_grad():
        return getattr(model, "vision_model", model)(**inputs)


def cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.cosine_similarity(one.flatten(1), other.flatten(1)).min())


@pytest.mark.parametrize("name", MODELS)
def test_equals_the_librarys_own_recipe(name: str, tmp_path: Path) -> None:
    model, processor = MODELS[name]()
    save(tmp_path, model, processor)
    pictures = [noise(40, 60), noise(90, 70, 1), noise(33, 33, 2)]
    reference = documented(tmp_path, model, pictures)
    teacher = load(tmp_path, heads=["pooled", "tokens"])
    outputs = features_of(teacher, pictures)  # type: ignore[arg-type]
    assert cosine(outputs["pooled"], reference.pooler_output) > 0.9999
    states = reference.last_hidden_state
    states = states if states.ndim == 3 else states.flatten(2).transpose(1, 2)
    assert cosine(outputs["tokens"], states) > 0.9999
    assert teacher.recipe["pooling"] == "pooler"


@pytest.mark.parametrize("saved", ["both towers", "the image tower"])
def test_clip_is_projected_where_asked(saved: str, tiny_tower: Path, tmp_path: Path) -> None:
    model = hf.CLIPModel.from_pretrained(tiny_tower)
    folder = tiny_tower
    if saved == "the image tower":
        folder = tmp_path
        hf.CLIPVisionModelWithProjection.from_pretrained(tiny_tower).save_pretrained(folder)
        hf.AutoImageProcessor.from_pretrained(tiny_tower).save_pretrained(folder)
    pictures = [noise(40, 60), noise(90, 70, 1)]
    reference = documented(tiny_tower, model, pictures)
    outputs = features_of(load(folder, heads=["pooled", "projected"]), pictures)  # type: ignore[arg-type]
    assert outputs["projected"].shape == (2, 24)
    assert cosine(outputs["pooled"], reference.pooler_output) > 0.9999
    with torch.no_grad():
        assert cosine(outputs["projected"], model.visual_projection(reference.pooler_output)) > 0.9999


def test_the_mean_leaves_class_and_register_tokens_out(tmp_path: Path) -> None:
    model, processor = MODELS["dinov2, registers"]()
    save(tmp_path, model, processor)
    teacher = load(tmp_path, pooling="mean", heads=["pooled", "cls", "tokens"])
    outputs = features_of(teacher, [noise(40, 60)])  # type: ignore[arg-type]
    assert teacher.heads["tokens"] == (1 + 4 + 16, 32)
    torch.testing.assert_close(outputs["pooled"], outputs["tokens"][:, 5:].mean(1))
    torch.testing.assert_close(outputs["cls"], outputs["tokens"][:, 0])


@pytest.mark.parametrize(
    ("name", "first"), [("vit", 1), ("dinov2, registers", 5), ("clip vision", 1), ("siglip", 0), ("convnext", 0)]
)
def test_layers_are_the_means_of_the_models_hidden_states(name: str, first: int, tmp_path: Path) -> None:
    model, processor = MODELS[name]()
    save(tmp_path, model, processor)
    picture = noise(40, 60)
    outputs = features_of(load(tmp_path, heads=["layer:1", "pooled", "layer:2"]), [picture])  # type: ignore[arg-type]
    pixels = hf.AutoImageProcessor.from_pretrained(tmp_path)(
        images=Image.open(io.BytesIO(picture)).convert("RGB"), return_tensors="pt"
    )
    with torch.no_grad():
        states = getattr(model, "vision_model", model)(**pixels, output_hidden_states=True).hidden_states
    for layer in (1, 2):
        map_ = states[layer] if states[layer].ndim == 3 else states[layer].flatten(2).transpose(1, 2)
        torch.testing.assert_close(outputs[f"layer:{layer}"], map_[:, first:].mean(1), rtol=1e-3, atol=1e-4)
    with pytest.raises(UserError, match="it has layers 1 to 2, so it has no head `layer:3`"):
        load(tmp_path, heads=["layer:3"])


def test_weights_without_a_pooler_are_pooled_by_the_class_token(tmp_path: Path) -> None:
    _, processor = MODELS["vit"]()
    save(tmp_path, hf.ViTForImageClassification(hf.ViTConfig(**SQUARE)), processor)
    teacher = load(tmp_path)
    assert teacher.recipe["pooling"] == "cls"
    with pytest.raises(UserError, match="its weights do not allow `pooling: pooler`; leave it out"):
        load(tmp_path, pooling="pooler")
    with pytest.raises(UserError, match="it has no projection, so it has no head `projected`"):
        load(tmp_path, heads=["projected"])


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("preprocessor_config.json", "image_mean", [0.1, 0.2, 0.3]),
        ("preprocessor_config.json", "image_std", [0.1, 0.2, 0.3]),
        ("preprocessor_config.json", "resample", 2),
        ("preprocessor_config.json", "do_center_crop", False),
        ("preprocessor_config.json", "do_resize", False),
        ("preprocessor_config.json", "do_normalize", False),
        ("preprocessor_config.json", "do_rescale", False),
        ("preprocessor_config.json", "rescale_factor", 0.01),
        ("preprocessor_config.json", "size", {"shortest_edge": 48}),
        ("preprocessor_config.json", "crop_size", {"height": 24, "width": 24}),
        ("preprocessor_config.json", "image_processor_type", "SiglipImageProcessor"),
        ("config.json", "hidden_act", "gelu"),
        ("config.json", "layer_norm_eps", 0.1),
        ("config.json", "num_attention_heads", 4),
        ("config.json", "num_hidden_layers", 1),
        ("config.json", "image_size", 64),
        ("config.json", "patch_size", 4),
        ("config.json", "model_type", "bert"),
    ],
)
def test_each_field_that_matters_gives_another_recipe_or_is_refused(
    tiny_tower: Path, tmp_path: Path, file: str, key: str, value: Any
) -> None:
    shutil.copytree(tiny_tower, tmp_path, dirs_exist_ok=True)
    values = json.loads((tmp_path / file).read_text())
    (values["vision_config"] if file == "config.json" and key != "model_type" else values)[key] = value
    (tmp_path / file).write_text(json.dumps(values))
    try:
        recipe = load(tmp_path).recipe
    except UserError as error:
        assert "\n" not in str(error)
        return
    assert recipe != load(tiny_tower).recipe


def test_prefixed_or_missing_weights_are_refused(tiny_tower: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_tower, tmp_path, dirs_exist_ok=True)
    state = load_file(tiny_tower / "model.safetensors")
    file = tmp_path / "model.safetensors"
    save_file({f"odd.{name}": value for name, value in state.items()}, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lack \d+ of the model's \d+ tensors, such as '.*'; are their names those of"):
        load(tmp_path)


@pytest.mark.parametrize("missing", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_is_one_line(tiny_tower: Path, tmp_path: Path, missing: str) -> None:
    shutil.copytree(tiny_tower, tmp_path, dirs_exist_ok=True)
    (tmp_path / missing).unlink()
    with pytest.raises(UserError, match="cannot load it") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_processor_that_fails_is_one_line(tiny_tower: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_tower, tmp_path, dirs_exist_ok=True)
    values = json.loads((tmp_path / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values | {"resample": 4}))
    with pytest.raises(UserError, match="its image processor fails: ") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_grey_and_transparent_images_are_read_as_people_see_them(tiny_tower: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (40, 40), np.uint8)
    one, other = io.BytesIO(), io.BytesIO()
    Image.fromarray(grey).save(one, "PNG")
    Image.fromarray(np.stack([grey] * 3, -1)).save(other, "PNG")
    teacher = load(tiny_tower)
    np.testing.assert_array_equal(teacher.transform(one.getvalue()), teacher.transform(other.getvalue()))


def test_logits_are_those_of_the_librarys_classifier(tiny_image_classifier: Path) -> None:
    teacher = load(tiny_image_classifier, heads=["logits", "pooled", "layer:1"])
    without = load(tiny_image_classifier, heads=["pooled"])
    pictures = [noise(50, 40, number) for number in range(3)]
    found = features_of(teacher, pictures)
    model = hf.AutoModelForImageClassification.from_pretrained(tiny_image_classifier).eval()
    processor = hf.AutoImageProcessor.from_pretrained(tiny_image_classifier)
    opened = [Image.open(io.BytesIO(picture)).convert("RGB") for picture in pictures]
    with torch.no_grad():
        expected = model(**processor(images=opened, return_tensors="pt")).logits
    torch.testing.assert_close(found["logits"], expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(found["pooled"], features_of(without, pictures)["pooled"])
    assert teacher.recipe == without.recipe and teacher.head_recipes.keys() == {"logits"}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("vit", r"its weights have no 'classifier\.bias', so they are not of a classifier"),
        ("siglip", "a model of images and texts has no head `logits`; remove it"),
    ],
)
def test_what_has_no_classifier_has_no_logits(tmp_path: Path, kind: str, message: str) -> None:
    save(tmp_path, *MODELS[kind]())
    with pytest.raises(UserError, match=message):
        load(tmp_path, heads=["logits"])
