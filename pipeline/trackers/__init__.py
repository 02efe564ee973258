"""Trackers of experiments, one file each: `machine.track: tensorboard` is `tensorboard.py`.

A tracker offers `PACKAGE`, what it needs, and one function,

    start(folder, name, settings) -> Tracker

which begins the record of one training: `folder` is for its files, `name` is that of the training, `settings` are those
it is trained with. Trackers only look on: what is trained and chosen does not depend on them.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

from pipeline.errors import UserError
from pipeline.params import plugin


@runtime_checkable
class Tracker(Protocol):
    """The record of one training."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add losses and scores of a step."""

    def close(self) -> None:
        """The training has ended."""


def tracker(name: str) -> ModuleType:
    """The tracker in `pipeline/trackers/<name>.py`.

    Raises:
        UserError: there is none of this name, or its package is not installed.
    """
    module = plugin("trackers", name, "machine.track")
    if find_spec(module.PACKAGE) is None:
        raise UserError(
            f"machine.track: {name}: the package {module.PACKAGE} is not installed; run pip install {module.PACKAGE}, "
            "or leave `track` out"
        )
    return module


def start(name: str, folder: Path, training: str, settings: Mapping[str, Any]) -> Tracker:
    """Begin the record of one training with the tracker `name`; its files are in a folder of that name."""
    begun: Tracker = tracker(name).start(folder / name, training, settings)
    return begun


__all__ = ["Tracker", "start", "tracker"]
