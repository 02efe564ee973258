"""`aft doctor`: each line is ok, a warning or a problem, and only problems change the exit code."""

import csv
import json
import re
import resource
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from pipeline import doctor as module

from .conftest import WORDS, write_encoder

Aft = Callable[..., Any]


@pytest.fixture
def healthy(project: Path, tmp_path: Path) -> Path:
    """The small project with weights for its teacher."""
    edit(project, lambda values: values["teachers"].pop("loud"))
    edit(project, lambda values: values["runs"].pop("both"))
    edit(project, lambda values: values["teachers"]["wise"].update(model=str(write_encoder(tmp_path / "m", WORDS))))
    return project


@pytest.fixture
def pictures(project: Path) -> Path:
    """A project of images of two classes in train and test, the data not prepared."""
    random = np.random.default_rng(0)
    for split, name in (("train", "a"), ("train", "b"), ("test", "a"), ("test", "b")):
        (project / "raw" / "images" / split / name).mkdir(parents=True)
        for number in range(12):
            pixels = random.integers(0, 255, (40 + number, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(project / "raw" / "images" / split / name / f"{number}.png")
    settings = {
        "dataset": {"source": {"family": "image_folder", "path": "raw/images"}},
        "teachers": {},
        "students": {"cnn": {"family": "compact_cnn"}},
        "runs": {"none": {"student": "cnn"}},
    }
    edit(project, lambda values: values.update(settings))
    return project


def edit(project: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = yaml.safe_load((project / "params.yaml").read_text())
    change(values)
    (project / "params.yaml").write_text(yaml.safe_dump(values))


def diagnose(aft: Aft, exit_code: int = 0) -> dict[str, list[tuple[str, str, str]]]:
    """Level, finding and advice of everything that was looked at."""
    done = aft("doctor", "--json")
    assert done.returncode == exit_code, done.stdout + done.stderr
    found: dict[str, list[tuple[str, str, str]]] = {}
    for finding in json.loads(done.stdout)["findings"]:
        found.setdefault(finding["about"], []).append((finding["level"], finding["found"], finding["advice"]))
    return found


def test_a_healthy_project_has_no_problem_and_nothing_is_written(healthy: Path, aft: Aft):
    before = {path: path.stat().st_mtime_ns for path in healthy.rglob("*")}
    found = diagnose(aft)
    assert {path: path.stat().st_mtime_ns for path in healthy.rglob("*")} == before
    expected = {
        "versions", "device", "memory", "limits", "data", "unreadable rows", "classes", "duplicates", "teacher wise",
        "disk",
    }  # fmt: skip
    assert expected <= set(found)
    assert found["data"] == [("ok", "240 texts, 216 with a label (classification)", "")]
    assert found["classes"] == [("ok", "3, 72 rows each", "")]
    assert found["unreadable rows"] == [("ok", "none", "")]
    levels = [finding[0] for finding in found["teacher wise"]]
    assert levels == ["ok", "ok"]
    assert "pooled 32" in found["teacher wise"][0][1]
    assert found["teacher wise"][1][1] == "texts have 10 tokens, 95 % of them up to 10; max_length 48 cuts 0%"
    lines = aft("doctor").stdout.splitlines()
    assert all(line.split()[0] in ("ok", "warning", "problem") for line in lines)


def test_a_problem_has_exit_code_1_and_a_line_that_says_what_to_do(project: Path, aft: Aft):
    found = diagnose(aft, exit_code=1)
    ((level, line, _),) = found["teacher wise"]
    assert level == "problem"
    assert "m: no such folder" in line
    assert found["data"][0][0] == "ok"  # it goes on after a problem


def test_settings_that_cannot_be_read_have_exit_code_2(project: Path, aft: Aft):
    edit(project, lambda values: values["train"].update(step=1))
    assert aft("doctor").returncode == 2


def test_texts_that_are_cut_are_counted(healthy: Path, aft: Aft):
    edit(healthy, lambda values: values["teachers"]["wise"].update(max_length=8))
    level, line, advice = diagnose(aft)["teacher wise"][-1]
    assert (level, line.partition("; ")[2]) == ("warning", "max_length 8 cuts 100% of them")
    assert "raise max_length" in advice


def test_classes_that_are_rare_or_uneven(healthy: Path, aft: Aft):
    def write(*numbers: int) -> None:
        with (healthy / "raw" / "reviews.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["id", "text", "mood"])
            rows = [(name, row) for name, number in zip("ab", numbers, strict=True) for row in range(number)]
            table.writerows([f"{name}{row}", f"word{row % 60} {name} {row}", name] for name, row in rows)

    write(9, 60)
    assert diagnose(aft)["classes"][0][:2] == (
        "warning", "2, from 9 rows (a) to 60 (b): fewer than 10 are too few for every part of a split",
    )  # fmt: skip
    write(10, 501)
    level, line, advice = diagnose(aft)["classes"][0]
    assert (level, line) == ("warning", "2, from 10 rows (a) to 501 (b): uneven")
    assert "class_weights" in advice


def test_images_that_cannot_be_read_and_their_sizes(pictures: Path, aft: Aft):
    assert diagnose(aft)["images"] == [("ok", "from 30 x 40 to 30 x 51 pixels, half of them up to 30 x 46", "")]
    (pictures / "raw" / "images" / "train" / "a" / "0.png").write_bytes(b"no image")
    level, line, advice = diagnose(aft, exit_code=1)["unreadable rows"][0]
    assert level == "problem"
    assert line.startswith("1 of 48, the first is ")
    assert "not an image" in line
    assert "dataset.tolerance" in advice
    edit(pictures, lambda values: values["dataset"].update(tolerance=0.1))
    assert diagnose(aft)["unreadable rows"][0][0] == "warning"


def test_weights_of_students_are_looked_at(healthy: Path, aft: Aft, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = healthy / "m"
    write_encoder(folder, WORDS)
    students = {
        "there": {"family": "transformers", "model": str(folder)},
        "far": {"family": "transformers", "model": "nobody/has-this"},
        "probe": {"family": "linear_probe"},
    }
    edit(healthy, lambda values: values["students"].update(students))
    found = diagnose(aft, exit_code=1)
    for name in ("bag", "there"):
        level, line, _ = found[f"student {name}"][0]
        assert level == "ok" and re.fullmatch(r"built in \d+ s: [\d,]+ parameters", line)
    level, line, _ = found["student far"][0]
    assert level == "problem" and "nobody/has-this" in line and "HF_HUB_OFFLINE" in line
    assert "student probe" not in found
    (folder / "model.safetensors").unlink()
    (healthy / "data").rename(healthy / "away")
    assert diagnose(aft)["student there"][0][:2] == ("warning", "not built, as it learns from the prepared data")
    (healthy / "away").rename(healthy / "data")
    assert diagnose(aft, exit_code=1)["student there"][0][0] == "problem"


def test_duplicates_across_splits(pictures: Path, aft: Aft):
    folder = pictures / "raw" / "images"
    (folder / "test" / "a" / "again.png").write_bytes((folder / "train" / "a" / "3.png").read_bytes())
    level, line, _ = diagnose(aft)["duplicates"][0]
    assert (level, line) == ("warning", "1 repeated row; 1 content in more than one split of the source")
    edit(pictures, lambda values: values["dataset"].update(deduplicate="none"))
    assert diagnose(aft, exit_code=1)["duplicates"][0][0] == "problem"


def test_a_label_that_is_refused_is_a_problem(healthy: Path, aft: Aft):
    table = healthy / "raw" / "reviews.csv"
    table.write_text(table.read_text().replace(",bad\n", ",none\n"))
    ((level, line, _),) = diagnose(aft, exit_code=1)["data"]
    assert level == "problem"
    assert "looks like none" in line


def test_machine_of_little_memory_few_files_and_a_network_file_system(
    healthy: Path, aft: Aft, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "available_memory", lambda: 1 << 30)
    monkeypatch.setattr(module, "_file_system", lambda folder: "nfs4")
    monkeypatch.setattr(resource, "getrlimit", lambda name: (256, 256))
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1000))
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(module, "_has_bfloat16", lambda: False)
    edit(healthy, lambda values: values["extract"].update(precision="bfloat16"))
    (healthy / "features").rename(healthy / "away")
    found = diagnose(aft, exit_code=1)  # the features do not fit on the disk
    assert found["memory"][0][0] == found["file system"][0][0] == found["precision"][0][0] == "warning"
    assert [level for level, _, _ in found["limits"]] == ["warning"] * 3
    assert found["disk"][0][0] == "problem"
    assert found["device"][0][0] == ("ok" if "cuda" in found["device"][0][1] else "warning")


def test_the_file_system_of_a_folder_is_that_of_the_innermost_mount(tmp_path: Path):
    assert module._file_system(Path("/proc")) == "proc"
    assert module._file_system(tmp_path) not in (None, "proc")
