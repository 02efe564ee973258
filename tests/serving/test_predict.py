"""Predictions of new rows are those of evaluation, whatever form the rows come in."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data import Dataset
from pipeline.errors import UserError
from pipeline.predict import EXPORT, Predictor
from pipeline.records import ExportRecord, RunRecord
from pipeline.students import load_student, predict
from stages import entry
from stages.app import app

from .made import CPU, made_export

BAG = {"family": "bag_of_words", "width": 8}


def test_a_run_predicts_exactly_what_evaluation_does(trained_project: Path):
    data = Dataset.open(trained_project / "data")
    rows = data.split(1).test
    blueprint, student = load_student(trained_project / "runs" / "none" / "students" / "1")
    expected = predict(student, blueprint.inputs(data), rows, CPU)
    found = Predictor(trained_project / "runs" / "none", seed=1, device="cpu")(data.content(rows))
    assert np.array_equal(found.outputs, expected)
    assert found.predictions == [("bad", "good", "plain")[number] for number in expected.argmax(1)]
    assert found.probabilities is not None
    assert np.allclose(found.probabilities, np.exp(expected) / np.exp(expected).sum(1, keepdims=True))


def test_by_default_it_is_the_student_that_is_best_on_validation_rows(trained_project: Path):
    record = RunRecord.read(trained_project / "runs" / "none" / "run.json")
    scores = dict(zip(record.seeds, record.candidates[0].finite, strict=True))
    assert record.best_seed == max(scores, key=scores.__getitem__)
    texts = ["good1 word2", "bad4 bad5 word9"]
    best = Predictor(trained_project / "runs" / "none", seed=record.best_seed)(texts)
    assert np.array_equal(Predictor(trained_project / "runs" / "none")(texts).outputs, best.outputs)
    for lower in (True, False):
        metric = record.metric.model_copy(update={"higher_is_better": not lower})
        assert scores[record.model_copy(update={"metric": metric}).best_seed] == (min if lower else max)(
            scores.values()
        )


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
    return image


def test_images_may_be_paths_bytes_opened_or_pixels(pictures: Dataset, tmp_path: Path):
    blueprint, student = made_export(tmp_path / "export", {"family": "compact_cnn", "width": 16, "size": 16}, pictures)
    rows = np.arange(12)
    expected = predict(student, blueprint.inputs(pictures), rows, CPU)
    predictor = Predictor(tmp_path / "export", device="cpu")
    paths = [pictures.path.parent / "raw" / str(pictures.ids[row]) for row in rows]
    forms = {
        "paths": paths,
        "texts": [str(path) for path in paths],
        "bytes": pictures.content(rows),
        "opened": [opened(path) for path in paths],
        "pixels": [np.asarray(opened(path)) for path in paths],
    }
    for form, given in forms.items():
        assert np.array_equal(predictor(given).outputs, expected), form


@pytest.mark.parametrize("task", ["classification", "regression", "multilabel"])
def test_predictions_are_in_the_terms_of_the_task(task: str, texts_of, tmp_path: Path):
    data = texts_of(task)
    blueprint, student = made_export(tmp_path / "export", BAG, data)
    rows = data.split(0).test
    outputs = predict(student, blueprint.inputs(data), rows, CPU)
    found = Predictor(tmp_path / "export", device="cpu")(data.content(rows))
    assert np.array_equal(found.outputs, outputs)
    assert found.classes == data.task.outputs
    if task == "regression":
        assert abs(outputs.mean() - data.labels.mean()) < 2 * data.labels.std(), "not in the unit of the labels"
        assert found.predictions == outputs[:, 0].tolist()
        assert found.probabilities is None
    elif task == "multilabel":
        assert found.predictions[0] == tuple(n for n, x in zip("abc", outputs[0], strict=True) if x > 0)
        assert np.allclose(found.probabilities, 1 / (1 + np.exp(-outputs)))
    else:
        assert found.predictions[0] == ("bad", "good", "plain")[outputs[0].argmax()]


def test_no_rows_are_no_predictions(texts_of, tmp_path: Path):
    made_export(tmp_path / "export", BAG, texts_of("classification"))
    found = Predictor(tmp_path / "export")([])
    assert (len(found), found.predictions, found.outputs.shape) == (0, [], (0, 3))


def test_a_row_that_cannot_be_read_is_named(texts_of, pictures: Dataset, tmp_path: Path):
    made_export(tmp_path / "texts", BAG, texts_of("classification"))
    made_export(tmp_path / "images", {"family": "compact_cnn", "width": 8, "size": 8}, pictures)
    (tmp_path / "notes.txt").write_text("no image")
    for folder, rows, message in (
        ("texts", ["fine", " "], "row 1: empty text"),
        ("texts", ["half \ud800"], "row 0: not text in UTF-8, or with half a character"),
        ("texts", [Path("a.png")], "row 0: this student reads texts, not PosixPath"),
        ("images", [tmp_path / "notes.txt"], "row 0: not an image"),
        ("images", [tmp_path / "none.png"], "none.png: cannot be read: No such file"),
        ("images", [tmp_path], "is a folder"),
        ("images", [np.zeros((4, 4))], "row 0: pixels of type float64"),
        ("images", [np.zeros(4, np.uint8)], r"row 0: pixels of shape \[4\]"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            Predictor(tmp_path / folder, device="cpu")(rows)
        assert "\n" not in str(caught.value)


def test_a_changed_or_foreign_export_is_refused(texts_of, tmp_path: Path):
    folder = tmp_path / "export"
    made_export(folder, BAG, texts_of("classification"))
    record = ExportRecord.read(folder / EXPORT)
    record.model_copy(update={"version": 99}).write(folder / EXPORT)
    with pytest.raises(UserError, match="has version 99 instead of 1; export the run again"):
        Predictor(folder)
    record.write(folder / EXPORT)
    weights = bytearray((folder / "weights.safetensors").read_bytes())
    weights[-2] ^= 1
    (folder / "weights.safetensors").write_bytes(weights)
    with pytest.raises(UserError, match=r"weights.safetensors: damaged; export the run again"):
        Predictor(folder)


@pytest.mark.parametrize("outputs", [("good", "bad", "plain"), ("bad", "good"), ("bad", "good", "=1+1")])
def test_other_names_of_classes_than_the_students_are_refused(texts_of, tmp_path: Path, outputs: tuple[str, ...]):
    folder = tmp_path / "export"
    made_export(folder, BAG, texts_of("classification"))
    record = ExportRecord.read(folder / EXPORT)
    assert set(record.outputs) == {"bad", "good", "plain"}
    record.model_copy(update={"outputs": outputs}).write(folder / EXPORT)
    with pytest.raises(UserError, match=r"student\.json: a student of other outputs than .* says"):
        Predictor(folder)


def test_a_table_is_read_as_the_options_say(
    trained_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "new.csv").write_bytes('n;text\n1;a "fine caf\xe9\n2;bad, day"\n'.encode("latin-1"))
    (tmp_path / "same.csv").write_text('text\n"a ""fine café"\n"bad, day"""\n', encoding="utf-8")
    options = {"new": ["--delimiter", ";", "--quotes", "none", "--encoding", "latin-1"], "same": []}
    monkeypatch.chdir(trained_project)
    for name, given in options.items():
        files = [str(tmp_path / f"{name}.csv"), "--output", str(tmp_path / f"{name}.out.csv")]
        monkeypatch.setattr(sys, "argv", ["aft", "predict", "none", *files, *given, "--device", "cpu"])
        with pytest.raises(SystemExit) as end:
            entry.run(app, "aft")
        assert end.value.code == 0
    found = (tmp_path / "new.out.csv").read_text()
    assert len(found.splitlines()) == 3
    assert found == (tmp_path / "same.out.csv").read_text()
