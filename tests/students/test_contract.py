"""Every student family in pipeline/students/ keeps the promises of the contract."""

import shutil
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from pipeline.data import Dataset, PrepareSettings, prepare
from pipeline.errors import UserError
from pipeline.plugins import plugin, plugins
from pipeline.project import Project
from pipeline.sources import Source
from pipeline.store import SourceFeatures
from pipeline.store.reader import HostReader
from pipeline.students import Blueprint, Inputs, _words, load_student, predict, save_student, student_blueprint

from ..conftest import WORDS, write_encoder
from ..made_up_gpu import MadeUpGpu
from .conftest import write_pictures

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny text encoder with random weights, in a folder."""
    return write_encoder(tmp_path_factory.mktemp("encoder"), WORDS, width=16, layers=1)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_pictures(tmp_path_factory.mktemp("pictures"), 80)


@pytest.fixture
def texts(project: Path) -> Dataset:
    return Dataset.open(project / "data")


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Pairs of texts in two classes."""
    folder: Path = tmp_path_factory.mktemp("pairs")
    lines = [f"{WORDS[n % 20]} {WORDS[n // 4]},{WORDS[n % 7]} {WORDS[n % 11]},{'ab'[n % 2]}" for n in range(80)]
    (folder / "pairs.csv").write_text("\n".join(["text,other,label", *lines]))
    source = {"family": "text_table", "path": str(folder / "pairs.csv"), "second_column": "other"}
    prepare(PrepareSettings(source=source | {"label_column": "label"}, val=6, test=8), folder / "data")
    return Dataset.open(folder / "data")


@pytest.fixture
def stores(project: Path) -> dict[str, SourceFeatures]:
    """Features of the texts from two teachers."""
    return {name: SourceFeatures.open(Project(project), Source(name)) for name in ("wise", "loud")}


@pytest.fixture(params=plugins("students"))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Case(NamedTuple):
    """A family, a section of settings that is quick, a dataset of its kind, and teachers' features of it."""

    module: ModuleType
    section: dict[str, Any]
    data: Dataset
    stores: dict[str, SourceFeatures]

    def blueprint(self, rows: np.ndarray) -> Blueprint:
        return student_blueprint(self.section, "students.x", self.data, rows, self.stores)


@pytest.fixture
def case(
    family: str,
    encoder: Path,
    pictures: Dataset,
    pairs: Dataset,
    texts: Dataset,
    stores: dict[str, SourceFeatures],
) -> Case:
    sections: dict[str, dict[str, Any]] = {
        "bag_of_words": {"family": family, "width": 8},
        "compact_cnn": {"family": family, "width": 16, "size": 16},
        "linear_probe": {"family": family},
        "python": {"family": family, "factory": "tests.students.own_model:Mean", "kind": "text"}
        | {"tokenizer": str(encoder)},
        "static": {"family": family, "model": str(encoder), "dimensions": 8, "width": 8},
        "tfidf": {"family": family},
        "pair": {"family": family, "first": {"family": "bag_of_words", "width": 4}},
        "timm": {"family": family, "model": "test_vit", "pretrained": False, "size": 32},
        "transformers": {"family": family, "model": str(encoder)},
    }
    assert family in sections, f"add a quick section for {family} here"
    module = plugin("students", family)
    # `python` reads images, too.
    data = {"image": pictures, "pair": pairs}.get(module.KIND, texts)
    return Case(module, sections[family], data, stores if data is texts else {})


def made(case: Case) -> tuple[Blueprint, Any, Inputs]:
    """A student as after some training: a head that starts at zero would make equal what is not."""
    torch.manual_seed(0)
    blueprint = case.blueprint(case.data.split(0).train)
    student = blueprint.build()
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    return blueprint, student, blueprint.inputs(case.data, case.stores)


def test_gives_features_of_its_width_and_a_logit_per_class(case):
    _, student, inputs = made(case)
    features, logits = student(inputs.batch(np.array([5, 0, 3])))
    assert features.shape == (3, student.width)
    assert logits.shape == (3, len(case.data.task.outputs))
    assert torch.isfinite(features).all()
    assert torch.isfinite(logits).all()


def test_it_computes_on_a_gpu_what_it_computes_on_a_cpu(case):
    _, student, inputs = made(case)
    student.eval()
    rows = np.array([5, 0, 3])
    expected = student(inputs.batch(rows))
    expected[1].square().sum().backward()
    gradients = {name: weight.grad for name, weight in student.named_parameters()}
    student.zero_grad()
    with MadeUpGpu():
        student.to("cuda")
        found = student(inputs.batch(rows, device=torch.device("cuda")))
        found[1].square().sum().backward()
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one.detach().cpu(), other.detach())
        for name, weight in student.named_parameters():
            torch.testing.assert_close(None if weight.grad is None else weight.grad.cpu(), gradients[name])


def test_its_features_are_the_input_of_a_linear_head(case):
    _, student, inputs = made(case)
    student.eval()
    rows = np.arange(student.width + (24 if case.module.KIND == "pair" else 8))
    assert len(rows) <= len(case.data), "with fewer rows than unknowns, any logits are linear in the features"
    features, logits = student(inputs.batch(rows))
    ones = torch.cat([features, torch.ones(len(features), 1)], 1).double()
    if case.module.KIND == "pair":  # bilinear: linear in the products of two features, too
        first, second = (side.width for side in student.sides)
        one, other = features.double().split([first, second], 1)
        ones = torch.cat([ones, torch.einsum("ni,nj->nij", one, other).flatten(1)], 1)
    solution = torch.linalg.lstsq(ones, logits.double()).solution
    assert torch.allclose(ones @ solution, logits.double(), atol=1e-4)


