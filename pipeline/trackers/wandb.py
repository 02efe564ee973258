"""Weights & Biases: runs of the project `aft`, or WANDB_PROJECT; files in tracking/wandb.

WANDB_MODE=offline sends nothing.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PACKAGE = "wandb"


class WeightsAndBiases:
    """A run for each training."""

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any]):
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "aft"),
            name=name,
            config=dict(settings),
            dir=str(folder),
            reinit="create_new",
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


def start(folder: Path, name: str, settings: Mapping[str, Any]) -> WeightsAndBiases:
    """Begin a run."""
    return WeightsAndBiases(folder, name, settings)
