"""Dual encoders against the library's own recipe: get_image_features, get_text_features and logits_per_image."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor

from pipeline import tasks
from pipeline.errors import UserError
from pipeline.params import parse
from pipeline.teachers import Teacher
from pipeline.teachers import dual_encoder as family
from pipeline.teachers.dual_encoder import Settings

from .test_timm import features_of, noise
from .test_transformers_vision import save as save_tower

CPU = torch.device("cpu")
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
SQUARE = {**SIZES, "image_size": 32, "patch_size": 8}
CROP = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}
WORDS = [
    "<pad>",
    "<s>",
    "</s>",
    "<unk>",
    "<mask>",
    "a",
    "photo",
    "of",
    "cat",
    "dog",
    "hot",
    "fox",
    "sketch",
    "one",
    "two",
    "to",
]
LONGEST = 16
TEXT = {**SIZES, "vocab_size": len(WORDS), "max_position_embeddings": LONGEST}
TEXTS = ["a cat", "a photo of a hot dog", "fox", "a sketch of two cat to one fox " * 3]


def tokenizer() -> hf.PreTrainedTokenizerFast:
    """Words by spaces, with the tokens of a start and an end, the last of which has the largest number."""
    numbers = {word: number for number, word in enumerate([w for w in WORDS if w != "</s>"] + ["</s>"])}
    made = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.BertProcessing(("</s>", numbers["</s>"]), ("<s>", numbers["<s>"]))
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "</s>", "bos_token": "<s>"}
    return hf.PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=LONGEST, **special)


def clip() -> Any:
    text = {**TEXT, "eos_token_id": len(WORDS) - 1, "bos_token_id": 1, "pad_token_id": 0}
    config = hf.CLIPConfig(text_config=text, vision_config=SQUARE, projection_dim=24)
    return hf.CLIPModel(config), hf.CLIPImageProcessor(**CROP)


def siglip() -> Any:
    config = hf.SiglipConfig(text_config={**TEXT, "projection_size": 32}, vision_config=SQUARE)
    return hf.SiglipModel(config), hf.SiglipImageProcessor(size={"height": 32, "width": 32})


def siglip2() -> Any:
    vision = {**SIZES, "patch_size": 8, "num_patches": 16}
    config = hf.Siglip2Config(text_config={**TEXT, "projection_size": 32}, vision_config=vision)
    return hf.Siglip2Model(config), hf.Siglip2ImageProcessor(patch_size=8, max_num_patches=16)


def chinese_clip() -> Any:
    config = hf.ChineseCLIPConfig(text_config=TEXT, vision_config=SQUARE, projection_dim=24)
    return hf.ChineseCLIPModel(config), hf.ChineseCLIPImageProcessor(**CROP)


def two_models() -> Any:
    vision, text = hf.ViTModel(hf.ViTConfig(**SQUARE)), hf.BertModel(hf.BertConfig(**TEXT))
    config = hf.VisionTextDualEncoderConfig.from_vision_text_configs(vision.config, text.config, projection_dim=24)
    return hf.VisionTextDualEncoderModel(config), hf.ViTImageProcessor(size={"height": 32, "width": 32})


MODELS: dict[str, Any] = {
    "clip": clip,
    "siglip": siglip,
    "siglip2": siglip2,
    "chinese clip": chinese_clip,
    "a vit and a bert": two_models,
}


def save(folder: Path, model: Any, processor: Any) -> Any:
    """A folder with the model, its processor and its tokenizer."""
    tokenizer().save_pretrained(folder)
    return save_tower(folder, model, processor)


def load(folder: Path, precision: Any = "float32", **settings: Any) -> Teacher:
    return family.load(parse(Settings, {"model": str(folder), **settings}, "teachers.x"), precision, CPU)


def cosine(one: Tensor, other: Tensor) -> float:
    assert one.shape == other.shape
    return float(torch.cosine_similarity(one, other).min())


def documented(folder: Path, kind: str, texts: list[str], pictures: list[bytes]) -> dict[str, Any]:
    """What the library's tokenizer and processor make, as its pages show it."""
    padding = "max_length" if kind.startswith("siglip") else True
    tokens = hf.AutoTokenizer.from_pretrained(folder)(texts, padding=padding, truncation=True, return_tensors="pt")
    tokens.pop("token_type_ids", None)
    images = [Image.open(io.BytesIO(picture)).convert("RGB") for picture in pictures]
    return dict(tokens) | dict(hf.AutoImageProcessor.from_pretrained(folder)(images=images, return_tensors="pt"))


