"""Models in ONNX files against a plain script with onnxruntime, and what is refused."""

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from pipeline.data import Dataset
from pipeline.errors import UserError
from pipeline.params import parse
from pipeline.students import predict
from pipeline.teachers import onnx as family
from pipeline.teachers.onnx import OnnxModel, Settings

from ..serving.made import made_export, made_student
from ..students.conftest import write_pictures
from .test_timm import features_of, noise

CPU = torch.device("cpu")
SIZE, WIDTH = 32, 16
OUTPUTS = {"pooled": "features", "tokens": "map", "logits": "features"}
PICTURES = [noise(40, 60), noise(90, 70, 1), noise(33, 33, 2)]
SENTENCES = ["good", "a film that is good and long and good", "bad film", "plain"]
NORMAL = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}


def constant(name: str, values: np.ndarray) -> Any:
    return numpy_helper.from_array(values, name)


def save(path: Path, nodes: Any, inputs: Any, outputs: Any, weights: Any, **more: Any) -> Path:
    """Write a graph; inputs and outputs are (name, type, shape)."""
    values = [[helper.make_tensor_value_info(*value) for value in part] for part in (inputs, outputs)]
    graph = helper.make_graph(nodes, "graph", *values, weights)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    onnx.save_model(helper.make_model(graph, opset_imports=imports, ir_version=9), str(path), **more)
    return path


def write_images(
    path: Path, layout: str = "NCHW", kind: int = TensorProto.FLOAT, batch: Any = "n", **more: Any
) -> Path:
    """A convolution: its map, and the mean of it."""
    kernel = np.random.default_rng(0).normal(size=(WIDTH, 3, 5, 5)).astype(np.float32)
    shape = [batch, 3, SIZE, SIZE] if layout == "NCHW" else [batch, SIZE, SIZE, 3]
    nodes = [helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT)]
    if layout == "NHWC":
        nodes += [helper.make_node("Transpose", ["floats"], ["first"], perm=[0, 3, 1, 2])]
    nodes += [
        helper.make_node("Conv", ["floats" if layout == "NCHW" else "first", "kernel"], ["conv"], strides=[4, 4]),
        helper.make_node("Relu", ["conv"], ["map"]),
        helper.make_node("ReduceMean", ["map"], ["features"], axes=[2, 3], keepdims=0),
    ]
    map_shape = [batch, WIDTH, 7, 7]
    if layout == "NHWC":
        nodes[-2].output[0] = nodes[-1].input[0] = "relu"
        nodes += [helper.make_node("Transpose", ["relu"], ["map"], perm=[0, 2, 3, 1])]
        map_shape = [batch, 7, 7, WIDTH]
    outputs = [("features", TensorProto.FLOAT, [batch, WIDTH]), ("map", TensorProto.FLOAT, map_shape)]
    return save(path, nodes, [("pixels", kind, shape)], outputs, [constant("kernel", kernel)], **more)


def write_texts(path: Path, tokenizer: Path, mixed: bool = False, random: bool = False, length: Any = "l") -> Path:
    """An embedding: states of the tokens. `mixed` takes the mean of the batch off, `random` adds noise."""
    table = np.random.default_rng(0).normal(size=(14, WIDTH)).astype(np.float32)
    nodes = [helper.make_node("Gather", ["table_of", "input_ids"], ["own" if mixed or random else "states"])]
    if mixed:
        nodes += [helper.make_node("ReduceMean", ["own"], ["mean"], axes=[0, 1], keepdims=1)]
        nodes += [helper.make_node("Sub", ["own", "mean"], ["states"])]
    if random:
        nodes += [
            helper.make_node("RandomNormalLike", ["own"], ["noise"]),
            helper.make_node("Add", ["own", "noise"], ["states"]),
        ]
    inputs = [(name, TensorProto.INT64, ["n", length]) for name in ("input_ids", "attention_mask")]
    outputs = [("states", TensorProto.FLOAT, ["n", length, WIDTH])]
    for file in tokenizer.glob("*token*"):
        shutil.copy(file, path.parent)
    return save(path, nodes, inputs, outputs, [constant("table_of", table)])


def load(model: Path, precision: Any = "float32", **settings: Any) -> OnnxModel:
    return family.load(parse(Settings, {"model": str(model), **settings}, "teachers.x"), precision, CPU)


def documented(path: Path, pixels: np.ndarray, output: str) -> torch.Tensor:
    """What the documentation of onnxruntime has people do."""
    session = onnxruntime.InferenceSession(path)
    return torch.from_numpy(session.run([output], {session.get_inputs()[0].name: pixels})[0])


def prepared(resize: int | None) -> np.ndarray:
    """Images as pixels [n, h, w, c], by Pillow alone."""
    made = []
    for picture in PICTURES:
        image = Image.open(io.BytesIO(picture)).convert("RGB")
        if resize is None:
            image = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        else:
            short = min(image.size)
            width, height = (resize if side == short else int(resize * side / short) for side in image.size)
            left, top = round((width - SIZE) / 2), round((height - SIZE) / 2)
            image = image.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + SIZE, top + SIZE))
        made.append(np.asarray(image))
    return np.stack(made)


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(torch.cosine_similarity(one.flatten(1), other.flatten(1)).min())


