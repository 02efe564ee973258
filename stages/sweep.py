"""Stage `sweep`: one section of `sweep` -> sweeps/<sweep>.json, all of its points and their validation scores."""

import sys
from typing import Annotated

import typer

from pipeline.errors import UserError
from stages import command, entry


def main(
    name: Annotated[
        str | None,
        typer.Argument(help="A key of `sweep` in params.yaml; all of them if left out.", callback=command.key),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", min=1, help="Trainings at the same time; as many as fit if left out."),
    ] = None,
    where: Annotated[
        str, typer.Option("--where", metavar="CONDITIONS", help='Only these points: "student=small,weight>0".')
    ] = "",
    engine: command.Engine = None,
    address: command.Address = None,
    watch: Annotated[bool, typer.Option("--watch", help="Train nothing; show how far a sweep is.")] = False,
    params: command.File = command.PARAMS,
    overrides: command.Set = None,
    as_json: command.Json = False,
) -> None:
    """Train all points of a sweep.

    Only what is missing: runs and sweeps share their trainings. Points that fail are listed and do not stop the others.
    """
    loaded = command.settings(params, overrides)
    command.on_engine(loaded, engine, address)
    names = [name] if name else list(loaded.section("sweep"))
    if watch:
        for each in names:
            loaded.section(f"sweep.{each}")
            _watch(each)
        return
    from pipeline.sweeping import sweep

    teachers = [teacher for each in names for teacher in command.teachers_of_sweep(loaded, each)]
    command.note_changes(loaded, dict.fromkeys(teachers))
    failed = False
    for each in names:
        with command.log("sweep", each) as log:
            swept = sweep(each, loaded, command.PROJECT, jobs, where, command.say)
            log.trainings = swept.trained
        command.show(swept, as_json)
        failed |= bool(swept.failed)
    if failed:
        command.refuse(
            UserError("not every trial could be trained; what is finished is kept, run it again for the rest")
        )
        raise typer.Exit(2)


def _watch(name: str) -> None:
    """How far a sweep is, until it ends."""
    from rich.console import Console
    from rich.live import Live

    from pipeline.sweeping import line_of, rendered, watch
    from pipeline.terminal import draws

    if not draws(sys.stdout):
        for status in watch(name, command.PROJECT):
            print(line_of(status), flush=True)
        return
    with Live(console=Console(), auto_refresh=False) as live:
        for status in watch(name, command.PROJECT):
            live.update(rendered(status), refresh=True)


if __name__ == "__main__":
    entry.single(main)
