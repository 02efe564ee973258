"""Trained students on disk: what is wrong with one is said in a line."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data.dataset import Dataset
from pipeline.errors import UserError
from pipeline.students import load_student, predict, save_student, student_outputs, student_recipe

CPU = torch.device("cpu")


@pytest.fixture
def saved(project: Path) -> Path:
    data = Dataset.open(project / "data")
    recipe = student_recipe({"family": "bag_of_words", "width": 8}, "students.bag", data, data.split(0).train)
    save_student(project / "student", recipe, recipe.build())
    return project / "student"


def test_loading_puts_a_student_in_evaluation_mode(saved: Path):
    assert not load_student(saved)[1].training


def test_predicting_leaves_a_student_in_the_mode_it_was_in(saved: Path, project: Path):
    data = Dataset.open(project / "data")
    recipe, student = load_student(saved)
    student.train()
    predict(student, recipe.inputs(data), np.arange(3), CPU)
    assert student.training


def test_many_batches_give_what_one_gives(saved: Path, project: Path):
    data = Dataset.open(project / "data")
    recipe, student = load_student(saved)
    rows = np.arange(len(data))[::-1].copy()
    inputs = recipe.inputs(data)
    small = [logits for _, logits in student_outputs(student, inputs, rows, CPU, batch_size=7)]
    assert np.allclose(torch.cat(small).numpy(), predict(student, inputs, rows, CPU), atol=1e-6)


def test_a_missing_one_says_what_to_run(tmp_path: Path):
    with pytest.raises(UserError, match="train the student first"):
        load_student(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["student.json", "weights.safetensors"])
def test_a_truncated_one_is_damaged(saved: Path, name: str):
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="damaged checkpoint") as caught:
        load_student(saved)
    assert "\n" not in str(caught.value)


def test_weights_of_another_student_are_refused(saved: Path, project: Path):
    data = Dataset.open(project / "data")
    recipe = student_recipe({"family": "bag_of_words", "width": 12}, "students.bag", data, data.split(0).train)
    save_student(project / "other", recipe, recipe.build())
    (project / "other" / "weights.safetensors").replace(saved / "weights.safetensors")
    with pytest.raises(UserError, match="weights of another student"):
        load_student(saved)


def test_other_classes_are_refused(saved: Path):
    with pytest.raises(UserError, match="other classes"):
        load_student(saved, ("cat", "dog", "fish"))
