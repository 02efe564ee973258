"""`aft compare`: two runs, seed by seed."""

from typing import Annotated

import typer

from stages import command

Side = Annotated[str, typer.Argument(help="A run, or a point of a sweep, such as sizes/3.")]


def main(
    one: Side,
    other: Side,
    params: command.File = command.PARAMS,
    overrides: command.Set = None,
    as_json: command.Json = False,
) -> None:
    """Compare two runs seed by seed.

    On test rows if both are evaluated, otherwise on validation rows.
    """
    from pipeline.reporting import pair_runs

    loaded = command.settings(params, overrides)
    paired = pair_runs(one, other, loaded, command.PROJECT, lambda line: command.say(f"note: {line}"))
    command.note_changes(loaded, (), runs=[name for name in (one, other) if "/" not in name])
    command.show(paired, as_json)
