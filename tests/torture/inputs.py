"""What the matrix tries: changes to a finished project, and the commands that read what is changed."""

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.commands import aft
from tests.store.hostile import KINDS as INSTEAD
from tests.store.hostile import STORES, TEXTS, replace
from tests.store.odd_files import FORMATS

from .edits import OTHERS, RECORDS, SEEDS, edited, replaced, reworded, unreadable
from .made import SOURCES

Change = Callable[[Path], object]
"""Changes a finished project; see `tests/finished.py`."""

UNREADABLE = "may not be read"
"""How changes begin that need a user without privileges."""

ON_STORES = tuple(
    line.strip()
    for line in """
    features ls features
    features info features/wise.zarr
    features verify features/wise.zarr
    features verify features/wise.zarr --recompute 4
    features diff features/wise.zarr features/imported.zarr
    features gc features
    features gc features --delete
    features export features/wise.zarr out.npy
    features import exported.npy --store features/wise.zarr
    check
    doctor
    extract wise
    probe wise
    assess
    join
    train aft
    train probe
    evaluate aft
    evaluate probe
    report
    """.strip().splitlines()
)
"""All commands that open a store."""


def _of_store(change: Callable[[Path], object]) -> Change:
    return lambda project: change(project / "features" / "wise.zarr")


def _may_not_be_read(name: str) -> Change:
    def change(project: Path) -> None:
        os.chown(project / name, 0, 0)
        (project / name).chmod(0)

    return change


def _stores() -> dict[str, tuple[Change, Sequence[str]]]:
    stores = {what: (_of_store(change), ON_STORES) for what, change in STORES.items()}
    names = ("", "/zarr.json", "/pooled", "/pooled/zarr.json", "/pooled/c.0.0", "/pooled/c.0.json", "/rows")
    return stores | {
        f"{UNREADABLE}: {name or '.'}": (_may_not_be_read(f"features/wise.zarr{name}"), ON_STORES) for name in names
    }


def add_inputs(project: Path) -> None:
    """What the finished project of other tests lacks: features in every format, and sources of every family."""
    for format in FORMATS:
        aft(f"features export features/wise.zarr x.{format}", project)
    for make in SOURCES.values():
        make(project / "raw")


def _imports(format: str) -> dict[str, tuple[Change, Sequence[str]]]:
    name = f"x.{format}"
    lines = (
        f"features import {name} --store new.zarr",
        f"extract own -S 'teachers.own={{family: features, path: {name}}}'",
    )
    return {what: (lambda project, make=make: make(project / name), lines) for what, make in FORMATS[format].items()}


def _sources() -> dict[str, tuple[Change, Sequence[str]]]:
    found: dict[str, tuple[Change, Sequence[str]]] = {}
    for source, make in SOURCES.items():
        with tempfile.TemporaryDirectory() as folder:
            settings, file = make(Path(folder))
            name = f"raw/{file.relative_to(folder)}"
        dataset = {"source": settings, "splits": 1, "val": 4, "test": 4, "labelled": 4, "task": "classification"}
        lines = (f"prepare -S 'dataset={json.dumps(dataset)}'",)
        changes = {kind: replaced(name, kind) for kind in INSTEAD} | {
            "a name that is not UTF-8": _renamed(name, "a\udcff"),
            "a name that moves the cursor": _renamed(name, "a\x1b[2J\n"),
            "a link to a folder around it": _linked_back(name),
            f"{UNREADABLE}": unreadable(name),
        }
        found |= {f"{change}: {source}": (made, lines) for change, made in changes.items()}
    return found


def _renamed(name: str, start: str) -> Change:
    return lambda project: (project / name).rename((project / name).with_name(start + Path(name).name))


def _linked_back(name: str) -> Change:
    def change(project: Path) -> None:
        replace(project / name, "missing")
        (project / name).symlink_to("..")

    return change


def _edits() -> dict[str, tuple[Change, Sequence[str]]]:
    return {f"{name}, {seed}": (edited(name, seed), lines) for name, lines in RECORDS.items() for seed in range(SEEDS)}


def _files() -> dict[str, tuple[Change, Sequence[str]]]:
    files = RECORDS | OTHERS
    texts = {
        f"{text}: {name}": (reworded(name, text), lines)
        for name, lines in files.items()
        for text in TEXTS
        if name.endswith((".json", ".csv", ".yaml", "SHA256SUMS"))
    }
    kinds = {f"{kind}: {name}": (replaced(name, kind), lines) for name, lines in files.items() for kind in INSTEAD}
    others = {f"{UNREADABLE}: {name}": (unreadable(name), lines) for name, lines in files.items()}
    return texts | kinds | others


KINDS: dict[str, dict[str, tuple[Change, Sequence[str]]]] = {
    "stores": _stores(),
    "edited records": _edits(),
    "other files": _files(),
    "sources": _sources(),
    **{f"imports of {format}": _imports(format) for format in FORMATS},
}
"""By kind, what is changed, and under which commands."""
