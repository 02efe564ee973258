"""`aft init`: a folder of one's own, with a params.yaml and a dvc.yaml that runs the installed library."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import UserError

CODE = Path(__file__).resolve().parent.parent


def main(
    folder: Annotated[Path, typer.Argument(help="Where to put the project; made if it is not there.")],
    params: Annotated[
        str, typer.Option("--params", help="What to start from: `text`, `images`, or a params file.")
    ] = "text",
) -> None:
    """Start a project of your own.

    Writes params.yaml, dvc.yaml and a raw/ folder for the data; `dvc repro` runs it.
    """
    source = _params(params)
    existing = [name for name in ("params.yaml", "dvc.yaml") if (folder / name).exists()]
    if existing:
        raise UserError(f"{folder / existing[0]}: already there; choose another folder, or remove it first")
    (folder / "raw").mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "dvc.yaml").write_text(_pipeline(folder), encoding="utf-8")
    plots = _init_dvc(folder.resolve()) / ".dvc" / "plots"
    plots.mkdir(exist_ok=True)
    if not (plots / "runs.json").exists():
        shutil.copy(_shipped(".dvc/plots/runs.json"), plots)
    print(f"{folder}: put your data into {folder / 'raw'}, edit {folder / 'params.yaml'}, and run: dvc repro {folder}")


def _params(name: str) -> Path:
    beside = {"text": "params.yaml", "images": "params/images.yaml"}
    path = _shipped(beside[name]) if name in beside else Path(name)
    if not path.is_file():
        raise UserError(f"--params {name}: no such file; write `text`, `images`, or the path of a params file")
    return path


def _shipped(name: str) -> Path:
    """A file of the project: from its checkout, or from the installed package."""
    checkout = CODE / name
    return checkout if checkout.is_file() else CODE / "stages" / "project" / name


def _pipeline(folder: Path) -> str:
    """The project's dvc.yaml, with the code it depends on found from `folder`.

    Folders of code become lists of their modules: DVC's ignore rules do not reach outside the project, and the bytecode
    that comes and goes there would make stages run again.
    """
    code = Path(os.path.relpath(CODE, folder.resolve())).as_posix()

    def found(line: re.Match[str]) -> str:
        indent, path = line["indent"], CODE / line["path"]
        modules = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        return "\n".join(f"{indent}{code}/{module.relative_to(CODE).as_posix()}" for module in modules)

    text = _shipped("dvc.yaml").read_text(encoding="utf-8")
    return re.sub(r"^(?P<indent> +- )(?P<path>(pipeline|stages)/\S+)", found, text, flags=re.MULTILINE)


def _init_dvc(folder: Path) -> Path:
    """Make the folder a DVC repository, unless it is inside of one; returns the repository's root."""
    above = [folder, *folder.parents]
    for parent in above:
        if (parent / ".dvc").is_dir():
            return parent
    mode = "--subdir" if any((parent / ".git").exists() for parent in above[1:]) else "--no-scm"
    if (folder / ".git").exists():
        mode = "--quiet"
    done = subprocess.run([sys.executable, "-m", "dvc", "init", "-q", mode], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{folder}: dvc init failed: {' '.join(done.stderr.split())[-200:]}")
    return folder
