"""Pairs of texts, and of an image and a text: prepared, read by teachers from either side, and learned by a student."""

import csv
import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image

from pipeline.code import digests
from pipeline.data import Dataset, PrepareSettings, prepare
from pipeline.errors import UserError
from pipeline.extraction import ExtractSettings, extract
from pipeline.params import Params, parse
from pipeline.predict import Predictor
from pipeline.records import EvaluationRecord
from pipeline.store import FeatureStore
from pipeline.students import Student, load_student, pair
from pipeline.teachers import transformers

from .commands import aft
from .conftest import write_encoder
from .teachers.test_dual_encoder import clip, save

WORDS = [f"word{n}" for n in range(20)]
CPU = torch.device("cpu")


def png(seed: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 90, (8, 8, 3)) + 150 * (seed % 2)
    Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def write_pairs(folder: Path, count: int = 240) -> dict[str, Any]:
    """Pairs that agree if both words are even or both odd: neither side alone, nor their sum, says whether they do."""
    chosen = random.Random(0).sample([(one, other, n) for one in WORDS for other in WORDS for n in range(2)], count)
    with (folder / "pairs.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["premise", "hypothesis", "agree"])
        for one, other, n in chosen:
            same = WORDS.index(one) % 2 == WORDS.index(other) % 2
            table.writerow([f"{one} it is {'so' * n}", f"is it {other}", "yes" if same else "no"])
    return {
        "family": "text_table",
        "path": str(folder / "pairs.csv"),
        "text_column": "premise",
        "second_column": "hypothesis",
        "label_column": "agree",
    }


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = [*WORDS, "it", "is", "so"]
    return write_encoder(tmp_path_factory.mktemp("encoder"), words, width=16, layers=1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, encoder: Path) -> Path:
    """A project of pairs through every stage."""
    folder: Path = tmp_path_factory.mktemp("pairs")
    teacher = {"family": "transformers", "model": str(encoder)}
    values = {
        "dataset": {"source": write_pairs(folder), "val": 30, "test": 60},
        "extract": {},
        "teachers": {"one": teacher | {"reads": "first"}, "other": teacher | {"reads": "second"}},
        "probe": {"strengths": [0.01, 1.0]},
        "assess": {},
        "students": {"both": {"family": "pair", "first": {"family": "bag_of_words", "width": 16, "dropout": 0.0}}},
        "train": {"steps": 150, "batch_size": 64, "transfer_batch_size": 32, "learning_rate": 0.02, "seeds": [0]},
        "machine": {"device": "cpu"},
        "runs": {
            "aft": {"student": "both", "teachers": ["one", "other"], "methods": {"aft": {"weight": 0.1}}},
        },
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    commands = ["check", "prepare", "extract one", "extract other", "probe one", "probe other", "join"]
    for command in [*commands, "train aft", "evaluate aft", "report"]:
        done = aft(command, folder)
        assert done.code == 0, (command, done.errors)
    return folder


def test_a_student_of_both_sides_learns_what_neither_says(finished: Path) -> None:
    evaluation = EvaluationRecord.read(finished / "evaluations" / "aft.json")
    assert min(score.scores["accuracy"] for score in evaluation.results) > 0.9
    data = Dataset.open(finished / "data")
    assert data.kind == "text+text" and "240 pairs of texts prepared" in aft("check", finished).out
    premise, hypothesis = data.content([3])[0]
    assert data.of("first").content([3]) == [premise] and data.of("second").content([3]) == [hypothesis]


def test_the_features_of_a_side_are_those_of_its_texts_alone(finished: Path, encoder: Path, tmp_path: Path) -> None:
    data = Dataset.open(finished / "data")
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in data.of("second").content([4])))
    source = {"family": "text_table", "path": str(tmp_path / "t.jsonl")}
    prepare(parse(PrepareSettings, {"source": source}, "dataset"), tmp_path / "d")
    teacher = transformers.load(transformers.Settings(model=str(encoder)), "float32", CPU)
    alone = Dataset.open(tmp_path / "d")
    extract(alone, teacher, tmp_path / "s.zarr", ExtractSettings())
    one, other = (FeatureStore.open(finished / "features" / f"{name}.zarr") for name in ("one", "other"))
    assert np.abs(FeatureStore.open(tmp_path / "s.zarr")[[0]] - other[[4]]).max() < 2e-3
    assert {one.recipe["reads"], other.recipe["reads"]} == {"first", "second"}
    assert one.recipe_digest != other.recipe_digest


