"""Stage `evaluate`: runs/<run>/ -> evaluations/<run>.json, its test metrics."""

from typing import Annotated

import typer

from stages import command


def main(
    run: Annotated[str, typer.Argument(help="A key of `runs` in params.yaml.")],
    params: command.File = command.PARAMS,
    overrides: command.Set = None,
    as_json: command.Json = False,
) -> None:
    """Test one run's students.

    And its teachers' probes on the same rows.
    """
    from pipeline.training.evaluation import evaluate

    command.show(evaluate(run, command.settings(params, overrides)), as_json)


if __name__ == "__main__":
    command.single(main)
