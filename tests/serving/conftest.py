"""A small project with a run that was trained and evaluated, and datasets of every task."""

import shutil
from pathlib import Path

import pytest

from pipeline.data import Dataset, PrepareSettings, prepare
from pipeline.params import Params
from pipeline.project import Project
from pipeline.training import evaluate, train

from ..conftest import PARAMS
from ..students.conftest import write_pictures

LABELS = {"classification": "bad good plain", "regression": "1.5 2.5 8", "multilabel": "a;b a b;c"}


@pytest.fixture(scope="session")
def trained_project(made_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the run `none` trained and evaluated."""
    root = Path(shutil.copytree(made_project, tmp_path_factory.mktemp("trained") / "project"))
    params = Params(PARAMS)
    train("none", params, Project(root))
    evaluate("none", params, Project(root))
    return root


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_pictures(tmp_path_factory.mktemp("pictures"), 40)


@pytest.fixture(scope="session")
def texts_of(tmp_path_factory: pytest.TempPathFactory):
    """Texts with labels of a task."""
    made: dict[str, Dataset] = {}

    def texts(task: str) -> Dataset:
        if task not in made:
            root = tmp_path_factory.mktemp(task)
            labels = LABELS[task].split()
            lines = [f"word{n % 7} word{n % 5} row{n},{labels[n % 3]}" for n in range(60)]
            (root / "t.csv").write_text("\n".join(["text,label", *lines]) + "\n")
            source = {"family": "text_table", "path": str(root / "t.csv"), "label_column": "label"}
            source |= {"label_separator": ";"} if task == "multilabel" else {}
            unit = "kWh" if task == "regression" else ""
            prepare(PrepareSettings(source=source, task=task, unit=unit, val=12, test=12), root / "data")
            made[task] = Dataset.open(root / "data")
        return made[task]

    return texts
