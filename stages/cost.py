"""`aft cost`: rows per second and latency of a run's student and its teachers -> logs/cost/<run>.json."""

from typing import Annotated

import typer

from stages import command


def main(
    run: Annotated[str, typer.Argument(help="A key of `runs` in params.yaml.")],
    params: command.File = command.PARAMS,
    overrides: command.Set = None,
    as_json: command.Json = False,
) -> None:
    """Measure the speed of one run's student and of its teachers.

    Rows per second and latency for batches of 1, 32 and 256 on this device. The model card of an export shows them.
    """
    from pipeline.serving import measure_cost

    loaded = command.settings(params, overrides)
    loaded.section(f"runs.{run}")
    command.show(measure_cost(run, loaded, command.PROJECT), as_json)
