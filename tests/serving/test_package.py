"""Exports: checked in a fresh process, whole or not there, and enough by themselves."""

import shutil
from concurrent.futures.process import BrokenProcessPool
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data import Dataset
from pipeline.errors import UserError
from pipeline.exports import native
from pipeline.params import Params
from pipeline.predict import EXPORT, Predictor
from pipeline.project import Project
from pipeline.records import RunRecord
from pipeline.serving import export, package
from pipeline.training import session, train

from ..conftest import PARAMS


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare in this process, which takes no time to start."""

    class Here:
        def __init__(self, *arguments: object, **options: object):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def submit(self, function, *arguments):
            self.result = lambda: function(*arguments)
            return self

    monkeypatch.setattr(package, "ProcessPoolExecutor", Here)


def test_an_export_needs_nothing_but_itself(trained_project: Path, tmp_path: Path):
    done = export("none", Params(PARAMS), Project(trained_project), tmp_path / "out")
    data = Dataset.open(trained_project / "data")
    texts = data.content(data.split(0).test)
    expected = Predictor(trained_project / "runs" / "none")(texts).outputs
    moved = Path(shutil.copytree(tmp_path / "out", tmp_path / "elsewhere" / "student"))
    for file in moved.iterdir():
        file.chmod(0o444)
    moved.chmod(0o555)
    assert np.array_equal(Predictor(moved)(texts).outputs, expected)
    assert done.record.compared == 90
    assert done.record.largest_difference < 1e-5
    assert sorted(path.name for path in moved.iterdir()) == [
        "README.md", EXPORT, "student.json", "weights.safetensors",
    ]  # fmt: skip
    card = (moved / "README.md").read_text()
    for part in ("bag_of_words", "bad, good, plain", "text_table `reviews.csv`", "labels alone", "accuracy", "torch 2"):
        assert part in card
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_model_that_differs_is_refused_with_the_difference(trained_project, tmp_path: Path, monkeypatch, in_process):
    load = native.load

    def shifted(*arguments):
        model = load(*arguments)
        return lambda batch: model(batch) + np.float32([0, 0, 0.25])

    monkeypatch.setattr(native, "load", shifted)
    with pytest.raises(UserError, match=r"--format native: the exported model differs from the student by 0.25 in an"):
        export("none", Params(PARAMS), Project(trained_project), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_outputs_that_are_not_numbers_are_refused(trained_project, tmp_path: Path, monkeypatch, in_process):
    load = native.load
    monkeypatch.setattr(native, "load", lambda *arguments: lambda batch: load(*arguments)(batch) * np.nan)
    with pytest.raises(UserError, match="differs from the student by nan"):
        export("none", Params(PARAMS), Project(trained_project), tmp_path / "out")


def test_a_check_that_is_killed_is_one_line_and_leaves_nothing(trained_project, tmp_path, monkeypatch, in_process):
    def killed(folder: Path, contents: object) -> None:
        raise BrokenProcessPool

    monkeypatch.setattr(package, "outputs_of", killed)
    with pytest.raises(UserError, match=r"--format native: the process that loads the export to check it was killed"):
        export("none", Params(PARAMS), Project(trained_project), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_export_is_replaced_and_nothing_else(trained_project: Path, tmp_path: Path, in_process):
    def again(seed: int = 0) -> None:
        export("none", Params(PARAMS), Project(trained_project), tmp_path / "out", seed=seed)

    again()
    before = (tmp_path / "out" / EXPORT).read_bytes()
    again()
    assert (tmp_path / "out" / EXPORT).read_bytes() == before, "the same student gives the same bytes"
    again(seed=1)
    assert (tmp_path / "out" / EXPORT).read_bytes() != before
    (tmp_path / "out" / EXPORT).rename(tmp_path / "out" / "mine.json")
    with pytest.raises(UserError, match="holds something other than an export; choose another folder"):
        again()
    assert (tmp_path / "out" / "mine.json").exists()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="something other than an export"):
        export("none", Params(PARAMS), Project(trained_project), tmp_path / "file")
    with pytest.raises(UserError, match=r"no folder .*/no; make it first"):
        export("none", Params(PARAMS), Project(trained_project), tmp_path / "no" / "out")


@pytest.mark.parametrize("run", ["none", "both"])
def test_a_refit_also_learns_from_the_labels_of_validation_rows(made_project: Path, tmp_path: Path, in_process, run):
    project = Project(Path(shutil.copytree(made_project, tmp_path / "project")))
    params = Params(PARAMS | {"train": PARAMS["train"] | {"steps": 5, "seeds": [1]}})
    train(run, params, project)
    before = {path: path.read_bytes() for path in project.run(run).rglob("*") if path.is_file()}
    seen = []
    read = session.TrialData

    def kept(*arguments):
        seen.append(read(*arguments))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "TrialData", kept)
        done = export(run, params, project, tmp_path / "refit", again=True)
    export(run, params, project, tmp_path / "plain")
    assert done.record.refit
    assert "with the labels of validation rows too" in (tmp_path / "refit" / "README.md").read_text()
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("refit", "plain")]
    assert weights[0] != weights[1]
    data = Dataset.open(project.data)
    split = data.split(1)
    known = np.flatnonzero(seen[-1].labels != data.task.missing)
    assert known.tolist() == sorted([*split.labelled, *split.val])
    assert {path: path.read_bytes() for path in project.run(run).rglob("*") if path.is_file()} == before
    # Other threads of torch, as on a machine with other cores, would round sums in another way.
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    again = export(run, params, project, tmp_path / "again", again=True)
    assert torch.get_num_threads() == threads + 1
    torch.set_num_threads(threads)
    assert (again.path / "weights.safetensors").read_bytes() == weights[0], "the same inputs give the same bytes"


def test_what_cannot_be_exported_is_one_line(trained_project: Path, tmp_path: Path):
    params, project = Params(PARAMS), Project(trained_project)
    for name, options, message in (
        ("aft", {}, "run `aft train aft`"),
        ("none", {"seed": 9}, "runs/none: no seed 9; it was trained with 0, 1, 2"),
        ("none", {"format": "onx"}, "did you mean `onnx`"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            export(name, params, project, tmp_path / "out", **options)
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_refit_lasts_as_long_as_early_stopping_kept(made_project: Path, tmp_path: Path, in_process):
    project = Project(Path(shutil.copytree(made_project, tmp_path / "project")))
    changes = {"steps": 40, "seeds": [1], "early_stopping": 2, "learning_rate": 0.1}
    params = Params(PARAMS | {"train": PARAMS["train"] | changes})
    train("none", params, project)
    kept = RunRecord.read(project.run("none") / "run.json").diagnostics[0].kept
    assert kept is not None and 0 < kept < 40
    refits = import_module("pipeline.training.refit")
    done, whole = [], refits.run_trial

    def following(*given, **named):
        training = whole(*given, **named)
        while True:
            try:
                done.append(next(training))
            except StopIteration as stop:
                return stop.value
            yield done[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(refits, "run_trial", following)
        export("none", params, project, tmp_path / "refit", again=True)
    assert sum(done) == kept
