"""Every student family in pipeline/students/ keeps the promises of the contract."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline import checkpoints
from pipeline.errors import UserError
from pipeline.params import part, parts
from pipeline.prepare import PrepareSettings, prepare
from pipeline.prepared import Prepared

from ..conftest import WORDS, write_encoder

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny text encoder with random weights, in a folder."""
    return write_encoder(tmp_path_factory.mktemp("encoder"), WORDS, width=16, layers=1)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Forty small pictures of uneven size in two classes."""
    root: Path = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for number in range(40):
        folder = root / "raw" / ("dark", "light")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        level = (60, 190)[number % 2]
        pixels = random.integers(level - 50, level + 50, (20 + number % 7, 24, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    source = {"family": "image_folder", "path": str(root / "raw")}
    prepare(PrepareSettings(source=source, val=6, test=8), root / "data")
    return Prepared.open(root / "data")


@pytest.fixture
def texts(project: Path) -> Prepared:
    return Prepared.open(project / "data")


@pytest.fixture(params=parts("students"))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def case(
    family: str, encoder: Path, pictures: Prepared, texts: Prepared
) -> tuple[ModuleType, dict[str, Any], Prepared]:
    """The family, a section of settings that is quick, and a dataset of its kind."""
    sections: dict[str, dict[str, Any]] = {
        "bag_of_words": {"family": family, "width": 8},
        "compact_cnn": {"family": family, "width": 16, "size": 16},
        "timm": {"family": family, "model": "test_vit", "pretrained": False, "size": 32},
        "transformers": {"family": family, "model": str(encoder)},
    }
    assert family in sections, f"add a quick section for {family} here"
    module = part("students", family)
    return module, sections[family], {"text": texts, "image": pictures}[module.KIND]


def made(case: tuple[ModuleType, dict[str, Any], Prepared]) -> tuple[checkpoints.Recipe, Any, Prepared]:
    _, section, data = case
    torch.manual_seed(0)
    recipe = checkpoints.recipe(section, "students.x", data, data.split(0).train)
    return recipe, recipe.build(), data


def test_gives_features_of_its_width_and_a_logit_per_class(case):
    recipe, student, data = made(case)
    features, logits = student(recipe.inputs(data).batch(np.array([5, 0, 3])))
    assert features.shape == (3, student.width)
    assert logits.shape == (3, len(data.classes))
    assert torch.isfinite(features).all()
    assert torch.isfinite(logits).all()


def test_its_features_are_the_input_of_a_linear_head(case):
    recipe, student, data = made(case)
    student.eval()
    features, logits = student(recipe.inputs(data).batch(np.arange(len(data))[: student.width + 8]))
    ones = torch.cat([features, torch.ones(len(features), 1)], 1).double()
    solution = torch.linalg.lstsq(ones, logits.double()).solution
    assert torch.allclose(ones @ solution, logits.double(), atol=1e-4)


def test_a_row_does_not_depend_on_its_batch(case):
    recipe, student, data = made(case)
    student.eval()
    inputs = recipe.inputs(data)
    together = student(inputs.batch(np.array([7, 1, 12, 2])))[1]
    alone = torch.cat([student(inputs.batch(np.array([row])))[1] for row in (7, 1, 12, 2)])
    assert torch.allclose(together, alone, atol=1e-4)


def test_every_parameter_learns_and_equal_seeds_give_equal_students(case):
    recipe, student, data = made(case)
    _, logits = student(recipe.inputs(data).batch(np.arange(8)))
    logits.square().sum().backward()
    still = [name for name, p in student.named_parameters() if p.requires_grad and p.grad is None]
    assert [name for name in still if "pooler" not in name] == []
    torch.manual_seed(0)
    again = recipe.build()
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), again.parameters(), strict=True))


def test_what_it_fits_comes_from_the_rows_it_is_given(case):
    module, section, data = case
    settings = checkpoints.parse(module.Settings, {k: v for k, v in section.items() if k != "family"}, "here")
    rows = data.split(0).train
    assert module.fit(settings, data, rows) == module.fit(settings, data, rows.copy())
    if module.__name__.endswith("bag_of_words"):
        seen = " ".join(data.content(rows[:20])).lower()
        assert set(module.fit(settings, data, rows[:20])["vocabulary"]) <= set(seen.split())


def test_a_checkpoint_gives_the_same_predictions_without_any_other_file(case, tmp_path: Path, monkeypatch):
    recipe, student, data = made(case)
    rows = np.arange(10)
    before = checkpoints.predict(student, recipe.inputs(data), rows, CPU)
    checkpoints.save(tmp_path / "student", recipe, student)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found, again = checkpoints.load(tmp_path / "student", data.classes)
    assert np.array_equal(before, checkpoints.predict(again, found.inputs(data), rows, CPU))


def test_the_other_kind_of_rows_is_refused(case, texts: Prepared, pictures: Prepared):
    module, section, _ = case
    other = {"text": pictures, "image": texts}[module.KIND]
    with pytest.raises(UserError, match=f"reads {module.KIND}; the dataset holds {other.kind}"):
        checkpoints.recipe(section, "students.x", other, other.split(0).train)
