"""Files inside installed packages: data and weights, found without importing the package."""

import difflib
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

from pipeline.errors import UserError


def packaged(package: str, path: str, install: str | None = None) -> Path:
    """The file or folder `path` inside the installed top-level package `package`.

    Args:
        package: what Python imports.
        path: below the package's folder.
        install: the command that installs the package, where it is known. It is never made up: what Python imports and
            what pip installs often have different names, and a wrong one may be somebody else's package.

    Raises:
        UserError: the package is not installed, or has no such file.
    """
    spec = find_spec(package)  # finds a top-level package without running a line of it
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"the package {package} is not installed; {_what_to_do(package, install)}")
    for folder in spec.submodule_search_locations:
        if (found := Path(folder) / path).exists():
            return found
    other = f"run {install}" if install else "check the path, or the package's version"
    raise UserError(f"the installed package {package} has no {path}; {other}")


def _what_to_do(package: str, install: str | None) -> str:
    if install:
        return f"run {install}"
    close = difflib.get_close_matches(package, packages_distributions(), n=3)
    if close:
        return f"installed packages with a name like it: {', '.join(close)}"
    return "no installed package has a name like it; check the name, or install the package that holds the file"
