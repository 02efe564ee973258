"""TensorBoard: event files in tracking/tensorboard; `tensorboard --logdir tracking/tensorboard`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PACKAGE = "tensorboard"


class TensorBoard:
    """A folder of event files for each training."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder))
        self._writer.add_text("settings", json.dumps(settings, indent=1, default=str))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


def start(folder: Path, name: str, settings: Mapping[str, Any]) -> TensorBoard:
    """Begin a folder."""
    return TensorBoard(folder / name, settings)
