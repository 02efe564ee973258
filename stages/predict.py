"""`aft predict`: an exported student, or one of a run, and new files -> a table of predictions."""

import io
import sys
from pathlib import Path
from typing import Annotated

import typer

from stages import command


def main(
    student: Annotated[str, typer.Argument(metavar="RUN_OR_FOLDER", help="A run of this project, or an export.")],
    inputs: Annotated[
        list[str],
        typer.Argument(help="Tables of text, or - for texts on stdin, one per line; or folders and files of images."),
    ],
    output: Annotated[str, typer.Option("--output", "-o", help="A .csv or .parquet file; - for CSV on stdout.")] = "-",
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Rows per batch.")] = 512,
    top: Annotated[
        int | None, typer.Option("--top", min=1, help="Only this many classes per row, the most probable first.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of a run's student; by default the best.")] = None,
    text_column: Annotated[
        str | None, typer.Option("--text-column", help="Column of the texts; by default that of the training table.")
    ] = None,
    id_column: Annotated[
        str | None, typer.Option("--id-column", help="Column of the ids; by default the row's number, from 1.")
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option("--encoding", help="Encoding of text files; by default UTF-8, or from their mark."),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:N, mps or auto.")] = "auto",
    trust: Annotated[
        bool, typer.Option("--trust", help="Also load a format whose files may hold code, from somebody you trust.")
    ] = False,
    as_json: command.Json = False,
) -> None:
    """Predict new texts or images.

    Rows that cannot be read are listed in OUTPUT.unreadable.csv, or on stderr, and do not stop the others; the exit
    code is then 1.
    """
    from pipeline.errors import UserError
    from pipeline.predict import EXPORT, Predictor
    from pipeline.serving import ImageInputs, TextInputs, lines, predict_to

    # A line that is not UTF-8 is listed, and does not stop the others.
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
    path = Path(student)
    if not any((path / name).exists() for name in (EXPORT, "run.json")):
        path = command.PROJECT.run(student) if command.PROJECT.run(student).is_dir() else path
    predictor = Predictor(path, seed, device, batch_size, trust)
    if predictor.kind == "image+text":
        raise UserError(f"{student}: reads pairs of image and text, as `Predictor` does in Python, and no files")
    second = {key: column for key, column in predictor.table.items() if key == "second_column"}
    table = {"text_column": text_column, **second} if text_column else predictor.table
    rows: TextInputs | ImageInputs = (
        TextInputs(inputs, table | {"id_column": id_column, "encoding": encoding}, lines(sys.stdin))
        if "image" not in predictor.kind
        else ImageInputs(inputs)
    )
    done = predict_to(predictor, rows, output, top)
    if output == "-":
        command.say(str(done))
    else:
        command.show(done, as_json)
    if done.unreadable:
        raise typer.Exit(1)