@pytest.mark.parametrize("resize", [None, 40])
@pytest.mark.parametrize(("layout", "channels"), [("NCHW", "RGB"), ("NHWC", "BGR")])
@pytest.mark.parametrize("batch", ["n", 2])
def test_images_are_prepared_as_stated(
    layout: str, channels: str, batch: Any, resize: int | None, tmp_path: Path
) -> None:
    path = write_images(tmp_path / "m.onnx", layout, batch=batch)
    teacher = load(path, heads=["pooled", "tokens"], outputs=OUTPUTS, resize=resize, channels=channels, **NORMAL)
    outputs = features_of(teacher, PICTURES)  # type: ignore[arg-type]
    assert outputs["tokens"].shape == (3, 49, WIDTH)
    pixels = prepared(resize)[..., :: 1 if channels == "RGB" else -1] / 255
    pixels = ((pixels - np.array(NORMAL["mean"])) / np.array(NORMAL["std"])).astype(np.float32)
    pixels = pixels.transpose(0, 3, 1, 2) if layout == "NCHW" else pixels
    many = np.concatenate([pixels, pixels[:1]])
    reference = torch.cat([documented(path, many[at : at + 2], "features") for at in (0, 2)])[:3]
    assert cosine(outputs["pooled"], reference) > 0.9999


def test_inputs_of_bytes_are_not_scaled(tmp_path: Path) -> None:
    path = write_images(tmp_path / "m.onnx", kind=TensorProto.UINT8)
    outputs = features_of(load(path, outputs=OUTPUTS), PICTURES)  # type: ignore[arg-type]
    assert torch.equal(outputs["pooled"], documented(path, prepared(None).transpose(0, 3, 1, 2), "features"))


def test_texts_are_tokenized_pooled_and_padded(tiny_encoder: Path, tmp_path: Path) -> None:
    import transformers

    path = write_texts(tmp_path / "m.onnx", tiny_encoder)
    teacher = load(path, heads=["pooled", "cls", "tokens"], max_length=16)
    assert (teacher.kind, teacher.alone) == ("text", False)
    outputs = features_of(teacher, SENTENCES)  # type: ignore[arg-type]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_encoder)
    session = onnxruntime.InferenceSession(path)
    for row, sentence in enumerate(SENTENCES):
        inputs = tokenizer(sentence, truncation=True, max_length=16, return_tensors="np")
        (states,) = session.run(None, {name: inputs[name] for name in ("input_ids", "attention_mask")})
        assert np.allclose(outputs["pooled"][row], states[0].mean(0), atol=1e-6)
        assert np.allclose(outputs["cls"][row], states[0, 0], atol=1e-6)
        assert np.allclose(outputs["tokens"][row, : states.shape[1]], states[0], atol=1e-6)
        assert not outputs["tokens"][row, states.shape[1] :].any()
    fixed = load(write_texts(tmp_path / "f.onnx", tiny_encoder, length=12), heads=["pooled"])
    assert fixed.longest == 12
    assert torch.allclose(features_of(fixed, SENTENCES)["pooled"], outputs["pooled"], atol=1e-6)  # type: ignore[arg-type]


def test_rows_that_a_model_mixes_are_computed_alone(tiny_encoder: Path, tmp_path: Path) -> None:
    teacher = load(write_texts(tmp_path / "m.onnx", tiny_encoder, mixed=True), pooling="cls", max_length=16)
    assert teacher.recipe["together"] is False and "one row at a time" in teacher.notes[-1]
    together = features_of(teacher, SENTENCES)["pooled"]  # type: ignore[arg-type]
    for row, sentence in enumerate(SENTENCES):
        assert torch.equal(together[row], features_of(teacher, [sentence])["pooled"][0])  # type: ignore[arg-type, list-item]


def test_weights_outside_of_the_file_are_in_the_recipe(tmp_path: Path) -> None:
    where = {"save_as_external_data": True, "location": "w.data", "size_threshold": 0}
    path = write_images(tmp_path / "m.onnx", **where)
    before = load(path, outputs=OUTPUTS, **NORMAL).recipe
    weights = bytearray((tmp_path / "w.data").read_bytes())
    weights[2] ^= 64
    (tmp_path / "w.data").write_bytes(weights)
    assert load(path, outputs=OUTPUTS, **NORMAL).recipe != before
    (tmp_path / "w.data").unlink()
    with pytest.raises(UserError, match=r"its weights are in w\.data, which is not next to it; copy that file"):
        load(path, outputs=OUTPUTS, **NORMAL)
    content = path.read_bytes()
    for place in (b"../a.b", b"/tmp/a", b"a\\..\\b"):
        path.write_bytes(content.replace(b"w.data", place))
        with pytest.raises(UserError, match="which is not below its folder"):
            load(path, outputs=OUTPUTS, **NORMAL)


