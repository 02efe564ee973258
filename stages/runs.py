"""`aft runs`: runs, the points of a sweep, or all finished trials, as a table."""

from typing import Annotated

import typer

from stages import command


def main(
    sweep: Annotated[str | None, typer.Option("--sweep", help="List the points of this sweep instead.")] = None,
    trials: Annotated[bool, typer.Option("--trials", help="List all finished trials instead.")] = False,
    where: Annotated[
        str, typer.Option("--where", metavar="CONDITIONS", help='Only these rows: "methods=aft,validation>0.7".')
    ] = "",
    sort: Annotated[str, typer.Option("--sort", metavar="COLUMN", help="Order; -COLUMN from the largest.")] = "",
    params: command.File = command.PARAMS,
    overrides: command.Set = None,
    as_json: command.Json = False,
) -> None:
    """List runs with their scores.

    Or the points of a sweep, or the finished trials of the ledger.
    """
    from pipeline.changed import changed_sweep
    from pipeline.errors import UserError
    from pipeline.reporting import list_points, list_runs, list_trials

    if trials and sweep is not None:
        raise UserError("--sweep and --trials are two tables; write one of them")
    project = command.PROJECT
    if trials:
        found = list_trials(project, where, sort)
    elif sweep is not None:
        found = list_points(sweep, project, where, sort)
        if changed := changed_sweep(command.checked(params, overrides), project, sweep):
            command.say(f"note: {changed}")
    else:
        found = list_runs(command.checked(params, overrides), project, where, sort)
    command.show(found, as_json)
