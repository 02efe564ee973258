"""Formats of exported students, one file per format: `aft export RUN --format onnx` is `onnx.py`.

A format offers

- `PACKAGES`: packages that it imports in addition to the project's own dependencies; the extra `export` installs them;
- `RUNS_CODE`: whether loading its files may run code in them;
- `USE`: Python that loads them from FOLDER as `model`, without this project, for the model card; empty if nothing does;
- `refusal(blueprint)`: why the format cannot hold a student, in a few words; empty if it can;
- `write(folder, blueprint, student, rows)`: writes student.json and the format's files; `rows` are example rows;
- `load(folder, blueprint, device)`: a `Model` from these files alone, loaded as in a service.

`pipeline.serving` compares the outputs of `load` with the student's, in a new process, before the folder gets its name.
"""

from collections.abc import Callable
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np

from pipeline.errors import UserError
from pipeline.plugins import plugin

Model = Callable[[Any], np.ndarray]
"""Turns a batch of the student's `Preprocessing` into outputs [n, C], float32."""


def export_format(name: str) -> ModuleType:
    """The format with a name; `-` and `_` are the same.

    Raises:
        UserError: there is no such format, or it needs a package that is not installed.
    """
    try:
        found = plugin("exports", name.replace("-", "_"), "--format")
    except ImportError as error:
        raise _missing(name, error.name or "a package") from None
    for package in found.PACKAGES:
        if find_spec(package) is None:
            raise _missing(name, package)
    return found


def _missing(name: str, package: str) -> UserError:
    return UserError(
        f"--format {name}: the package {package} is not installed; run pip install 'aft-pipeline[export]', or take "
        "--format native"
    )


__all__ = ["Model", "export_format"]