@pytest.mark.parametrize(
    "change",
    [
        {"resize": 40}, {"interpolation": "bicubic"}, {"scale": 1.0}, {"mean": [0.0] * 3}, {"std": [1.0] * 3},
        {"channels": "BGR"}, {"rounding": "aft"}, {"outputs": OUTPUTS | {"pooled": "map"}}, {"pooling": "cls"},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_everything_that_changes_a_feature_changes_the_recipe(change: dict[str, Any], tmp_path: Path) -> None:
    path = write_images(tmp_path / "m.onnx")
    section = {"outputs": OUTPUTS, **NORMAL}
    assert load(path, **section).recipe != load(path, **section | change).recipe


def test_precision_is_that_of_the_graph(tmp_path: Path) -> None:
    path = write_images(tmp_path / "m.onnx")
    teacher = load(path, "bfloat16", outputs=OUTPUTS, **NORMAL)
    assert teacher.recipe == load(path, outputs=OUTPUTS, **NORMAL).recipe
    assert "float32 outputs" in teacher.notes[-1]


@pytest.mark.parametrize(
    ("settings", "answer"),
    [
        ({}, r"several outputs, features \[n, 16\], map \[n, 16, 7, 7\]; name that of head `pooled`, such as"),
        ({"outputs": {"pooled": "x"}}, "no output 'x'; its outputs are features, map"),
        ({"outputs": OUTPUTS}, "state how its images are prepared: `mean` and `std` of 3 channels"),
        ({"outputs": OUTPUTS, **NORMAL, "size": 64}, "set `size` to the 32 that it takes"),
        ({"outputs": OUTPUTS, **NORMAL, "resize": 16}, "resize: 16 leaves less than size: 32"),
        (
            {
                "outputs": OUTPUTS,
                **NORMAL,
                "heads": ["cls"],
            },
            "several outputs",
        ),
        ({"outputs": {"logits": "map"}, **NORMAL, "heads": ["logits"]}, "'map' .* has no head `logits`; name another"),
    ],
)
def test_what_is_wrong_is_one_line(settings: dict[str, Any], answer: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=answer) as caught:
        load(write_images(tmp_path / "m.onnx"), **settings)
    assert "\n" not in str(caught.value)


def test_hostile_files_are_one_line(tiny_encoder: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with pytest.raises(UserError, match="no such file"):
        load(path)
    path.write_bytes(b"text and text")
    with pytest.raises(UserError, match="damaged, or not an ONNX file"):
        load(path)
    content = write_images(path).read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"damaged, or not an ONNX file|cannot load it"):
        load(path)
    own = helper.make_node("Own", ["pixels"], ["features"], domain="mine")
    save(path, [own], [("pixels", 1, ["n", 3, 8, 8])], [("features", 1, ["n", 4])], [])
    with pytest.raises(UserError, match="operators from a library of their own, which are not loaded"):
        load(path)
    with pytest.raises(UserError, match="change from call to call"):
        load(write_texts(path, tiny_encoder, random=True), max_length=16)
    with pytest.raises(UserError, match="set `max_length`, it has no limit itself"):
        load(write_texts(path, tiny_encoder))
    for file in tmp_path.glob("*token*"):
        file.unlink()
    with pytest.raises(UserError, match="no tokenizer next to it"):
        load(path)


def test_a_tokenizer_with_words_that_the_model_lacks(tiny_encoder: Path, tmp_path: Path) -> None:
    path = write_texts(tmp_path / "m.onnx", tiny_encoder)
    model = onnx.load(str(path))
    model.graph.initializer[0].CopyFrom(constant("table_of", np.zeros((13, WIDTH), np.float32)))
    onnx.save(model, str(path))
    with pytest.raises(UserError, match=r"it cannot take rows of input_ids \(\d+,\)"):
        load(path, max_length=16)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("student", ["compact_cnn", pytest.param("transformers", marks=pytest.mark.slow)])
def test_a_student_that_was_exported_is_a_teacher(
    student: str, made_project: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    if student == "compact_cnn":
        section: dict[str, Any] = {"family": "compact_cnn", "width": 16, "size": 16}
        data, settings = write_pictures(tmp_path / "pictures", 40), {}
    else:
        section = {"family": "transformers", "model": str(tiny_encoder), "max_length": 7}
        data, settings = Dataset.open(made_project / "data"), {"max_length": 7}
    blueprint, module = made_student(section, data)
    expected = predict(module, blueprint.inputs(data), np.arange(9), CPU)
    made_export(tmp_path / "export", section, data, "onnx")
    teacher = load(tmp_path / "export" / "model.onnx", heads=["logits"], **settings)
    outputs = features_of(teacher, data.content(np.arange(9)))["logits"]  # type: ignore[arg-type]
    torch.testing.assert_close(outputs, torch.as_tensor(expected), rtol=1e-4, atol=1e-5)
    if student == "compact_cnn":
        stated = {"mean": [0.5] * 3, "std": [0.2] * 3, "size": 16}
        assert load(tmp_path / "export" / "model.onnx", heads=["logits"], **stated).recipe != teacher.recipe
        (tmp_path / "export" / "preprocessing.json").write_text("{'crop': 7}".replace("'", '"'))
        with pytest.raises(UserError, match=r"preprocessing\.json: no preprocessing of `aft export`"):
            load(tmp_path / "export" / "model.onnx", heads=["logits"])