def test_a_row_does_not_depend_on_its_batch(case):
    _, student, inputs = made(case)
    student.eval()
    together = student(inputs.batch(np.array([7, 1, 12, 2])))[1]
    alone = torch.cat([student(inputs.batch(np.array([row])))[1] for row in (7, 1, 12, 2)])
    assert torch.allclose(together, alone, atol=1e-4)


def test_new_rows_are_read_as_those_of_a_dataset(case):
    if case.module.KIND == "features":
        with pytest.raises(UserError, match="reads the features of its run's teachers"):
            case.blueprint(case.data.split(0).train).preprocessing()
        return
    blueprint, _, inputs = made(case)
    rows = np.array([3, 11, 4])
    new = [case.data.image(int(row)) for row in rows] if case.data.kind == "image" else case.data.content(rows)
    expected, found = inputs.batch(rows), blueprint.preprocessing()(new)
    assert isinstance(found, type(expected))
    for one, other in zip(*map(tensors, (expected, found)), strict=True):
        assert torch.equal(one, other)
        assert (one.dtype, one.stride()) == (other.dtype, other.stride())


def tensors(batch: Any) -> list[torch.Tensor]:
    """The tensors of a batch, whose parts may be batches."""
    return [tensor for part in batch for tensor in tensors(part)] if isinstance(batch, tuple) else [batch]


def test_every_parameter_learns_and_equal_seeds_give_equal_students(case):
    blueprint, student, inputs = made(case)
    _, logits = student(inputs.batch(np.arange(8)))
    logits.square().sum().backward()
    still = [name for name, p in student.named_parameters() if p.requires_grad and p.grad is None]
    assert [name for name in still if "pooler" not in name] == []
    one, other = (blueprint.build() for _ in range(2) if torch.manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def change_rows(monkeypatch: pytest.MonkeyPatch, changed: np.ndarray) -> None:
    """Give some rows of every dataset and store another content."""
    content, image, read = Dataset.content, Dataset.image, HostReader.__call__

    def other_content(self: Dataset, rows: np.ndarray) -> list[Any]:
        return [
            "quite another text" if row in changed else text
            for row, text in zip(rows, content(self, rows), strict=True)
        ]

    def other_image(self: Dataset, row: int) -> Image.Image:
        return ImageOps.invert(image(self, row)) if row in changed else image(self, row)

    def other_features(self: HostReader, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        features = read(self, rows, out)
        features[np.isin(rows, changed)] += 10
        return features

    # Words are counted once for each digest of a dataset, and here that stays as it was.
    monkeypatch.setattr(_words, "_counts", _words._counts.__wrapped__)
    monkeypatch.setattr(Dataset, "content", other_content)
    monkeypatch.setattr(Dataset, "image", other_image)
    monkeypatch.setattr(HostReader, "__call__", other_features)


FIT_NOTHING = {"python", "timm", "transformers"}
"""Families that take everything from a model's configuration."""


@pytest.mark.parametrize("which", ["its", "other"])
def test_what_it_fits_comes_from_the_rows_it_is_given(case, which: str, tmp_path: Path, monkeypatch):
    rows = case.data.split(0).train[:30]
    before = case.blueprint(rows).fitted
    others = np.setdiff1d(np.arange(len(case.data)), rows)
    change_rows(monkeypatch, rows if which == "its" else others)
    # A copy, because what was decoded before is kept next to the dataset.
    copy = Dataset.open(shutil.copytree(case.data.path, tmp_path / "copy" / "data"))
    after = case._replace(data=copy).blueprint(rows).fitted
    if which == "other" or case.section["family"] in FIT_NOTHING:
        assert after == before
    else:
        assert after != before


def test_a_checkpoint_gives_the_same_predictions_without_any_other_file(case, tmp_path: Path, monkeypatch):
    blueprint, student, inputs = made(case)
    rows = np.arange(10)
    before = predict(student, inputs, rows, CPU)
    save_student(tmp_path / "student", blueprint, student)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found, again = load_student(tmp_path / "student", case.data.task.outputs)
    assert found.teachers == blueprint.teachers
    assert np.array_equal(before, predict(again, found.inputs(case.data, case.stores), rows, CPU))


def test_the_other_kind_of_rows_is_refused(case, texts: Dataset, pictures: Dataset):
    other = texts if case.data is pictures else pictures
    reads = "pairs" if case.module.KIND == "pair" else case.data.kind
    message = f"reads {reads}; the dataset holds {other.kind}"
    if case.module.KIND == "features":
        message = "features of another dataset"
    blueprint = case.blueprint(case.data.split(0).train)
    with pytest.raises(UserError, match=message):
        case._replace(data=other).blueprint(other.split(0).train)
    with pytest.raises(UserError, match=message):
        blueprint.inputs(other, case.stores)


def test_what_it_keeps_on_a_device_is_within_the_budget(case):
    _, _, inputs = made(case)
    before = inputs.batch(np.arange(4))
    assert isinstance(inputs, Inputs)
    assert inputs.keep_on(torch.device("meta"), 0) == 0
    assert 0 <= inputs.keep_on(torch.device("meta"), 10**6) <= 10**6
    after = inputs.batch(np.arange(4))
    flat = [[batch] if isinstance(batch, torch.Tensor) else list(batch) for batch in (before, after)]
    assert all(str(one) == str(other) for one, other in zip(*flat, strict=True))
