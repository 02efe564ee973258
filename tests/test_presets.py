"""The settings under params/ are valid, and name columns, configurations and splits as the datasets' cards do."""

import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from PIL import Image

from pipeline.checks import check_params
from pipeline.data import Dataset, PrepareSettings, prepare
from pipeline.params import Params

ROOT = Path(__file__).parents[1]
PRESETS = sorted((ROOT / "params").glob("*.yaml"))
PROJECTS = [
    pytest.param(values, id=f"{page.name}-{next(iter(values['teachers']), 'none')}")
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    for block in re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    if {"dataset", "teachers", "runs"} <= (values := yaml.safe_load(block)).keys()
]
"""Sections that the documentation has people put in the place of those that `aft init` wrote."""

GLUE = ("train", "validation", "test")
ENTAILMENT = ("entailment", "not_entailment")
SNLI_VE = {
    "image": "image",
    "filename": "text",
    "premise": "text",
    "hypothesis": "text",
    "label": ("entailment", "neutral", "contradiction"),
}
CARDS: dict[tuple[str, str | None], tuple[dict[str, Any], tuple[str, ...]]] = {
    ("uoft-cs/cifar10", None): ({"img": "image", "label": ("airplane", "automobile")}, ("train", "test")),
    ("uoft-cs/cifar100", None): (
        {"img": "image", "fine_label": ("apple", "aquarium_fish"), "coarse_label": ("fish", "flowers")},
        ("train", "test"),
    ),
    ("dpdl-benchmark/oxford_flowers102", None): (
        {"file_name": "text", "image": "image", "label": ("pink primrose", "hard-leaved pocket orchid")},
        ("train", "validation", "test"),
    ),
    ("timm/oxford-iiit-pet", None): (
        {"image": "image", "label": ("abyssinian", "american_bulldog"), "image_id": "text"},
        ("train", "test"),
    ),
    ("tanganke/dtd", None): ({"image": "image", "label": ("banded", "blotchy")}, ("train", "test")),
    ("ethz/food101", None): ({"image": "image", "label": ("apple_pie", "baby_back_ribs")}, ("train", "validation")),
    ("Multimodal-Fatima/SNLI-VE_train", None): (SNLI_VE, ("train",)),
    ("Multimodal-Fatima/SNLI-VE_test", None): (SNLI_VE, ("test",)),
    ("stanfordnlp/imdb", None): ({"text": "text", "label": ("neg", "pos")}, ("train", "test", "unsupervised")),
    ("aps/super_glue", "boolq"): (
        {"question": "text", "passage": "text", "idx": "text", "label": ("False", "True")},
        GLUE,
    ),
    ("nyu-mll/glue", "mnli"): (
        {"premise": "text", "hypothesis": "text", "label": ("entailment", "neutral", "contradiction"), "idx": "text"},
        ("train", "validation_matched", "validation_mismatched", "test_matched", "test_mismatched"),
    ),
    ("nyu-mll/glue", "sst2"): ({"sentence": "text", "label": ("negative", "positive"), "idx": "text"}, GLUE),
    ("nyu-mll/glue", "mrpc"): (
        {"sentence1": "text", "sentence2": "text", "label": ("not_equivalent", "equivalent"), "idx": "text"},
        GLUE,
    ),
    ("nyu-mll/glue", "qqp"): (
        {"question1": "text", "question2": "text", "label": ("not_duplicate", "duplicate"), "idx": "text"},
        GLUE,
    ),
    ("nyu-mll/glue", "qnli"): ({"question": "text", "sentence": "text", "label": ENTAILMENT, "idx": "text"}, GLUE),
    ("nyu-mll/glue", "rte"): ({"sentence1": "text", "sentence2": "text", "label": ENTAILMENT, "idx": "text"}, GLUE),
}
"""By name and configuration: columns, classes for those of labels, and splits. Test rows of GLUE have the label -1."""

ROWS = 30


