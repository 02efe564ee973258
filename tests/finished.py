"""A small finished project: every stage has run, with a real teacher, and every command that writes is known here."""

import shutil
from pathlib import Path

import yaml

from tests.commands import aft
from tests.conftest import PARAMS, WORDS, write_encoder, write_table

RUNS = {
    "none": {"student": "bag"},
    "probe": {"student": "reader", "teachers": ["wise"]},
    "aft": {"student": "bag", "teachers": ["wise"], "methods": {"aft": {"weight": 3.0}}},
}

SWEEPS = {"small": {"over": {"student": "bag", "train.learning_rate": [0.01, 0.02]}}}

STAGES = {
    "code": ("digests",),
    "prepare": ("data",),
    "extract wise": ("features/wise.zarr", "features/wise.json"),
    "probe wise": ("probes",),
    "assess": ("assessments",),
    "join": ("bundles",),
    "train none": ("runs/none", "trials"),
    "train probe": ("runs/probe", "trials"),
    "train aft": ("runs/aft", "trials"),
    "sweep small": ("sweeps", "trials"),
    "evaluate none": ("evaluations/none.json", "evaluations/none.parquet"),
    "evaluate probe": ("evaluations/probe.json", "evaluations/probe.parquet"),
    "evaluate aft": ("evaluations/aft.json", "evaluations/aft.parquet"),
    "report": ("report",),
}
"""The stages in their order, and what each writes."""

COMMANDS = {
    **STAGES,
    "export aft --output exported": ("exported",),
    "predict exported raw/reviews.csv --output predicted.csv": ("predicted.csv",),
    "features export features/wise.zarr exported.npy": ("exported.npy", "exported.rows.npz"),
    "features import exported.npy --store features/imported.zarr": ("features/imported.zarr",),
    "init new": ("new",),
    "run --direct": (
        "data",
        "features/wise.zarr",
        "features/wise.json",
        "probes",
        "assessments",
        "bundles",
        "trials",
        "runs",
        "sweeps",
        "evaluations",
        "report",
    ),
}
"""All commands that write, and what."""

READING = (
    "check",
    "compare none aft",
    "doctor",
    "features diff features/wise.zarr features/wise.zarr",
    "features gc",
    "features info features/wise.zarr",
    "features ls",
    "features verify features/wise.zarr",
    "list methods",
    "predict aft raw/reviews.csv",
    "runs",
    "runs --sweep small",
    "runs --trials",
    "show aft",
)
"""Commands that only read. `aft trials` and `aft sweep --watch` need a lock, and `aft cost` writes a log."""

RESULTS = (
    "assessments",
    "bundles",
    "data",
    "digests",
    "evaluations",
    "exported",
    "exported.npy",
    "exported.rows.npz",
    "features",
    "new",
    "predicted.csv",
    "probes",
    "runs",
    "sweeps",
)
"""What is the same whenever it is made. The ledger and the report also hold times."""


def finish(root: Path) -> Path:
    """Make the project, and run all commands."""
    root.mkdir(parents=True, exist_ok=True)
    write_table(root / "raw" / "reviews.csv", rows=120)
    write_encoder(root / "models" / "wise", WORDS, width=16, layers=1)
    train = PARAMS["train"] | {"steps": 3, "seeds": [0]}
    dataset = PARAMS["dataset"] | {"splits": 1, "test": 30, "val": 15, "labelled": 15}
    teachers = {"wise": {"family": "transformers", "model": "models/wise"}}
    students = PARAMS["students"] | {"reader": {"family": "linear_probe"}}
    values = PARAMS | {
        "dataset": dataset, "teachers": teachers, "students": students, "train": train, "runs": RUNS,
        "sweep": SWEEPS,
    }  # fmt: skip
    (root / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    for line in COMMANDS:
        if not line.startswith("run"):
            ended = aft(line, root)
            assert ended.code == 0, f"{line}: {ended.errors}"
    return root


def contents(root: Path) -> dict[str, bytes]:
    """Every file of the results, by name. Locks and unfinished files are none."""
    found = {}
    for name in RESULTS:
        for path in [root / name, *(root / name).rglob("*")]:
            below = path.relative_to(root)
            if (
                path.is_file()
                and "locks" not in below.parts
                and ".dvc" not in below.parts
                and path.suffix != ".partial"
            ):
                found[below.as_posix()] = path.read_bytes()
    return found


def remove(root: Path, line: str) -> None:
    """Delete what a command wrote."""
    for name in COMMANDS.get(line, ()):
        path = root / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
