"""What every family in pipeline/teachers/ promises, tried on a tiny model of each. A new family needs one line here."""

import io
import json
import sys
from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.errors import UserError
from pipeline.extraction import Replicas
from pipeline.params import Settings, read_plugin
from pipeline.plugins import plugin, plugins
from pipeline.provenance import digest_of
from pipeline.teachers import Teacher

from ..made_up_gpu import MadeUpGpu
from .test_onnx import OUTPUTS, write_images
from .test_python import example

CPU = torch.device("cpu")
PRECISION_IS_THEIRS = ("features", "onnx", "python")
"""Families whose files or code decide in what precision they compute."""
ALONE = ("features", "onnx", "python")
"""Families of which one batch is computed at a time: their code is not ours, or has threads of its own."""
WAIT = ("features", "onnx", "transformers")
"""Families that wait for a GPU: their values come from the host, or the library's classifiers look for padding."""
TEXTS = ["good", "a film that is good and long and good", "bad", "plain words of a plain film", "not bad"]


def pictures() -> list[bytes]:
    random = np.random.default_rng(0)
    encoded = []
    for height, width in [(40, 60), (28, 28), (200, 180), (64, 64), (33, 90)]:
        file = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)).save(file, "PNG")
        encoded.append(file.getvalue())
    return encoded


@pytest.fixture(params=plugins("teachers"))
def section(
    request: pytest.FixtureRequest,
    tiny_classifier: Path,
    tiny_vit: Path,
    tiny_tower: Path,
    tiny_image_classifier: Path,
    squeezenet: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, Any]:
    """A section of `teachers` for each family, with every head it has."""
    monkeypatch.chdir(tmp_path)
    match request.param:
        case "transformers":
            heads = ["pooled", "cls", "tokens", "logits"]
            more: dict[str, Any] = {"model": str(tiny_classifier), "heads": heads, "max_length": 16}
        case "timm":
            heads = ["pooled", "cls", "tokens", "layer:2", "logits"]
            more = {"model": "test_vit", "weights": str(tiny_vit), "heads": heads}
        case "transformers_vision":
            more = {"model": str(tiny_image_classifier), "heads": ["pooled", "cls", "tokens", "logits"]}
        case "dual_encoder":
            more = {"model": str(tiny_tower), "heads": ["pooled", "projected"]}
        case "features":
            np.save("features.npy", np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32))
            Path("ids.txt").write_text("".join(f"row {number}\n" for number in range(9)))
            more = {"path": "features.npy", "ids": "ids.txt", "heads": ["pooled"]}
        case "python":
            Path("my_teachers.py").write_text(example())
            monkeypatch.delitem(sys.modules, "my_teachers", raising=False)
            more = {"factory": "my_teachers:colours", "heads": ["pooled"]}
        case "onnx":
            write_images(Path("images.onnx"))
            heads = ["pooled", "tokens", "logits"]
            more = {"model": "images.onnx", "heads": heads, "outputs": OUTPUTS, "mean": [0.5] * 3, "std": [0.2] * 3}
        case "torchvision":
            heads = ["pooled", "layer:features.5", "logits"]
            more = {"model": "squeezenet1_1", "weights": str(squeezenet), "heads": heads}
    return {"family": request.param, **more}


Load = Callable[..., Teacher]


@pytest.fixture
def load(section: dict[str, Any]) -> Load:
    def load(precision: str = "float32", **changes: Any) -> Teacher:
        family, settings = read_plugin("teachers", section | changes, "teachers.tiny")
        return family.load(settings, precision, CPU)

    return load


@pytest.fixture
def of_one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def teacher(load: Load) -> Teacher:
    return load()


@pytest.fixture
def rows(teacher: Teacher) -> list[Any]:
    if teacher.kind == "id":
        return ["row 4", "row 0", "row 5", "row 8", "row 3"]
    return TEXTS if teacher.kind == "text" else pictures()


def features_of(teacher: Teacher, rows: list[Any]) -> dict[str, torch.Tensor]:
    return teacher.forward(teacher.collate([teacher.transform(row) for row in rows]))


