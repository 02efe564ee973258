"""What the matrix tries: changes to a finished project, and the commands that read what is changed."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from tests.commands import aft
from tests.disks import NOBODY
from tests.store.hostile import KINDS as INSTEAD_IN_STORES
from tests.store.hostile import STORES, TEXTS, replace
from tests.store.odd_files import FORMATS

from .edits import OTHERS, RECORDS, SEEDS, edited, replaced, reworded, unreadable
from .made import SOURCES, Made, use

Change = Callable[[Path], object]
"""Changes a finished project; see `tests/finished.py`."""

SOUND = "as it is"
"""How the names of changes begin after which a command must succeed."""

INSTEAD = [kind for kind in INSTEAD_IN_STORES if kind != "sparse"]
"""What may be where a file should be. Not a terabyte: a file whose checksum is kept elsewhere is read to its end."""

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
    return lambda project: _locked(project / name)


def _stores() -> dict[str, tuple[Change, Sequence[str]]]:
    stores = {what: (_of_store(change), ON_STORES) for what, change in STORES.items()}
    names = ("", "/zarr.json", "/pooled", "/pooled/zarr.json", "/pooled/c.0.0", "/pooled/c.0.json", "/rows")
    return stores | {
        f"{UNREADABLE}: {name or '.'}": (_may_not_be_read(f"features/wise.zarr{name}"), ON_STORES) for name in names
    }


def add_inputs(project: Path) -> None:
    """What the finished project of other tests lacks: features in every format."""
    for format in FORMATS:
        aft(f"features export features/wise.zarr x.{format}", project)


def _imports(format: str) -> dict[str, tuple[Change, Sequence[str]]]:
    name = f"x.{format}"
    lines = (
        f"features import {name} --store new.zarr",
        f"extract own -S 'teachers.own={{family: features, path: {name}}}'",
    )
    return {what: (lambda project, make=make: make(project / name), lines) for what, make in FORMATS[format].items()}


def _sources() -> dict[str, tuple[Change, Sequence[str]]]:
    changes: dict[str, Callable[[Path], object]] = {kind: partial(replace, kind=kind) for kind in INSTEAD} | {
        SOUND: lambda path: None,
        "a name that is not UTF-8": lambda path: path.rename(path.with_name(f"\udcff{path.name}")),
        "a name that moves the cursor": lambda path: path.rename(path.with_name(f"\x1b[2J\n{path.name}")),
        "a link to a folder around it": _linked_back,
        UNREADABLE: _locked,
    }
    return {
        f"{what}: {source}": (partial(_at_source, make=make, change=change), ("prepare",))
        for source, make in SOURCES.items()
        for what, change in changes.items()
    }


def _at_source(project: Path, make: Callable[[Path], Made], change: Callable[[Path], object]) -> None:
    """Let a project have another source, with something changed in it."""
    source, path = make(project / "raw")
    use(project, source)
    for made in [project / "raw", *(project / "raw").rglob("*")]:
        os.chown(made, NOBODY, NOBODY)
    change(path)


def _linked_back(path: Path) -> None:
    replace(path, "missing")
    path.symlink_to("..")


def _locked(path: Path) -> None:
    os.chown(path, 0, 0)
    path.chmod(0)


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
