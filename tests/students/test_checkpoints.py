"""Trained students on disk: the same bytes for the same student, and one line for a damaged one."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data import Dataset
from pipeline.errors import UserError
from pipeline.records import from_json, to_json
from pipeline.students import load_student, predict, save_student, student_blueprint, student_outputs

CPU = torch.device("cpu")


@pytest.fixture
def saved(project: Path) -> Path:
    data = Dataset.open(project / "data")
    blueprint = student_blueprint({"family": "bag_of_words", "width": 8}, "students.bag", data, data.split(0).train)
    save_student(project / "student", blueprint, blueprint.build())
    return project / "student"


def test_loading_puts_a_student_in_evaluation_mode(saved: Path):
    assert not load_student(saved)[1].training


def test_predicting_leaves_a_student_in_the_mode_it_was_in(saved: Path, project: Path):
    data = Dataset.open(project / "data")
    blueprint, student = load_student(saved)
    student.train()
    predict(student, blueprint.inputs(data), np.arange(3), CPU)
    assert student.training


def test_many_batches_give_what_one_gives(saved: Path, project: Path):
    data = Dataset.open(project / "data")
    blueprint, student = load_student(saved)
    rows = np.arange(len(data))[::-1].copy()
    inputs = blueprint.inputs(data)
    small = [logits for _, logits in student_outputs(student, inputs, rows, CPU, batch_size=7)]
    assert np.allclose(torch.cat(small).numpy(), predict(student, inputs, rows, CPU), atol=1e-6)


def test_a_missing_one_says_what_to_run(tmp_path: Path):
    with pytest.raises(UserError, match=r"student\.json: no such file; run `aft train RUN`"):
        load_student(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["student.json", "weights.safetensors"])
def test_a_truncated_one_is_damaged(saved: Path, name: str):
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"damaged, or .*; run `aft train RUN` again") as caught:
        load_student(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["family", "settings", "fitted", "classes", "vocabulary", "weights"])
def test_one_with_a_missing_key_is_damaged(saved: Path, project: Path, key: str):
    values = from_json((saved / "student.json").read_bytes())
    del (values if key in values else values["fitted"])[key]
    (saved / "student.json").write_text(to_json(values))  # with a checksum that fits
    with pytest.raises(UserError, match=r"damaged, or of another version.*; run `aft train RUN` again") as caught:
        load_student(saved)[0].inputs(Dataset.open(project / "data"))
    assert "\n" not in str(caught.value)


def test_one_without_weights_says_what_to_run(saved: Path):
    (saved / "weights.safetensors").unlink()
    with pytest.raises(UserError, match=r"weights\.safetensors: no such file; run `aft train RUN`"):
        load_student(saved)


def test_the_same_student_gives_the_same_bytes_in_another_process(saved: Path):
    code = """
import sys
from pathlib import Path
from pipeline.students import load_student, save_student
save_student(Path(sys.argv[2]), *load_student(Path(sys.argv[1])))
"""
    for number in range(2):
        again = saved.parent / f"again{number}"
        subprocess.run([sys.executable, "-c", code, str(saved), str(again)], check=True)
        for name in ("student.json", "weights.safetensors"):
            assert (again / name).read_bytes() == (saved / name).read_bytes()


def test_weights_of_another_student_are_refused(saved: Path, project: Path):
    data = Dataset.open(project / "data")
    blueprint = student_blueprint({"family": "bag_of_words", "width": 12}, "students.bag", data, data.split(0).train)
    save_student(project / "other", blueprint, blueprint.build())
    (project / "other" / "weights.safetensors").replace(saved / "weights.safetensors")
    with pytest.raises(UserError, match=r"damaged, or of another version .*size mismatch"):
        load_student(saved)


def test_other_classes_are_refused(saved: Path):
    with pytest.raises(UserError, match="other outputs"):
        load_student(saved, ("cat", "dog", "fish"))