def test_predictions_of_a_table_an_export_and_python_are_the_same(finished: Path) -> None:
    data = Dataset.open(finished / "data")
    predict = Predictor(finished / "runs" / "aft")
    rows = data.content(data.split(0).test[:8])
    expected = predict(rows).outputs
    _, student = load_student(finished / "runs" / "aft" / "students" / "0")
    assert isinstance(student, pair.PairStudent) and predict.kind == "text+text"
    assert aft("export aft --output exported", finished).code == 0
    assert np.abs(Predictor(finished / "exported")(rows).outputs - expected).max() < 1e-5
    with (finished / "new.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["premise", "hypothesis"], *rows])
    done = aft("predict exported new.csv --output found.csv", finished)
    assert done.code == 0, done.errors
    with (finished / "found.csv").open(newline="") as file:
        found = [row["prediction"] for row in csv.DictReader(file)]
    assert found == predict(rows).predictions
    (finished / "other.csv").write_text((finished / "new.csv").read_text().replace("premise", "said", 1))
    again = aft("predict exported other.csv --text-column said --output again.csv", finished)
    assert again.code == 0 and (finished / "again.csv").read_text() == (finished / "found.csv").read_text()
    with pytest.raises(UserError, match="reads pairs of texts; a pair is a tuple of two"):
        predict(["alone"])
    refused = aft("export aft --output graph --format torch-export", finished)
    assert refused.code == 2 and "no graph of plain tensors; export it with --format native" in refused.errors


def test_pairs_are_duplicates_only_if_both_sides_are(tmp_path: Path) -> None:
    rows = [("a b", "c"), ("a b", "d"), ("a b", "c"), ("b a", "C"), ("a", "b c")]
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps({"text": a, "other": b}) for a, b in rows))
    source = {"family": "text_table", "path": str(tmp_path / "t.jsonl"), "second_column": "other"}
    for deduplicate, kept in (("none", 5), ("exact", 4), ("token_set", 3)):
        settings = parse(PrepareSettings, {"source": source, "deduplicate": deduplicate}, "dataset")
        assert prepare(settings, tmp_path / "data").rows == kept
    Dataset.open(tmp_path / "data").verify()


