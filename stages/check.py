"""`aft check`: whether everything that params.yaml needs exists, and how long the work takes."""

import typer

from pipeline.errors import UserError
from stages import command


def main(params: command.File = command.PARAMS, overrides: command.Set = None, as_json: command.Json = False) -> None:
    """Check settings, data and weights; list what there is to do.

    Teachers without features are loaded and timed on a few rows. Nothing is trained.
    """
    from pipeline.checks import check

    found = check(command.settings(params, overrides), command.PROJECT)
    command.show(found, as_json)
    for problem in found.problems:
        command.refuse(UserError(problem))
    if found.problems:
        raise typer.Exit(2)
