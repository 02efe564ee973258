"""The `aft` command: the mains of the stages, as they are, and tools around them."""

import json
from enum import StrEnum
from typing import Annotated

import typer

from pipeline.plugins import describe
from stages import assess, command, evaluate, extract, features, init, join, prepare, probe, report, train

app = typer.Typer(
    help="Transfer what large foundation models know into small models, through a feature store.",
    epilog="Every command takes --debug, for a traceback where there is one line.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for stage in (prepare, extract, probe, assess, join, train, evaluate, report, init):
    app.command(stage.__name__.rpartition(".")[2])(stage.main)
app.add_typer(features.app, name="features")


class Kind(StrEnum):
    """The plug-in folders of the library."""

    methods = "methods"
    teachers = "teachers"
    students = "students"
    datasets = "datasets"


@app.command("list")
def list_parts(kind: Annotated[Kind, typer.Argument(help="What to list.")], as_json: command.Json = False) -> None:
    """What params.yaml may name, a line each."""
    found = describe(kind)
    if as_json:
        print(json.dumps(found))
        return
    for name, line in found.items():
        print(f"{name:<22} {line}")


def main() -> None:
    """The entry point of `aft`."""
    command.run(app)


if __name__ == "__main__":
    main()
