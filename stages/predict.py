"""`aft predict`: an exported student, or one of a run, and new files -> a table of predictions."""

import io
import sys
from pathlib import Path
from typing import Annotated

import typer

from stages import command

COLUMNS = {
    "text": ("text_column",),
    "image": ("image_column",),
    "text+text": ("text_column", "second_column"),
    "image+text": ("image_column", "second_column"),
}
"""By what a student reads, the columns that its rows have in a table."""


def main(
    student: Annotated[str, typer.Argument(metavar="RUN_OR_FOLDER", help="A run of this project, or an export.")],
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Tables, or - for texts on stdin, one per line; or folders, tar files and files of images. Also at "
            "s3://, gs:// or az://."
        ),
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
    image_column: Annotated[
        str | None, typer.Option("--image-column", help="Column of the images; by default that of the training table.")
    ] = None,
    second_column: Annotated[
        str | None, typer.Option("--second-column", help="Column of the second texts of pairs; likewise.")
    ] = None,
    id_column: Annotated[
        str | None, typer.Option("--id-column", help="Column of the ids; by default the row's number, from 1.")
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option("--encoding", help="Encoding of text files; by default UTF-8, or from their mark."),
    ] = None,
    delimiter: Annotated[
        str | None, typer.Option("--delimiter", help="Between the cells of a CSV; by default a comma, or a tab in TSV.")
    ] = None,
    quotes: Annotated[
        str | None, typer.Option("--quotes", help="What quotes in CSV and TSV mean: doubled, backslash or none.")
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
    from pipeline.datasets import rows_called
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
    named = {"text_column": text_column, "image_column": image_column, "second_column": second_column}
    for key, column in named.items():
        if column and key not in COLUMNS[predictor.kind]:
            option = key.replace("_", "-")
            there = " and ".join(f"--{name.replace('_', '-')}" for name in COLUMNS[predictor.kind])
            raise UserError(f"--{option}: this student reads {rows_called(predictor.kind)}; they have {there}")
    table: dict[str, str | None] = {**predictor.table}
    if text_column:
        table.pop("template", None)
    table |= {key: column for key, column in named.items() if column}
    table |= {"id_column": id_column, "encoding": encoding, "delimiter": delimiter, "quotes": quotes}
    rows: TextInputs | ImageInputs = (
        ImageInputs(inputs, table) if "image" in predictor.kind else TextInputs(inputs, table, lines(sys.stdin))
    )
    done = predict_to(predictor, rows, output, top)
    if output == "-":
        command.say(str(done))
    else:
        command.show(done, as_json)
    if done.unreadable:
        raise typer.Exit(1)
