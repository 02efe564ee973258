"""Records of a finished project that somebody has edited, and signed again as somebody does who knows the format."""

import json
import os
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

from pipeline.records import CHECKSUM, to_json
from pipeline.verified import checksums
from tests.store.hostile import TEXTS, replace

from .made import sign_again

ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 0.5, 1e300, 10**12, 10**30, "", "x" * 10_000, "\x1b[2J", "../../up", "=1+1", "a\nb"),
    *([], {}, [[]], {"": {}}, "native", "aft", ["wise"]),
)
"""Values that may stand where another is meant."""

SEEDS = 16

ALL = ("check", "runs", "report")
EVERY = (*ALL, "join", "assess", "train aft", "evaluate aft", "predict aft raw/reviews.csv")
PREDICT = ("predict exported raw/reviews.csv", "predict exported raw/reviews.csv -o new.parquet")
RECORDS: dict[str, Sequence[str]] = {
    "data/manifest.json": (*EVERY, "probe wise", "extract wise", "doctor"),
    "data/digest.json": EVERY,
    "data/content.json": (*ALL, "extract wise"),
    "features/wise.json": ("join", "extract wise"),
    "probes/wise/pooled/probe.json": ("assess", "join", "train aft", "evaluate aft", "report", "check"),
    "assessments/teachers.json": ("report", "assess"),
    "bundles/run/aft.json": ("evaluate aft", "report", "join"),
    "trials/*/trial.json": ("train aft", "train none", "trials", "runs --trials", "sweep small"),
    "trials/*/student.json": ("train aft", "train none", "trials"),
    "runs/aft/run.json": (*ALL, "evaluate aft", "show aft", "compare none aft", PREDICT[0].replace("exported", "aft"),
                          "export aft --output fresh", "cost aft"),
    "runs/aft/gates.json": ("report", "evaluate aft"),
    "runs/aft/digest.json": ("report", "evaluate aft"),
    "runs/aft/students/0/student.json": ("evaluate aft", "predict aft raw/reviews.csv", "cost aft"),
    "evaluations/aft.json": (*ALL, "compare none aft", "evaluate aft"),
    "sweeps/small.json": ("runs --sweep small", "compare small/0 small/1", "report", "sweep small", "join"),
    ".aft/sweeps/small.json": ("sweep small --watch", "sweep small"),
    "logs/aft.train.json": (*ALL, "train aft"),
    "logs/wise.extract.json": (*ALL, "extract wise"),
    "exported/export.json": PREDICT,
    "exported/student.json": PREDICT,
    "digests/params.json": ("code",),
    "digests/train/aft.json": ("code",),
}  # fmt: skip
"""What reads them."""

OTHERS: dict[str, Sequence[str]] = {
    "runs/aft/curves.csv": ("show aft", "report", "evaluate aft", "runs"),
    "runs/aft/students/0/weights.safetensors": (
        "evaluate aft",
        "predict aft raw/reviews.csv",
        "export aft --output fresh",
    ),
    "trials/*/rows.safetensors": ("train aft", "train none", "check"),
    "trials/*/weights.safetensors": ("train aft", "train none"),
    "trials/*/SHA256SUMS": ("train aft", "train none", "trials", "runs --trials"),
    "evaluations/aft.parquet": ("report", "compare none aft", "evaluate aft"),
    "exported/weights.safetensors": PREDICT,
    "exported/README.md": PREDICT,
    "data/quarantine.csv": ("report", "prepare"),
    "data/rows.parquet": EVERY,
    "data/content.arrow": (*EVERY, "extract wise"),
    "raw/reviews.csv": ("prepare", "doctor", *PREDICT),
    "params.yaml": (*EVERY, "code", "prepare"),
    "models/wise/tokenizer.json": ("extract wise -S extract.batch_size=7", "doctor"),
    **dict.fromkeys(
        (f"models/wise/{name}" for name in ("tokenizer_config.json", "model.safetensors")),
        ("extract wise -S extract.batch_size=7",),
    ),
    "models/wise/config.json": ("extract wise -S extract.batch_size=7", "doctor"),
    "probes/wise/pooled/0/probe.safetensors": ("assess", "train aft", "evaluate aft"),
    "probes/wise/pooled/0/linear.npy": ("assess", "train aft", "evaluate aft"),
}
"""Files that are no records, and what reads them."""


def found(project: Path, name: str) -> Path:
    """The first file of a name with `*`."""
    return min(project.glob(name)) if "*" in name else project / name


def signed_again(project: Path, path: Path) -> None:
    """Write the checksums of a file's folder as they are now."""
    top = path.relative_to(project).parts[0]
    if top == "runs" and path.name not in ("run.json", "digest.json"):
        record = project / "runs" / path.relative_to(project).parts[1] / "run.json"
        fields = json.loads(record.read_text())
        fields.pop(CHECKSUM)
        fields["files"] = {name: value for name, value in checksums(record.parent).items() if name in fields["files"]}
        record.write_text(to_json(fields))
    elif top == "trials" and path.name != "SHA256SUMS":
        sums = path.with_name("SHA256SUMS")
        names = [line.split()[1] for line in sums.read_text().splitlines()]
        sums.write_text("".join(f"{sha256((path.parent / n).read_bytes()).hexdigest()}  {n}\n" for n in names))
    elif top == "exported" and path.name != "export.json":
        sign_again(project / "exported")


def edited(name: str, seed: int) -> Callable[[Path], object]:
    """One value of a record is an odd one, or gone, or another's; the record is signed."""

    def change(project: Path) -> None:
        path, random = found(project, name), Random(f"{name} {seed}")
        fields = json.loads(path.read_text())
        signed = fields.pop(CHECKSUM, None) is not None
        edit(random, fields)
        path.write_text(to_json(fields) if signed else json.dumps(fields))
        signed_again(project, path)

    return change


def edit(random: Random, record: Any) -> None:
    """Put an odd value into one place of a record, or take it away, or put another's there."""
    key = random.choice(list(record) if isinstance(record, dict) else range(len(record)))
    if isinstance(record[key], dict | list) and record[key] and random.random() < 0.8:
        edit(random, record[key])
    elif random.random() < 0.2:
        del record[key]
    elif random.random() < 0.3:
        record[key] = random.choice(list(record.values()) if isinstance(record, dict) else record)
    elif isinstance(record[key], int | float) and random.random() < 0.5:
        record[key] = random.choice([record[key] + 1, -record[key], record[key] * 1000])
    else:
        record[key] = random.choice(ODD)


def reworded(name: str, text: str) -> Callable[[Path], object]:
    """The text of a file is changed, and what holds its checksum is signed again."""

    def change(project: Path) -> None:
        path = found(project, name)
        path.write_bytes(TEXTS[text](path.read_bytes()))
        signed_again(project, path)

    return change


def replaced(name: str, kind: str) -> Callable[[Path], object]:
    """Something else is where a file was."""
    return lambda project: replace(found(project, name), kind)


def unreadable(name: str) -> Callable[[Path], object]:
    """A file belongs to somebody else."""

    def change(project: Path) -> None:
        os.chown(found(project, name), 0, 0)
        found(project, name).chmod(0)

    return change
