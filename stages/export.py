"""`aft export`: a student of runs/<run>/ -> a standalone folder, with a model card."""

from pathlib import Path
from typing import Annotated

import typer

from stages import command


def main(
    run: Annotated[str, typer.Argument(help="A key of `runs` in params.yaml.")],
    output: Annotated[Path, typer.Option("--output", "-o", readable=False, help="The folder to write.")],
    format: Annotated[
        str, typer.Option("--format", help="native, onnx, torch-export, timm, transformers or sentence-transformers.")
    ] = "native",
    seed: Annotated[
        int | None, typer.Option("--seed", help="The student's seed; by default the best on validation rows.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--refit", help="Train it once more, with the labels of validation rows too.")
    ] = False,
    params: command.File = command.PARAMS,
    overrides: command.Set = None,
    as_json: command.Json = False,
) -> None:
    """Export one run's student.

    Writes a folder with weights, preprocessing and a model card, after a new process has loaded it and computed the
    same outputs on validation and test rows.
    """
    from pipeline.changed import changed_run
    from pipeline.errors import UserError
    from pipeline.serving import export

    loaded = command.settings(params, overrides)
    if "/" not in run:
        if again and (line := changed_run(loaded, command.PROJECT, run)):
            raise UserError(f"--refit: {line}")
        command.note_changes(loaded, command.teachers_of(loaded, run), runs=[run])
    command.show(export(run, loaded, command.PROJECT, output, format, seed, again), as_json)
