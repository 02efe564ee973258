"""Stage `train`: one run's bundle -> runs/<run>/, its students, curves and record."""

from typing import Annotated

import typer

from stages import command


def main(
    run: Annotated[str, typer.Argument(help="A key of `runs` in params.yaml.")],
    params: command.File = command.PARAMS,
    overrides: command.Set = None,
    as_json: command.Json = False,
) -> None:
    """Train one run.

    Every seed and every candidate weight; the weight is chosen on validation rows.
    """
    from pipeline.training.sweep import train

    command.show(train(run, command.settings(params, overrides), say=command.say), as_json)


if __name__ == "__main__":
    command.single(main)
