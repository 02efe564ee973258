"""What the matrix tries: changes to a finished project, and the commands that read what is changed."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.commands import aft
from tests.store.hostile import STORES
from tests.store.odd_files import FORMATS

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


KINDS: dict[str, dict[str, tuple[Change, Sequence[str]]]] = {
    "stores": _stores(),
    **{f"imports of {format}": _imports(format) for format in FORMATS},
}
"""By kind, what is changed, and under which commands."""
