"""`aft check`: whether params.yaml can be run, and what there is to do."""

import typer

from pipeline.errors import UserError
from stages import command


def main(params: command.File = command.PARAMS, overrides: command.Set = None, as_json: command.Json = False) -> None:
    """Check settings and list what there is to do.

    Takes about a second, and also lists what exists already. `aft doctor` checks the machine, the weights and the data.
    """
    from pipeline.checks import check

    loaded = command.settings(params, overrides)
    found = check(loaded, command.PROJECT)
    if command.in_dvc():
        loaded.check_for_dvc()
    command.show(found, as_json)
    for problem in found.problems:
        command.refuse(UserError(problem))
    if found.problems:
        raise typer.Exit(2)
