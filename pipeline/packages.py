"""Files that arrive inside installed packages: data and weights, found without importing the package."""

from importlib.util import find_spec
from pathlib import Path

from pipeline.errors import UserError


def packaged(package: str, path: str, install: str) -> Path:
    """The file or folder `path` inside the installed top-level package `package`.

    Args:
        install: the command that installs the package, for the message.

    Raises:
        UserError: the package is not installed, or has no such file.
    """
    spec = find_spec(package)  # finds a top-level package without running a line of it
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"the package {package} is not installed; run {install}")
    for folder in spec.submodule_search_locations:
        if (found := Path(folder) / path).exists():
            return found
    raise UserError(f"the installed package {package} has no {path}; run {install}")
