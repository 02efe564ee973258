"""`aft doctor`: a look at the machine, the weights and the data."""

import typer

from stages import command


def main(params: command.File = command.PARAMS, overrides: command.Set = None, as_json: command.Json = False) -> None:
    """Check the machine, every teacher, every student and every row.

    Loads the teachers, builds the students and reads the data. Each line says ok, warning or problem, and
    what to do; the exit code is 1 if there are problems. Nothing is written.
    """
    from pipeline.doctor import doctor

    found = doctor(command.settings(params, overrides), command.PROJECT)
    command.show(found, as_json)
    if not found.sound:
        raise typer.Exit(1)
