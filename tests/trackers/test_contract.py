"""Trackers look on: each is told settings, losses and scores, and no result depends on them."""

import shutil
import sys
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pipeline import training
from pipeline.errors import UserError
from pipeline.locks import Lock
from pipeline.params import Params
from pipeline.plugins import plugin, plugins
from pipeline.project import Project
from pipeline.provenance import digest_files
from pipeline.sweeping import sweep

NAMES = plugins("trackers")


class Calls:
    """Stands for anything of a tracker's package: keeps how it was called, and returns more of itself."""

    def __init__(self, kept: list[tuple[str, tuple[Any, ...], dict[str, Any]]], name: str = ""):
        self.__dict__["kept"], self.__dict__["name"] = kept, name

    def __getattr__(self, name: str) -> "Calls":
        return Calls(self.kept, f"{self.name}.{name}")

    def __setattr__(self, name: str, value: Any) -> None:
        self.kept.append((f"{self.name}.{name}", (value,), {}))

    def __call__(self, *given: Any, **named: Any) -> "Calls":
        self.kept.append((self.name, given, named))
        return self


def _attribute(kept: list[Any], name: str) -> Calls:
    if name.startswith("__"):
        raise AttributeError(name)
    return Calls(kept, name)


def fake(name: str, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """Puts a package in the place of a tracker's, and returns what it will be called with."""
    package = plugin("trackers", name).PACKAGE
    kept: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
    for path in (package, *(["torch.utils.tensorboard"] if name == "tensorboard" else [])):
        module = ModuleType(path)
        module.__spec__ = ModuleSpec(path, None)
        module.__getattr__ = partial(_attribute, kept)  # type: ignore[method-assign]
        monkeypatch.setitem(sys.modules, path, module)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:elsewhere")
    return kept


def tracking(params: Params, name: str | None) -> Params:
    train = params.values["train"] | {"steps": 3, "seeds": [0]}
    sections = {"train": train, "machine": params.values["machine"] | {"track": name}}
    return Params(params.values | sections | {"sweep": {"mine": {"over": {"student": "bag"}}}})


@pytest.mark.parametrize("name", NAMES)
def test_a_tracker_is_told_settings_losses_and_scores(
    name: str, project: Path, params: Params, monkeypatch: pytest.MonkeyPatch
):
    kept = fake(name, monkeypatch)
    training.train("none", tracking(params, name), Project(project))
    told = repr([(given, named) for _, given, named in kept])
    assert all(word in told for word in ("train.steps", "bag_of_words", "task_loss", "val_accuracy", "none-seed0-"))
    last = max(position for position, (_, given, named) in enumerate(kept) if "val_accuracy" in repr((given, named)))
    ends = [called.rpartition(".")[2] for called, *_ in kept[last:]]
    assert len({"close", "end", "finish", "set_terminated"} & set(ends)) == 1


def test_trainings_that_begin_together_make_the_database_of_mlflow_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    fake("mlflow", monkeypatch)
    lock = Lock(tmp_path / "begin.lock")
    free: list[bool] = []
    monkeypatch.setattr(
        sys.modules["mlflow"], "MlflowClient", lambda **_: free.append(lock.acquire()) or Calls([]), raising=False
    )
    plugin("trackers", "mlflow").start(tmp_path, "none-seed0", {})
    assert free == [False]
    assert lock.acquire(), "released when it has begun"
    lock.release()


@pytest.mark.parametrize("name", NAMES)
def test_a_package_that_is_not_installed_is_named(
    name: str, project: Path, params: Params, monkeypatch: pytest.MonkeyPatch
):
    module = plugin("trackers", name)
    monkeypatch.setattr(module, "PACKAGE", "no_such_package")
    line = f"machine.track: {name}: the package no_such_package is not installed; run pip install no_such_package"
    with pytest.raises(UserError, match=line):
        training.train("none", tracking(params, name), Project(project))
    with pytest.raises(UserError, match=line):
        sweep("mine", tracking(params, name), Project(project))
    assert not (project / "trials").exists()


def test_a_tracker_that_does_not_exist_is_refused(project: Path, params: Params):
    with pytest.raises(UserError, match=r"machine.track: no 'tensorbord' .*did you mean `tensorboard`"):
        training.train("none", tracking(params, "tensorbord"), Project(project))


def test_no_result_depends_on_a_tracker_nor_on_whether_it_works(
    project: Path, params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def digest(name: str | None) -> str:
        shutil.rmtree(project / "trials", ignore_errors=True)
        training.train("none", tracking(params, name), Project(project))
        return digest_files(Project(project).run("none"))

    plain = digest(None)
    assert not (project / "tracking").exists()
    fake("wandb", monkeypatch)
    assert digest("wandb") == plain
    monkeypatch.setattr(plugin("trackers", "wandb").WeightsAndBiases, "log", lambda self, step, values: 1 / 0)
    assert digest("wandb") == plain
    assert capsys.readouterr().err.count("machine.track: ZeroDivisionError: division by zero; training goes on") == 1
