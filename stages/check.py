"""`aft check`: whether everything is there that params.yaml asks for, and what it will take."""

import typer

from pipeline.errors import UserError
from stages import command


def main(params: command.File = command.PARAMS, overrides: command.Set = None, as_json: command.Json = False) -> None:
    """Check settings, data and weights; say what there is to do.

    Loads every teacher whose features are missing and times it on a few rows; trains nothing.
    """
    from pipeline.checks import check

    found = check(command.settings(params, overrides), command.PROJECT)
    command.show(found, as_json)
    for problem in found.problems:
        command.refuse(UserError(problem))
    if found.problems:
        raise typer.Exit(2)
