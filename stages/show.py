"""`aft show`: the curves of one run, as plain text."""

from typing import Annotated

import typer

from stages import command


def main(
    run: Annotated[str, typer.Argument(help="A trained run.")],
    as_json: command.Json = False,
) -> None:
    """Draw a run's validation score and losses, in the terminal."""
    from pipeline.reporting import show_run

    command.show(show_run(run, command.PROJECT), as_json)
