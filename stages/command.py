"""What every command shares: its options, how it prints a result, and how it ends when the user must mend something.

Mains import the library when they are called: `aft --help` need not wait for torch.
"""

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.errors import UserError
from pipeline.params import Params

File = Annotated[Path, typer.Option("--params", help="The settings.", show_default=True)]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", "-S", metavar="SECTION.KEY=VALUE", help="Change one setting, for this call only. Repeatable."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

DATA, FEATURES, PROBES, REPORT = Path("data"), Path("features"), Path("probes"), Path("report")
PARAMS = Path("params.yaml")


def settings(path: Path, overrides: list[str] | None) -> Params:
    """All settings: the file, then the overrides."""
    return Params.load(path, overrides or ())


def show(result: Any, as_json: bool) -> None:
    """Print what a library function returned: its own words for people, all of its fields for machines."""
    print(json.dumps(dataclasses.asdict(result), default=str) if as_json else result)


def say(line: str) -> None:
    """Tell people what is about to happen, beside what the command prints as its result."""
    print(line, file=sys.stderr, flush=True)


def run(app: typer.Typer) -> None:
    """Run a command line. A `UserError` becomes one line and exit code 2; `--debug` keeps its traceback."""
    # Between two operations, GNU OpenMP's threads spin for milliseconds. With a core short, because others use the
    # machine or because rows are read beside the model, they spin against each other: texts took 10 times as long on
    # two busy cores. Spinning for microseconds is as fast on idle ones. To be set before torch is imported.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    try:
        app()
    except UserError as error:
        if debug:
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept, run the same command to continue", file=sys.stderr)
        sys.exit(130)


def single(main: Any) -> None:
    """Run one stage as `python -m stages.NAME`."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    run(app)
