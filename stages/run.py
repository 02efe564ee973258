"""`aft run`: check, and then all stages, through DVC where the project is in a DVC repository."""

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.errors import UserError
from stages import assess, command, entry, evaluate, extract, host, join, prepare, probe, report, sweep, train


def main(
    context: typer.Context,
    params: command.File = command.PARAMS,
    overrides: command.Set = None,
    direct: Annotated[
        bool, typer.Option("--direct", help="Run the stages without DVC, even in its repository.")
    ] = False,
) -> None:
    """Check params.yaml and run all stages.

    A run that fails does not stop the others, and the report lists it.
    """
    from pipeline.checks import check_params

    loaded = command.settings(params, overrides)
    check_params(loaded)
    if direct or not command.in_dvc():
        sweeps = list(loaded.values.get("sweep") or {})
        failed = _stages(list(loaded.section("teachers")), list(loaded.section("runs")), sweeps, params, overrides)
    else:
        _check_lock()
        loaded.check_for_dvc()
        if overrides or params != command.PARAMS:
            raise UserError(
                "aft run: DVC reads the params.yaml of this folder; change that, use `dvc exp run -S "
                "SECTION.KEY=VALUE`, or pass --direct"
            )
        failed = _dvc(context.find_root().command)
    if failed:
        raise typer.Exit(2)


def _dvc(commands: Callable[..., Any]) -> bool:
    """All stages through DVC; returns whether one failed. Stages that depend on it are left out, except the report."""
    # The commands in dvc.yaml are `aft ...`, of this environment.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    code = host.repro(
        [sys.executable, "-m", "stages.host", str(os.getpid()), "repro", "--keep-going", "dvc.yaml"],
        os.environ | {"PATH": path},
        partial(entry.run, commands, "aft"),
    )
    if code:
        command.say("not everything could be run; this is a report of what exists:")
        _attempt(report.main)
    return code != 0


def _stages(teachers: list[str], runs: list[str], sweeps: list[str], params: Any, overrides: list[str] | None) -> bool:
    """All stages in order, in this process; returns whether a run failed. Each continues after an interruption."""
    given = {"params": params, "overrides": overrides, "as_json": False}
    prepare.main(**given)
    for teacher in teachers:
        extract.main(teacher, **given)
        probe.main(teacher, **given)
    if teachers:
        assess.main(**given)
    join.main(**given)
    failed = [run for run in runs if not (_attempt(train.main, run, **given) and _attempt(evaluate.main, run, **given))]
    failed += [name for name in sweeps if not _attempt(sweep.main, name, **given)]
    return not _attempt(report.main, **given) or bool(failed)


def _attempt(main: Callable[..., None], *arguments: str, **given: Any) -> bool:
    """Run a stage; print its error if it fails, and go on."""
    try:
        main(*arguments, **given)
    except (UserError, OSError) as error:
        command.refuse(error)
        return False
    return True


def _check_lock() -> None:
    """Refuse a damaged lock of DVC, as a kill may leave it. DVC itself removes valid locks of ended processes.

    Raises:
        UserError: it cannot be read.
    """
    root = command.PROJECT.root.resolve()
    for lock in (folder / ".dvc" / "tmp" / "rwlock" for folder in (root, *root.parents)):
        if not lock.is_file():
            continue
        try:
            json.loads(lock.read_text(encoding="utf-8"))
        except ValueError:
            raise UserError(f"{lock}: damaged; make sure that no other `dvc` is running, then remove it") from None
