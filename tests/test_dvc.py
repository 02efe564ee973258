"""Real `dvc repro` on a small project: which stages run after which change, and what a kill leaves behind."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import PARAMS, WORDS, write_encoder, write_table

ROOT = Path(__file__).parent.parent
ENVIRONMENT = os.environ | {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
    "DVC_NO_ANALYTICS": "1",
}


def run(*command: str, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def repro(project: Path, *targets: str) -> list[str]:
    """Run `dvc repro` and name the stages that ran, in order."""
    return re.findall(r"Running stage '(\S+)'", run("dvc", "repro", *targets, cwd=project))


def change(project: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    path = project / "params.yaml"
    values = yaml.safe_load(path.read_text())
    edit(values)
    path.write_text(yaml.safe_dump(values, sort_keys=False))


def start(folder: Path, **params: Any) -> Path:
    """A project made by `aft init`, with a table of text and two small encoders for teachers."""
    run(sys.executable, "-m", "cli", "init", str(folder), cwd=ROOT)
    write_table(folder / "raw" / "reviews.csv")
    for name, width in (("wise", 16), ("loud", 8)):
        write_encoder(folder / "models" / name, WORDS, width, layers=1)
    teachers = {name: {"family": "transformers", "model": f"models/{name}"} for name in ("wise", "loud")}
    train = PARAMS["train"] | {"steps": 5, "seeds": [0, 1]}
    values = PARAMS | {"teachers": teachers, "train": train} | params
    (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = start(tmp_path_factory.mktemp("dvc") / "project")
    ran = repro(folder)
    assert sorted(ran) == sorted(
        [
            *("prepare", "extract@wise", "extract@loud", "probe@wise", "probe@loud", "assess", "join"),
            *("train@none", "train@aft", "train@both", "evaluate@none", "evaluate@aft", "evaluate@both", "report"),
        ]
    )
    return folder


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished project, at a like depth, so that its relative paths to the code still hold."""
    copy = finished.parent / tmp_path.name
    shutil.copytree(finished, copy, symlinks=True)
    return copy


def test_a_second_repro_runs_nothing_and_its_metrics_can_be_shown(project: Path):
    assert repro(project) == []
    shown = run("dvc", "metrics", "show", cwd=project)
    assert "aft" in shown
    assert "none" in shown
    assert "index.html" in run("dvc", "plots", "show", cwd=project)


def test_a_new_run_trains_that_run_only(project: Path):
    def add(values: dict[str, Any]) -> None:
        method = {"name": "aft", "weight": [1.0], "task_directions": True}
        values["runs"]["more"] = {"student": "bag", "teachers": ["loud"], "methods": [method]}

    change(project, add)
    assert repro(project) == ["join", "train@more", "evaluate@more", "report"]


def test_a_changed_weight_trains_that_run_only_and_extracts_nothing(project: Path):
    change(project, lambda values: values["runs"]["aft"]["methods"][0].update(weight=[0.0, 5.0]))
    assert repro(project) == ["join", "train@aft", "evaluate@aft", "report"]


def test_a_new_teacher_is_extracted_alone_and_no_run_that_does_not_use_it_is_trained(project: Path):
    write_encoder(project / "models" / "third", WORDS, 12, layers=1)
    change(project, lambda v: v["teachers"].update(third={"family": "transformers", "model": "models/third"}))
    assert repro(project, "train@none", "train@aft", "train@both", "extract@third") == [
        "extract@third",
        "probe@third",
        "join",
    ]
    assert repro(project) == ["assess", "report"]


def test_a_changed_teacher_trains_just_the_runs_that_use_it(project: Path):
    change(project, lambda values: values["teachers"]["loud"].update(pooling="cls"))
    ran = repro(project)
    assert ran == ["extract@loud", "probe@loud", "assess", "join", "train@both", "evaluate@both", "report"]


def test_other_numbers_of_neighbours_assess_again_and_train_nothing(project: Path):
    change(project, lambda values: values["assess"].update(neighbours=[1, 3]))
    assert repro(project) == ["assess", "report"]


def test_other_labels_and_splits_extract_nothing(project: Path):
    change(project, lambda values: values["dataset"].update(labelled=24))
    ran = repro(project, "probe@wise")
    assert ran == ["prepare", "probe@wise"]


def test_a_mistake_in_params_is_one_line_and_leaves_what_was_there(project: Path):
    before = (project / "runs" / "aft" / "run.json").read_bytes()
    change(project, lambda values: values["runs"]["aft"]["methods"][0].update(gats="sigmoid"))
    done = subprocess.run(["dvc", "repro"], cwd=project, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert "runs.aft.methods.aft: unknown key `gats`" in lines[0]
    assert "Traceback" not in done.stderr
    change(project, lambda values: values["runs"]["aft"]["methods"][0].pop("gats"))
    repro(project)
    assert (project / "runs" / "aft" / "run.json").is_file()
    assert len(before) > 0


def test_a_kill_in_the_middle_of_extract_loses_no_finished_shard(tmp_path: Path):
    folder = start(tmp_path / "project", extract={"precision": "float32", "batch_size": 1, "shard_rows": 256})
    write_table(folder / "raw" / "reviews.csv", rows=6000)
    change(folder, lambda values: values["dataset"].update(deduplicate="none"))
    repro(folder, "prepare")
    store = folder / "features" / "wise.zarr"
    process = subprocess.Popen(
        ["dvc", "repro", "extract@wise"], cwd=folder, env=ENVIRONMENT, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while len(finished_shards(store)) < 2:
        assert process.poll() is None, "extraction ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in finished_shards(store)}
    assert 2 <= len(kept) < 24
    output = run("dvc", "repro", "extract@wise", cwd=folder)
    assert "continuing" in output
    assert len(finished_shards(store)) == 24
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def finished_shards(store: Path) -> list[Path]:
    """The commit markers of a store's shards."""
    return sorted(store.glob("pooled/c.*.json"))


def test_bytecode_does_not_make_a_stage_run_again():
    """Folders of code are dependencies, and what was imported last leaves its bytecode in them."""
    root = Path(__file__).parent.parent
    assert "__pycache__/" in (root / ".dvcignore").read_text().splitlines()