def test_its_outputs_have_the_shapes_of_its_heads(teacher: Teacher, rows: list[Any]) -> None:
    outputs = features_of(teacher, rows)
    assert outputs.keys() == teacher.heads.keys()
    for head, shape in teacher.heads.items():
        assert outputs[head].shape == (len(rows), *shape)
        assert outputs[head].is_floating_point() and outputs[head].isfinite().all()
        assert outputs[head].device == teacher.device == CPU


def test_it_computes_on_a_gpu_what_it_computes_on_a_cpu(
    section: dict[str, Any], teacher: Teacher, rows: list[Any]
) -> None:
    expected = features_of(teacher, rows)
    family, settings = read_plugin("teachers", section, "teachers.tiny")
    with MadeUpGpu() as gpu:
        there = family.load(settings, "float32", torch.device("cuda"))
        assert there.recipe == teacher.recipe
        batch = there.collate([there.transform(row) for row in rows])
        batch = {key: tensor.to(there.device, non_blocking=True) for key, tensor in batch.items()}
        gpu.waits.clear()
        found = there.forward(batch)
        assert section["family"] in WAIT or not gpu.waits
        for head, values in found.items():
            torch.testing.assert_close(values.cpu(), expected[head])


def test_a_row_alone_gives_what_it_gives_in_a_batch(teacher: Teacher, rows: list[Any]) -> None:
    together = features_of(teacher, rows)
    for number, row in enumerate(rows):
        for head, values in features_of(teacher, [row]).items():
            torch.testing.assert_close(values[0], together[head][number], rtol=1e-4, atol=1e-5)


def test_batches_beside_each_other_give_what_each_gives_alone(
    section: dict[str, Any], teacher: Teacher, rows: list[Any], of_one_thread: None
) -> None:
    """Bit by bit: a model that keeps what it sees in a pass, or has hooks for it, would mix batches."""
    examples = [teacher.transform(row) for row in rows]
    batches = [teacher.collate([examples[at] for at in order]) for order in permutations(range(len(rows)), 2)] * 3
    alone = [teacher.forward(batch) for batch in batches]
    torch.set_num_threads(4)
    replicas = Replicas(teacher)
    assert replicas.at_once == (1 if section["family"] in ALONE else 4)
    for _ in range(5):
        for outputs, expected in zip(replicas.map(lambda copy, each: copy.forward(each), batches), alone, strict=True):
            for head, values in expected.items():
                assert torch.equal(outputs[head], values)


def test_different_rows_give_different_features(teacher: Teacher, rows: list[Any]) -> None:
    pooled = features_of(teacher, rows)["pooled"]
    assert torch.cdist(pooled, pooled).add(torch.eye(len(rows))).min() > 1e-3


def test_is_frozen_and_gives_the_same_twice(teacher: Teacher, rows: list[Any]) -> None:
    first, second = features_of(teacher, rows), features_of(teacher, rows)
    for head, values in first.items():
        assert not values.requires_grad
        assert torch.equal(values, second[head])


def test_half_precision_is_close_to_full(load: Load, teacher: Teacher, rows: list[Any]) -> None:
    full, half = features_of(teacher, rows)["pooled"], features_of(load("bfloat16"), rows)["pooled"]
    assert half.dtype == torch.float32, "pooling is done in float32"
    assert torch.cosine_similarity(full, half).min() > 0.999
    assert not torch.equal(full, half) or teacher.recipe["family"] in PRECISION_IS_THEIRS


def test_a_smaller_choice_of_heads_changes_no_value(load: Load, teacher: Teacher, rows: list[Any]) -> None:
    alone = load(heads=["pooled"])
    assert alone.recipe == teacher.recipe
    assert torch.equal(features_of(alone, rows)["pooled"], features_of(teacher, rows)["pooled"])


def test_its_recipe_is_data_and_stays_the_same(load: Load, teacher: Teacher) -> None:
    assert json.loads(json.dumps(teacher.recipe)) == teacher.recipe
    assert digest_of(load().recipe) == digest_of(teacher.recipe)


