"""`aft replay`: the step at which a training diverged, done again."""

from typing import Annotated

import typer

from stages import command


def main(
    run: command.Run,
    trial: Annotated[
        str, typer.Option("--trial", help="How the name of its folder in trials/ begins; the first that diverged.")
    ] = "",
    params: command.File = command.PARAMS,
    overrides: command.Set = None,
    as_json: command.Json = False,
) -> None:
    """Repeat the step at which a training diverged.

    Prints losses, outputs, gradients and weights that are not finite.
    Settings, data and code must be those of the training.
    """
    from pipeline.training import replay_trial

    command.show(replay_trial(run, command.settings(params, overrides), command.PROJECT, trial), as_json)