PICTURES = [noise(40, 60), noise(90, 70, 1), noise(33, 33, 2)]


@pytest.mark.parametrize("kind", MODELS)
def test_equals_the_librarys_own_recipe(kind: str, tmp_path: Path) -> None:
    model = save(tmp_path, *MODELS[kind]())
    inputs = documented(tmp_path, kind, TEXTS, PICTURES)
    pixels = {key: value for key, value in inputs.items() if key.startswith(("pixel", "spatial"))}
    tokens = {key: value for key, value in inputs.items() if key not in pixels}
    with torch.no_grad():
        seen = model.get_image_features(**pixels).pooler_output
        read = model.get_text_features(**tokens).pooler_output
    heads = ["pooled", "projected"]
    of_images = features_of(load(tmp_path, heads=heads), PICTURES)  # type: ignore[arg-type]
    of_texts = features_of(load(tmp_path, heads=heads, tower="text"), TEXTS)  # type: ignore[arg-type]
    assert cosine(of_images["projected"], seen) > 0.9999 and cosine(of_texts["projected"], read) > 0.9999
    torch.testing.assert_close(of_images["projected"], seen, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(of_texts["projected"], read, rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        before = (of_images["pooled"], of_texts["pooled"])
        after = (of_images["projected"], of_texts["projected"])
        for name, pooled, projected in zip(("visual_projection", "text_projection"), before, after, strict=True):
            again = getattr(model, name)(pooled) if hasattr(model, name) else pooled
            torch.testing.assert_close(again, projected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", MODELS)
def test_zero_shot_is_logits_per_image(kind: str, tmp_path: Path) -> None:
    model = save(tmp_path, *MODELS[kind]())
    names = ("hot_dog", "fox", "cat")
    with torch.no_grad():
        model.logit_scale.fill_(2.5)
        if kind.startswith("siglip"):
            model.logit_bias.fill_(-3.0)
    model.save_pretrained(tmp_path)
    inputs = documented(tmp_path, kind, ["a photo of a hot dog", "a photo of a fox", "a photo of a cat"], PICTURES)
    with torch.no_grad():
        expected = model(**inputs).logits_per_image
    teacher = load(tmp_path, heads=["pooled", "zero_shot"])
    assert set(teacher.heads) == {"pooled"}, "no column before the classes are known"
    teacher.name_classes(tasks.build("classification", names))
    assert teacher.heads["zero_shot"] == (3,)
    found = features_of(teacher, PICTURES)["zero_shot"]  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert len(found.argmax(1).unique()) > 1 or found.std(0).min() > 1e-3


def test_templates_are_averaged_as_unit_vectors_and_names_may_be_others(tmp_path: Path) -> None:
    model = save(tmp_path, *clip())
    spec = {"template": ["a photo of a {}", "{} a sketch of"], "names": {"n01": "hot dog"}}
    teacher = load(tmp_path, heads=["zero_shot"], zero_shot=spec)
    teacher.name_classes(tasks.build("classification", ("fox", "n01")))
    texts = ["a photo of a fox", "fox a sketch of", "a photo of a hot dog", "hot dog a sketch of"]
    inputs = documented(tmp_path, "clip", texts, PICTURES)
    with torch.no_grad():
        found = model(**inputs)
    means = torch.stack([found.text_embeds[:2].mean(0), found.text_embeds[2:].mean(0)])
    means = means / means.norm(dim=1, keepdim=True)
    expected = found.image_embeds @ means.T * model.logit_scale.exp()
    torch.testing.assert_close(features_of(teacher, PICTURES)["zero_shot"], expected, rtol=1e-4, atol=1e-4)  # type: ignore[arg-type]
    assert teacher.head_recipes["zero_shot"]["words"] == ["fox", "hot dog"]


def test_other_names_templates_or_order_are_another_recipe_of_this_head_alone(tmp_path: Path) -> None:
    save(tmp_path, *clip())

    def recipes(*names: str, **spec: Any) -> tuple[Any, Any]:
        teacher = load(tmp_path, heads=["pooled", "zero_shot"], zero_shot=spec)
        teacher.name_classes(tasks.build("classification", names))
        json.dumps(teacher.head_recipes)
        return teacher.recipe, teacher.head_recipes["zero_shot"]

    first = recipes("cat", "dog")
    others = [recipes("dog", "cat"), recipes("cat", "fox"), recipes("cat", "dog", template="{}")]
    others.append(recipes("cat", "dog", names={"cat": "fox"}))
    assert all(other[1] != first[1] and other[0] == first[0] for other in others)
    assert load(tmp_path).recipe == first[0] != load(tmp_path, tower="text").recipe


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": ["zero_shot"], "tower": "text"}, "zero_shot compares images with the names of classes"),
        ({"zero_shot": {"template": "a {}"}}, r"does nothing unless `heads` has it"),
        ({"heads": ["zero_shot"], "zero_shot": {"template": "a photo"}}, r"should hold {} once"),
        ({"heads": ["zero_shot"], "zero_shot": {"template": ["a {}", "{} of {}"]}}, r"should hold {} once"),
        ({"heads": ["zero_shot"], "zero_shot": {"template": []}}, r"should hold {} once"),
        ({"heads": ["zero_shot"], "zero_shot": {"names": {"n1": "cat"}}}, r"the dataset has no class 'n1'"),
        ({"heads": ["zero_shot"], "zero_shot": {"names": {"dog": "cat"}}}, r"two classes are named 'cat'"),
        ({"heads": ["zero_shot"], "zero_shot": {"template": "{}" + " of a" * 9}}, r"longer than the 16 tokens"),
    ],
)
def test_what_makes_no_sense_is_refused(tiny_dual: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load(tiny_dual, **settings).name_classes(tasks.build("classification", ("cat", "dog")))
    assert "\n" not in str(caught.value)


def test_a_task_without_classes_has_no_zero_shot(tiny_dual: Path) -> None:
    with pytest.raises(UserError, match=r"zero_shot: the dataset has no classes to name \(its task is regression\)"):
        load(tiny_dual, heads=["zero_shot"]).name_classes(tasks.build("regression", ("price",)))


@pytest.fixture(scope="module")
def tiny_dual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("dual")
    save(folder, *clip())
    return folder


@pytest.mark.parametrize("tower", ["image", "text"])
def test_the_other_tower_does_not_stay_in_memory(tiny_dual: Path, tower: str) -> None:
    teacher: Any = load(tiny_dual, tower=tower)
    left = {name.partition(".")[0] for name, _ in teacher.model.named_parameters()}
    assert {"image": "text_model", "text": "vision_model"}[tower] not in left


def test_models_of_one_kind_of_rows_are_refused(tmp_path: Path) -> None:
    save(tmp_path, hf.ViTModel(hf.ViTConfig(**SQUARE)), hf.ViTImageProcessor(size={"height": 32, "width": 32}))
    with pytest.raises(UserError, match=r"ViTModel does not have a tower of images, .* `family: transformers_vision`"):
        load(tmp_path)


def test_prefixed_or_missing_weights_are_refused(tiny_dual: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_dual, tmp_path, dirs_exist_ok=True)
    state = load_file(tiny_dual / "model.safetensors")
    state.pop("logit_scale")
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lack 1 of \d+ tensors of the model, such as 'logit_scale'; are their names"):
        load(tmp_path)


@pytest.mark.parametrize("missing", ["config.json", "preprocessor_config.json", "model.safetensors", "tokenizer.json"])
def test_a_folder_that_lacks_a_file_is_one_line(tiny_dual: Path, tmp_path: Path, missing: str) -> None:
    shutil.copytree(tiny_dual, tmp_path, dirs_exist_ok=True)
    (tmp_path / missing).unlink()
    with pytest.raises(UserError) as caught:
        load(tmp_path, tower="image" if missing.startswith("preprocessor") else "text")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("preprocessor_config.json", "image_mean", [0.1, 0.2, 0.3]),
        ("preprocessor_config.json", "do_center_crop", False),
        ("config.json", "projection_dim", 16),
        ("config.json", "logit_scale_init_value", 1.0),
        ("tokenizer_config.json", "model_max_length", 8),
    ],
)
def test_each_field_that_matters_gives_another_recipe_or_is_refused(
    tiny_dual: Path, tmp_path: Path, file: str, key: str, value: Any
) -> None:
    shutil.copytree(tiny_dual, tmp_path, dirs_exist_ok=True)
    values = json.loads((tmp_path / file).read_text())
    values[key] = value
    (tmp_path / file).write_text(json.dumps(values))

    def recipes(folder: Path) -> list[Any]:
        return [load(folder).recipe, load(folder, tower="text").recipe]

    try:
        assert recipes(tmp_path) != recipes(tiny_dual)
    except UserError as error:
        assert "\n" not in str(error)