NAMES = {
    *("model", "revision", "weights", "factory", "path", "ids", "tokenizer"),
    *("heads", "outputs", "trust_remote_code", "safetensors_only"),
}
"""Settings that say where a model is, whose content is in the recipe; choose among its outputs; or only refuse."""

OTHERS: dict[str, dict[str, Any]] = {
    "transformers": {
        "pooling": "max",
        "prompt": "a film ",
        "max_length": 12,
        "truncation": "left",
        "top": 1,
        "zero_shot": {"template": "a {}"},
    },
    "timm": {"size": 96, "top": 2},
    "dual_encoder": {"tower": "text", "zero_shot": {"template": "a {}"}},
    "transformers_vision": {"pooling": "mean", "top": 1},
    "python": {"options": {"other": 1}, "top": 2},
    "onnx": {
        "pooling": "max",
        "size": 9,
        "resize": 80,
        "interpolation": "nearest",
        "rounding": "aft",
        "scale": 0.5,
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "layout": "NHWC",
        "channels": "BGR",
        "prompt": "a film ",
        "max_length": 12,
        "top": 1,
    },
    "torchvision": {"transforms": "V9", "arguments": {"dropout": 0.9}, "top": 2},
}
"""By family, another value for each of its other settings."""


def test_every_setting_is_in_the_recipe_or_refused(section: dict[str, Any], load: Load, teacher: Teacher) -> None:
    fields = set(plugin("teachers", section["family"]).Settings.model_fields)
    others = OTHERS.get(section["family"], {})
    assert fields - NAMES == others.keys(), "say here how it changes features"
    for setting, value in others.items():
        try:
            changed = load(**{setting: value})
        except UserError:
            continue
        assert identity(changed) != identity(teacher), setting


def test_families_with_logits_keep_the_largest_where_asked(section: dict[str, Any], load: Load) -> None:
    try:
        teacher = load(heads=["logits"])
    except UserError:  # it has no such head, or the example has not
        assert section["family"] == "python" or "top" not in plugin("teachers", section["family"]).Settings.model_fields
        return
    classes = teacher.heads["logits"][0]
    most = load(heads=["logits"], top=(classes - 1) // 3)
    assert most.heads == teacher.heads and most.largest == {"logits": (classes - 1) // 3}
    with pytest.raises(UserError, match="takes no less room than all; drop it"):
        load(heads=["logits"], top=classes)
    with pytest.raises(UserError, match="heads has no `logits`; add it, or drop top"):
        load(heads=["pooled"], top=1)


def identity(teacher: Teacher) -> str:
    """A digest of all by which its features are known."""
    return digest_of([teacher.recipe, dict(teacher.head_recipes), dict(teacher.largest)])


def test_its_recipe_depends_on_the_precision(load: Load, teacher: Teacher) -> None:
    half = load("bfloat16").recipe
    differ = {key for key in half if half[key] != teacher.recipe[key]}
    if half["family"] in PRECISION_IS_THEIRS:
        assert differ <= {"precision", "weights"}
    else:
        assert differ == {"precision"}


def test_costs_are_positive_and_equal_where_rows_are_uniform(teacher: Teacher, rows: list[Any]) -> None:
    costs = {teacher.cost(teacher.transform(row)) for row in rows}
    assert min(costs) > 0
    assert (len(costs) == 1) == teacher.uniform


def test_unknown_keys_are_refused(section: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="unknown key `wieghts`"):
        read_plugin("teachers", section | {"wieghts": "x"}, "teachers.tiny")


def test_an_unknown_head_is_refused(section: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"heads\[0\].*'eyes'"):
        read_plugin("teachers", section | {"heads": ["eyes"]}, "teachers.tiny")


@pytest.mark.parametrize("family", plugins("teachers"))
def test_settings_are_strict_records(family: str) -> None:
    assert issubclass(plugin("teachers", family).Settings, Settings)
