"""`aft cost`: rows per second and latency of a run's student and its teachers -> logs/<run>.cost.json."""

from typing import Annotated

import typer

from stages import command


def main(
    run: Annotated[
        str | None, typer.Argument(help="A key of `runs` in params.yaml; all that are trained if left out.")
    ] = None,
    params: command.File = command.PARAMS,
    overrides: command.Set = None,
    as_json: command.Json = False,
) -> None:
    """Measure the speed of a run's student and of its teachers.

    Rows per second and latency for batches of 1, 32 and 256 on this device. The report draws scores against them, and
    the model card of an export shows them.
    """
    from pipeline.errors import UserError
    from pipeline.serving import measure_cost

    loaded = command.settings(params, overrides)
    runs = [run] if run else [each for each in loaded.section("runs") if command.PROJECT.run(each).is_dir()]
    if not runs:
        raise UserError("no run is trained; run `aft train RUN` first")
    for each in runs:
        loaded.section(f"runs.{each}")
        command.show(measure_cost(each, loaded, command.PROJECT), as_json)
