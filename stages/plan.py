"""`aft plan`: what an extraction of many rows by many GPUs takes, from the speed of this project's."""

from typing import Annotated

import typer

from stages import command


def main(
    teacher: Annotated[str, typer.Option("--teacher", help="A key of `teachers` in params.yaml.")],
    rows: Annotated[str, typer.Option("--rows", help="Rows of the dataset, such as 1e9.")],
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="GPUs that work at the same time.")] = 1,
    price: Annotated[float | None, typer.Option("--price", min=0, help="Of an hour of one GPU.")] = None,
    params: command.File = command.PARAMS,
    overrides: command.Set = None,
    as_json: command.Json = False,
) -> None:
    """Plan the extraction of many rows: time, cost, bytes and layout.

    The speed is that of the teacher's finished extraction in this project, or is measured on a few batches.
    """
    from pipeline.errors import UserError
    from pipeline.plan import plan

    try:
        number = float(rows.replace("_", ""))
        wanted = int(number)
    except (ValueError, OverflowError):
        number, wanted = 0, 0
    if wanted < 1 or wanted != number or wanted >= 10**15:
        raise UserError(f"--rows {rows}: write a whole number of rows, such as 1000000 or 1e9")
    loaded = command.settings(params, overrides)
    loaded.section(f"teachers.{teacher}")
    command.show(plan(teacher, loaded, wanted, gpus, price, command.PROJECT), as_json)
