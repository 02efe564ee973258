"""`aft trials`: the finished trainings in the ledger that no run uses any more."""

from typing import Annotated

import typer

from stages import command


def main(
    delete: Annotated[bool, typer.Option("--delete", help="Delete them, instead of only listing them.")] = False,
    params: command.File = command.PARAMS,
    overrides: command.Set = None,
    as_json: command.Json = False,
) -> None:
    """List finished trainings that are no longer used.

    That is, by no run and no sweep of params.yaml.
    Once deleted, they are trained again if params.yaml is changed back.
    """
    from pipeline.sweeping import trials_of_sweeps
    from pipeline.training import unused_trials

    loaded, project = command.settings(params, overrides), command.PROJECT
    command.show(unused_trials(loaded, project, delete, trials_of_sweeps(loaded, project)), as_json)
