"""`aft init`: a new project, with settings and a pipeline that uses the installed library."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import UserError, listed
from pipeline.files import file_exists, make_folder, read_regular, write_atomically

FILES = (".gitignore", ".dvcignore", "raw/README.md", "dvc.yaml")
"""Files of a new project in addition to params.yaml; none names a path outside the project."""

RESULTS = ("assessments", "evaluations", "features", "logs", "probes", "runs")
"""Folders that stages depend on: `dvc repro --dry` also reads them before anything was run."""

OF_DVC = (".dvc/.gitignore", ".dvc/plots/runs.json")
"""Files of the DVC repository. DVC writes the first only inside of git, and its cache would be committed later."""


def main(
    folder: Annotated[Path, typer.Argument(readable=False, help="The project's folder; created if it does not exist.")],
    params: Annotated[
        str, typer.Option("--params", help="Settings to start from: `text`, `images`, a known dataset, or a file.")
    ] = "text",
) -> None:
    """Start a project of your own.

    Writes params.yaml, dvc.yaml and a raw/ folder for the data, and sets up DVC.
    """
    starts = {"text": _shipped("params.yaml"), **{path.stem: path for path in _shipped("params").glob("*.yaml")}}
    source = starts.get(params, Path(params))
    if not source.is_file():
        raise UserError(
            f"--params {params}: no such file; write {listed(sorted(starts))}, or the path of a params file"
        )
    for name, begun in (("params.yaml", None), ("dvc.yaml", _shipped("dvc.yaml").read_bytes())):
        if file_exists(folder / name) and read_regular(folder / name) != begun:
            raise UserError(f"{folder / name}: already there; choose another folder, or remove it first")
    for name in RESULTS:
        make_folder(folder / name)
    for name in FILES:
        _copy(_shipped(name), folder / name)
    repository, in_git = _init_dvc(folder.resolve())
    for name in OF_DVC:
        _copy(_shipped(name), repository / name)
    # The last one, so that a call that was cut short can be repeated.
    _copy(source, folder / "params.yaml")
    place = shlex.quote(str(folder))
    enter = "" if folder.resolve() == Path.cwd() else f"cd {place} && "
    print(f"{folder}: put your data into {folder / 'raw'} and edit {folder / 'params.yaml'}, then run: {enter}aft run")
    if not in_git:
        print(
            "Experiments (`dvc exp`) need git, and this folder is not in a git repository. To have them, run: "
            f"{enter}git init && dvc config --unset core.no_scm && git add . && git commit -m 'Start'"
        )


def _copy(source: Path, target: Path) -> None:
    """Copy a text file; what is there is left alone."""
    if not target.exists():
        write_atomically(target, source.read_bytes())


def _shipped(name: str) -> Path:
    """A file or folder of the library: from its checkout, or from the installed package."""
    code = Path(__file__).resolve().parent
    checkout = code.parent / name
    return checkout if checkout.exists() else code / "project" / name


def _init_dvc(folder: Path) -> tuple[Path, bool]:
    """Make the folder a DVC repository, unless it is inside of one: the repository, and whether it is in git."""
    above = [folder, *folder.parents]
    in_git = any((parent / ".git").exists() for parent in above)
    for parent in above:
        if (parent / ".dvc").is_dir():
            return parent, in_git
    mode = [] if (folder / ".git").exists() else ["--subdir"] if in_git else ["--no-scm"]
    environment = os.environ | {"DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "init", "-q", *mode], cwd=folder, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        shutil.rmtree(folder / ".dvc", ignore_errors=True)
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        raise UserError(f"{folder}: dvc init failed: {' '.join(lines or done.stderr.split())[-200:]}")
    return folder, in_git
