"""All commands of `aft`: the stages of the pipeline, and tools for them."""

import dataclasses
import json
from enum import StrEnum
from typing import Annotated

import typer

from pipeline import __version__
from pipeline.plugins import describe
from stages import (
    assess,
    check,
    code,
    command,
    compare,
    cost,
    doctor,
    evaluate,
    export,
    extract,
    features,
    init,
    join,
    plan,
    predict,
    prepare,
    probe,
    replay,
    report,
    runs,
    show,
    sweep,
    train,
    trials,
)
from stages import run as run_stage
from stages.overrides import Command

app = typer.Typer(
    help="Transfer what large foundation models know into small models, through a feature store.",
    epilog="Every command takes --debug, to print tracebacks of errors, and --no-verify, to skip the "
    "comparison with checksums.",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
STAGES = (
    init, check, doctor, run_stage, code, prepare, extract, probe, assess, join, train, sweep, evaluate, report,
    export, predict, cost, plan, trials, replay, runs, compare, show,
)  # fmt: skip
for stage in STAGES:
    app.command(stage.__name__.rpartition(".")[2], cls=Command)(stage.main)
app.add_typer(features.app, name="features")


class Kind(StrEnum):
    """The plug-in folders of the library."""

    tasks = "tasks"
    datasets = "datasets"
    teachers = "teachers"
    views = "views"
    augmentations = "augmentations"
    students = "students"
    methods = "methods"
    engines = "engines"
    exports = "exports"
    trackers = "trackers"


@app.command("list")
def list_plugins(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    name: Annotated[str | None, typer.Argument(help="A plug-in: list its keys.")] = None,
    as_json: command.Json = False,
) -> None:
    """List plug-ins, or the keys of one plug-in."""
    if name is not None:
        from pipeline.reference import plugin_keys

        keys = plugin_keys(kind, name)
        print(json.dumps([dataclasses.asdict(key) for key in keys]) if as_json else "\n".join(map(str, keys)))
        return
    found = describe(kind)
    if as_json:
        print(json.dumps(found))
        return
    for name, line in found.items():
        print(f"{name:<22} {line}")


def _version(asked: bool) -> None:
    if asked:
        print(f"aft {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of `aft` itself, before a command."""
