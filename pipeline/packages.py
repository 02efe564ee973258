"""Files inside installed packages: data and weights, found without importing the package."""

import difflib
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

from pipeline.errors import UserError, listed


def packaged(package: str, path: str, install: str = "") -> Path:
    """The file or folder `path` inside the installed top-level package `package`.

    Args:
        package: what Python imports.
        path: inside of the package, with slashes.
        install: the command that installs the package, for the message, if it is known. It is not guessed
            from the name, because what is imported as `package` may be installed under another name.

    Raises:
        UserError: the package is not installed, or has no such file.
    """
    # Finds a top-level package without importing it.
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"the package {package} is not installed; {f'run {install}' if install else _near(package)}")
    for folder in spec.submodule_search_locations:
        if (found := Path(folder) / path).exists():
            return found
    remedy = f"; run {install}" if install else _siblings(spec.submodule_search_locations, path)
    raise UserError(f"the installed package {package} has no {path}{remedy}")


def _near(package: str) -> str:
    """What to do about a missing package without a known install command: suggest similar names."""
    near = difflib.get_close_matches(package, set(packages_distributions()) - {package}, n=3)
    return f"{f'installed are {listed(near)}; ' if near else ''}check the name, or install what contains it"


def _siblings(folders: list[str], path: str) -> str:
    """Existing names that are similar to the last part of a missing path."""
    *above, name = path.split("/")
    there = {entry.name for folder in folders if (at := Path(folder, *above)).is_dir() for entry in at.iterdir()}
    near = difflib.get_close_matches(name, sorted(there), n=3)
    return f"; it has {listed(['/'.join([*above, found]) for found in near])}" if near else "; check the path"