def column(kind: Any, split: str, number: int) -> Any:
    if kind == "text":
        return f"some words, {split} {number}"
    if kind == "image":
        pixels = np.random.default_rng([number, len(split)]).integers(0, 255, (5, 5, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        return {"bytes": file.getvalue(), "path": None}
    hidden = split == "unsupervised" or (split.startswith("test") and "idx" in kind)
    return -1 if hidden else number % len(kind)


class Split:
    """A split as the package `datasets` gives it, as far as it is used here."""

    def __init__(self, columns: dict[str, Any], name: str):
        features = {
            key: {"names": kind, "_type": "ClassLabel"} for key, kind in columns.items() if isinstance(kind, tuple)
        }
        about = {"huggingface": json.dumps({"info": {"features": features}})}
        cells = {key: [column(kind, name, n) for n in range(ROWS)] for key, kind in columns.items()}
        self.table = pa.table(cells).replace_schema_metadata(about)
        self.features = SimpleNamespace(arrow_schema=self.table.schema)

    def with_format(self, name: str) -> "Split":
        assert name == "arrow"
        return self

    def iter(self, size: int) -> Iterator[pa.Table]:
        yield self.table


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(name: str, config: str | None, revision: str | None = None) -> dict[str, Split]:
        columns, splits = CARDS[name, config]
        return {split: Split(columns, split) for split in splits}

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_it_is_valid_and_fits_its_dataset(path: Path, hub: None, tmp_path: Path):
    params = Params.load(path)
    check_params(params)
    if params.section("dataset.source")["family"] != "hugging_face":
        return
    settings = params.read(PrepareSettings, "dataset")
    name = settings.source["name"]
    columns, _ = CARDS[name if isinstance(name, str) else name[0], settings.source.get("config")]
    done = prepare(settings, tmp_path / "data")
    data = Dataset.open(tmp_path / "data")
    # Texts of the validation split are test rows, of which none is lost, and none of training is one of them.
    assert done.roles["test"] == ROWS and done.roles["val"] > 0 and sum(done.dropped.values()) == 0
    assert set(done.classes) == set(columns[settings.source["label_column"]])
    assert done.roles["unlabelled"] == (ROWS if path.stem == "imdb" else 0)
    if "text" in data.kind:
        text = data.content([0])[0] if data.kind == "text" else data.content([0])[0][1]
        assert "some words, train 0" in text and "{" not in text


def test_prompts_are_the_published_ones():
    mnli = Params.load(next(path for path in PRESETS if path.stem == "mnli")).section("dataset.source")
    assert mnli["template"] == (
        "Premise: {premise}\nHypothesis: {hypothesis}\nDoes the premise entail the hypothesis? Answer: "
    )


@pytest.mark.parametrize("values", PROJECTS)
def test_the_sections_that_the_documentation_shows_are_valid_in_a_new_project(values: dict[str, Any]) -> None:
    images = "image" in values["dataset"]["source"]["family"]
    start = yaml.safe_load((ROOT / ("params/images.yaml" if images else "params.yaml")).read_text(encoding="utf-8"))
    params = Params(start | values)
    check_params(params)
    params.check_for_dvc()


def test_the_documentation_shows_whole_projects() -> None:
    assert len(PROJECTS) >= 3


@pytest.mark.parametrize("task", ["classification", "regression", "multilabel"])
def test_datasets_of_the_documentation_fit_into_a_new_project(task: str) -> None:
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    blocks = [yaml.safe_load(block)["dataset"] for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    for dataset in blocks:
        source = dataset["source"]
        if source["family"] == "python" or "second_column" in source or dataset.get("task", task) != task:
            continue  # code of one's own, and pairs, need more than this section
        text = source["family"] == "text_table" or "text_column" in source
        start = yaml.safe_load((ROOT / ("params.yaml" if text else "params/images.yaml")).read_text(encoding="utf-8"))
        check_params(Params(start | {"dataset": dataset | {"task": task}}))
