"""Every format gives the outputs of every student that it holds, at any number of rows, from its files alone."""

import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm

from pipeline.data import Dataset
from pipeline.errors import UserError
from pipeline.exports import export_format
from pipeline.plugins import plugins
from pipeline.predict import Predictor
from pipeline.students import predict

from ..conftest import WORDS, write_encoder
from ..serving.made import CPU, made_export, made_student
from ..students.conftest import write_pictures

FAMILIES = ["bag_of_words", "compact_cnn", "static", "tfidf", "timm", "transformers"]

TRACED = ("onnx", "torch_export")
"""Formats that take seconds for a model of many layers."""

CASES = [
    pytest.param(
        format, family, marks=[pytest.mark.slow] if format in TRACED and family in ("timm", "transformers") else []
    )
    for format in plugins("exports")
    for family in FAMILIES
]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_pictures(tmp_path_factory.mktemp("pictures"), 40)


@pytest.fixture(scope="module")
def sections(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    encoder = write_encoder(tmp_path_factory.mktemp("encoder"), WORDS, width=16, layers=1)
    return {
        "bag_of_words": {"family": "bag_of_words", "width": 8, "pairs": True},
        "compact_cnn": {"family": "compact_cnn", "width": 16, "size": 16},
        "static": {"family": "static", "model": str(encoder), "dimensions": 8, "width": 8},
        "tfidf": {"family": "tfidf", "pairs": True},
        "timm": {"family": "timm", "model": "test_vit", "pretrained": False, "size": 32},
        "transformers": {"family": "transformers", "model": str(encoder), "max_length": 7},
    }


@pytest.fixture
def data(family: str, made_project: Path, pictures: Dataset) -> Dataset:
    return pictures if family in ("compact_cnn", "timm") else Dataset.open(made_project / "data")


def available(format: str) -> None:
    """Skip a format whose packages are not here; `pip install 'aft-pipeline[export]'` brings them."""
    for package in import_module(f"pipeline.exports.{format}").PACKAGES:
        pytest.importorskip(package)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize(("format", "family"), CASES)
def test_gives_the_outputs_of_the_student(
    format: str, family: str, sections, data: Dataset, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    available(format)
    section = sections[family]
    blueprint, student = made_student(section, data)
    if reason := export_format(format).refusal(blueprint):
        assert "\n" not in reason
        return
    rows = np.arange(9)
    expected = predict(student, blueprint.inputs(data), rows, CPU)
    made_export(tmp_path / "export", section, data, format)
    moved = Path(shutil.copytree(tmp_path / "export", tmp_path / "elsewhere"))
    shutil.rmtree(tmp_path / "export")
    contents = data.content(rows)
    for size in (1, 2, 9):
        found = Predictor(moved, device="cpu", batch_size=size, trust=True)(contents).outputs
        assert found.dtype == np.float32
        assert np.abs(found - expected).max() < 1e-5, size
    assert capfd.readouterr() == ("", ""), "no library shows bars of its own"
    if lines := export_format(format).USE:
        exec("\n".join(lines).replace("FOLDER", str(moved)), loaded := {})
        assert loaded["model"]


def test_files_that_may_run_code_are_loaded_only_if_trusted(made_project: Path, sections, tmp_path: Path, monkeypatch):
    made_export(tmp_path / "export", sections["bag_of_words"], Dataset.open(made_project / "data"))
    monkeypatch.setattr("pipeline.exports.native.RUNS_CODE", True)
    with pytest.raises(UserError, match=r"export: loading the format native may run code .* pass --trust"):
        Predictor(tmp_path / "export")
    Predictor(tmp_path / "export", trust=True)


def test_a_name_may_have_either_dash():
    assert export_format("torch-export") is export_format("torch_export")


def test_a_package_that_is_missing_is_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipeline.exports.native.PACKAGES", ("no_such_package",))
    with pytest.raises(UserError, match=r"--format native: the package no_such_package is not installed; run pip inst"):
        export_format("native")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("format", ["timm", "transformers", "sentence_transformers"])
def test_the_first_layers_are_taken_home(format: str, sections, made_project: Path, pictures, tmp_path: Path):
    available(format)
    family = "timm" if format == "timm" else "transformers"
    data = pictures if family == "timm" else Dataset.open(made_project / "data")
    encoder = write_encoder(tmp_path / "encoder", WORDS, width=16, layers=3)
    section = sections[family] | {"layers": 2} | ({"model": str(encoder)} if family == "transformers" else {})
    blueprint, student = made_export(tmp_path / "export", section, data, format)
    rows = np.arange(3)
    contents = data.content(rows) if data.kind == "text" else [data.image(int(row)) for row in rows]
    found = Predictor(tmp_path / "export", device="cpu", trust=True)(contents).outputs
    assert np.abs(found - predict(student, blueprint.inputs(data), rows, CPU)).max() < 1e-5
    if format == "timm":
        assert len(timm.create_model(f"local-dir:{tmp_path / 'export'}", pretrained=True).blocks) == 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("format", plugins("exports"))
def test_outputs_are_in_the_unit_of_the_labels(format: str, sections, made_project: Path, pictures, tmp_path: Path):
    available(format)
    family = {"timm": "timm", "transformers": "transformers", "sentence_transformers": "transformers"}.get(
        format, "bag_of_words"
    )
    data = pictures if family == "timm" else Dataset.open(made_project / "data")
    plain, student = made_student(sections[family], data)
    blueprint = plain.model_copy(update={"shift": 200.0, "scale": 50.0})
    scaled = blueprint.build()
    scaled.student.load_state_dict(student.state_dict())
    scaled.eval()
    rows = np.arange(3)
    contents = data.content(rows) if data.kind == "text" else [data.image(int(row)) for row in rows]
    expected = predict(student, plain.inputs(data), rows, CPU) * 50 + 200
    export_format(format).write(tmp_path, blueprint, scaled, contents)
    model = export_format(format).load(tmp_path, blueprint, CPU)
    assert np.allclose(model(blueprint.preprocessing()(contents)), expected, rtol=1e-5)


def test_a_full_disk_is_not_taken_for_a_student_that_cannot_be_exported(
    sections, made_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    available("onnx")

    def full(*arguments: object, **named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.onnx.export", full)
    data = Dataset.open(made_project / "data")
    with pytest.raises(OSError, match="No space left on device"):
        made_export(tmp_path / "exported", sections["bag_of_words"], data, "onnx")
