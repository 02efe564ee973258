"""DVCLive: metrics and plots in tracking/dvclive, which DVC shows; it makes no experiments and no dvc.yaml."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

PACKAGE = "dvclive"


class DVCLive:
    """A folder of metrics for each training."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        from dvclive import Live

        self._live: Any = Live(dir=str(folder), save_dvc_exp=False, dvcyaml=None, report=None)
        self._live.log_params(dict(settings))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._live.step = step
        for name, value in values.items():
            self._live.log_metric(name, value)
        self._live.make_summary()

    def close(self) -> None:
        self._live.end()


def start(folder: Path, name: str, settings: Mapping[str, Any]) -> DVCLive:
    """Begin a folder."""
    return DVCLive(folder / name, settings)