def test_an_empty_side_is_a_problem_of_its_row(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text,other\na,b\nc,\n")
    source = {"family": "text_table", "path": str(tmp_path / "t.csv"), "second_column": "other"}
    with pytest.raises(UserError, match=r"1 of 2 rows cannot be read.*line 3.*: empty text"):
        prepare(parse(PrepareSettings, {"source": source}, "dataset"), tmp_path / "data")


@pytest.fixture
def pictures(tmp_path: Path) -> Dataset:
    """Pairs of an image and a text."""
    for n in range(40):
        (tmp_path / f"{n}.png").write_bytes(png(n))
    lines = [f"{n}.png,word{n % 20} it is,{'ab'[n % 2]}" for n in range(40)]
    (tmp_path / "list.csv").write_text("\n".join(["image,caption,label", *lines]))
    source = {
        "family": "image_table",
        "path": str(tmp_path / "list.csv"),
        "second_column": "caption",
        "label_column": "label",
    }
    prepare(parse(PrepareSettings, {"source": source}, "dataset"), tmp_path / "data")
    return Dataset.open(tmp_path / "data")


def test_an_image_and_a_text(pictures: Dataset, encoder: Path, tmp_path: Path) -> None:
    assert pictures.kind == "image+text"
    teacher = transformers.load(transformers.Settings(model=str(encoder)), "float32", CPU)
    seen = pictures.seen_by(teacher.kind, None, "teachers.t")
    assert seen.side == "second" and seen.content([0]) == ["word0 it is"]
    extract(seen, teacher, tmp_path / "s.zarr", ExtractSettings())
    assert len(FeatureStore.open(tmp_path / "s.zarr")) == 40
    cnn = {"family": "compact_cnn", "size": 8, "width": 8}
    settings = pair.Settings(first=cnn, second={"family": "bag_of_words", "width": 8})
    fitted = pair.fit(settings, pictures, np.arange(30))
    student = pair.build(settings, fitted, 2).eval()
    with torch.no_grad():
        features, outputs = student(pair.inputs(settings, fitted, pictures).batch(np.arange(5)))
        decoded = [(pictures.of("first").image(n), pictures.content([n])[0][1]) for n in range(5)]
        again = student(pair.preprocessing(settings, fitted)(decoded))[1]
    assert features.shape == (5, 16) and torch.allclose(outputs, again, atol=1e-5)


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of pairs of an image and a text, with both towers of a dual encoder, through every stage."""
    folder: Path = tmp_path_factory.mktemp("captioned")
    save(folder / "clip", *clip())
    (folder / "raw").mkdir()
    for n in range(60):
        (folder / "raw" / f"{n}.png").write_bytes(png(n))
    words = ["cat", "dog", "hot", "fox", "sketch", "one", "two"]
    texts = [f"a {words[n % 7]} {words[n // 7 % 7]} to {words[n % 5]}" for n in range(60)]
    lines = [f"{n}.png,{text},{'ab'[(n + n % 3) % 2]}" for n, text in enumerate(texts)]
    (folder / "raw" / "list.csv").write_text("\n".join(["photo,caption,label", *lines]) + "\n")
    source = {"family": "image_table", "path": "raw/list.csv", "image_column": "photo", "second_column": "caption"}
    teacher = {"family": "dual_encoder", "model": str(folder / "clip"), "heads": ["projected", "pooled"]}
    sides = {
        "first": {"family": "compact_cnn", "size": 8, "width": 8},
        "second": {"family": "bag_of_words", "width": 8},
    }
    values = {
        "dataset": {"source": source | {"label_column": "label"}, "val": 10, "test": 10},
        "extract": {},
        "teachers": {"seen": teacher, "read": teacher | {"tower": "text"}},
        "probe": {"strengths": [0.01, 1.0]},
        "assess": {},
        "students": {"both": {"family": "pair", **sides}},
        "train": {"steps": 10, "batch_size": 8, "transfer_batch_size": 8, "learning_rate": 0.01, "seeds": [0]},
        "machine": {"device": "cpu"},
        "runs": {
            "aft": {"student": "both", "teachers": ["seen", "read/projected"], "methods": {"aft": {"weight": 0.1}}}
        },
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    commands = ["check", "prepare", "extract seen", "extract read", "probe seen", "probe read", "join"]
    for command in [*commands, "train aft", "evaluate aft", "report", "export aft --output exported"]:
        done = aft(command, folder)
        assert done.code == 0, (command, done.errors)
    return folder


def test_pairs_of_an_image_and_a_text_are_predicted_from_tables(captioned: Path) -> None:
    data = Dataset.open(captioned / "data")
    expected = Predictor(captioned / "runs" / "aft")(data.content(np.arange(60)))
    assert expected.probabilities is not None
    for where in ("aft", "exported"):
        done = aft(f"predict {where} raw/list.csv --output found.csv", captioned)
        assert done.code == 0, done.errors
        with (captioned / "found.csv").open(newline="") as file:
            found = list(csv.DictReader(file))
        assert [row["id"] for row in found] == [str(number) for number in range(1, 61)]
        assert [row["prediction"] for row in found] == list(expected.predictions)
        shares = np.array([[float(row["p_a"]), float(row["p_b"])] for row in found])
        np.testing.assert_allclose(shares, expected.probabilities, atol=1e-5)
    # Other names of columns, the images inside the table, and one that does not decode.
    broken = b"no image"
    contents = [*(first for first, _ in data.content(np.arange(5))), broken]
    pq.write_table(pa.table({"picture": contents, "said": ["a cat"] * 6}), captioned / "new.parquet")
    columns = "--image-column picture --second-column said"
    done = aft(f"predict exported new.parquet {columns} --output new.csv", captioned)
    assert done.code == 1 and "5 rows; 1 not read" in done.out, (done.out, done.errors)
    assert (captioned / "new.csv.unreadable.csv").read_text().splitlines()[1].startswith("6,")


def test_what_pairs_of_an_image_and_a_text_cannot_do_is_one_line(captioned: Path) -> None:
    for command, message in [
        ("predict exported raw", "raw: this student reads pairs of an image and a text; give a table with both"),
        ("predict exported - ", "-: this student reads images"),
        (
            "predict exported raw/list.csv --text-column caption",
            "--text-column: this student reads pairs of image and text; they",
        ),
        ("predict exported raw/list.csv --image-column nothing", "no column 'nothing'"),
        (
            "export aft --output graph --format torch-export",
            "no graph of plain tensors; export it with --format native",
        ),
        ("export aft --output graph --format timm", "as a pair student; use --format native"),
        ("export aft --output graph --format transformers", "as a pair student; use --format native"),
    ]:
        done = aft(command, captioned)
        line = done.errors.splitlines()[-1]
        assert done.code == 2 and message in line, (command, done.errors)
    assert not (captioned / "graph").exists()


@torch.no_grad()
def test_outputs_are_those_of_the_formula() -> None:
    class Linear(Student):
        def __init__(self, width: int):
            super().__init__()
            self.width, self.head = width, torch.nn.Linear(width, 2)

        def forward(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return batch, self.head(batch)

    one, other = Linear(2), Linear(3)
    student = pair.PairStudent([one, other], 2)
    u, v = torch.randn(4, 2), torch.randn(4, 3)
    features, linear = student((u, v))
    assert torch.equal(features, torch.cat([u, v], 1)) and torch.equal(linear, one.head(u) + other.head(v))
    torch.nn.init.normal_(student.products.weight)
    for row in range(4):
        for c in range(2):
            weights = student.products.weight[c]
            product = sum(float(u[row, i] * weights[i, j] * v[row, j]) for i in range(2) for j in range(3))
            assert float(student((u, v))[1][row, c] - linear[row, c]) == pytest.approx(product, abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "side", "message"),
    [
        ("text", "first", "t: it reads text rows, and the dataset holds image.text; choose another"),
        ("features", None, "t: it reads features rows"),
    ],
)
def test_a_side_that_does_not_fit_is_refused(pictures: Dataset, kind: str, side: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        pictures.seen_by(kind, side, "t")


def test_what_does_not_fit_pairs_is_refused(finished: Path, tmp_path: Path) -> None:
    data = Dataset.open(finished / "data")
    with pytest.raises(UserError, match="t: both sides of a pair are text; write `reads: first` or `reads: second`"):
        data.seen_by("text", None, "t")
    with pytest.raises(UserError, match=r"t.reads: first: the dataset holds text rows, not pairs; remove it"):
        data.of("first").seen_by("text", "first", "t")
    refused = aft("extract one -S 'teachers.one.views={family: word_dropout, count: 1}'", finished)
    assert refused.code == 2 and "the dataset holds pairs of texts; remove it" in refused.errors, refused.errors
    for change, message in [
        ({"teachers": {"one": {"family": "transformers", "model": "m", "reads": "third"}}}, "write first or second"),
        ({"students": {"both": {"family": "bag_of_words"}}}, "reads text, and the dataset holds text+text"),
        ({"students": {"both": {"family": "pair", "first": {"family": "bag_of_wrds"}}}}, "did you mean `bag_of_words`"),
        ({"students": {"both": {"family": "pair", "first": {"family": "linear_probe"}}}}, "reads features"),
    ]:
        values = yaml.safe_load((finished / "params.yaml").read_text()) | change
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
        refused = aft("check", tmp_path)
        assert refused.code == 2 and message in refused.errors, refused.errors


def test_code_of_both_sides_is_code_of_a_run(finished: Path) -> None:
    params = Params.load(finished / "params.yaml")
    before = digests(params)["train/aft"]
    params.values["students"]["both"]["second"] = {"family": "transformers", "model": "m"}
    assert digests(params)["train/aft"] != before
