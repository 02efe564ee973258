"""What a student is taken home as, one file a format: `aft export RUN --format onnx` is `onnx.py`.

A format offers

- `PACKAGES`: what it imports besides what the project always has; the extra `export` installs them;
- `RUNS_CODE`: whether to load its files may run code that somebody put into them;
- `refusal(blueprint)`: why it cannot hold a student, in a few words; empty if it can;
- `write(folder, blueprint, student, rows)`: writes student.json and its files; `rows` are some examples;
- `load(folder, blueprint, device)`: a `Model` from these files alone, as those who serve it load them.

`pipeline.serving` compares what `load` gives with the student, in a fresh process, before anybody sees the folder.
"""

from collections.abc import Callable
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np

from pipeline.errors import UserError
from pipeline.plugins import plugin

Model = Callable[[Any], np.ndarray]
"""From a batch of the student's `Preprocessing` to outputs [n, C], float32."""


def export_format(name: str) -> ModuleType:
    """The format of a name; `-` and `_` are the same.

    Raises:
        UserError: there is none, or it needs a package that is not installed.
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
