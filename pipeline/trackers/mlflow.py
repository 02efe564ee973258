"""MLflow: runs of the experiment `aft`, at MLFLOW_TRACKING_URI, or in tracking/mlflow/mlflow.db."""

import os
from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Any

from pipeline.locks import Lock

PACKAGE = "mlflow"

EXPERIMENT = "aft"


class MLflow:
    """A run for each training."""

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any]):
        from mlflow import MlflowClient

        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if uri is None:
            folder.mkdir(parents=True, exist_ok=True)
            uri = f"sqlite:///{folder.resolve() / 'mlflow.db'}"
        # Trainings begin together, and a database or an experiment that two of them make at once fails one.
        lock = Lock(folder / "begin.lock")
        lock.acquire(patience=inf)
        try:
            self._client: Any = MlflowClient(tracking_uri=uri)
            known = self._client.get_experiment_by_name(EXPERIMENT)
            experiment = known.experiment_id if known else self._client.create_experiment(EXPERIMENT)
        finally:
            lock.release()
        self._run = self._client.create_run(experiment, run_name=name).info.run_id
        for key, value in settings.items():
            self._client.log_param(self._run, key, value)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._client.log_metric(self._run, name, value, step=step)

    def close(self) -> None:
        self._client.set_terminated(self._run)


def start(folder: Path, name: str, settings: Mapping[str, Any]) -> MLflow:
    """Begin a run."""
    return MLflow(folder, name, settings)
