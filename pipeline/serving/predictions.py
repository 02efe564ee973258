"""Predictions for files: rows are read, prepared, predicted and written batch by batch."""

import csv
import io
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.ahead import ahead
from pipeline.datasets import NewRows
from pipeline.errors import UserError, count
from pipeline.files import FORMULA, cell, refuse_url, replacing
from pipeline.predict import THREADS, Predictions, Predictor
from pipeline.progress import progress
from pipeline.serving.inputs import ImageInputs, TextInputs, exactly

STDOUT = "-"

UNREADABLE = ".unreadable.csv"
"""The suffix, after the name of the output, of the file that lists the rows that could not be read."""


GROUP = 1 << 20
"""Bytes of predictions that are written to a Parquet file together."""


@dataclass(frozen=True)
class Predicted:
    """What `predict_to` did.

    Attributes:
        output: the file.
        rows: the number of predicted rows.
        unreadable: the number of rows that could not be read.
        skipped: the number of files in folders that are not images.
    """

    output: str
    rows: int
    unreadable: int
    skipped: int

    def __str__(self) -> str:
        parts = [count(self.rows, "row")]
        if self.unreadable:
            where = "" if self.output == STDOUT else f" (listed in {self.output}{UNREADABLE})"
            parts.append(f"{self.unreadable:,} not read{where}")
        if self.skipped:
            parts.append(f"{count(self.skipped, 'file')} skipped, not images")
        return f"{'standard output' if self.output == STDOUT else self.output}: {'; '.join(parts)}"


@dataclass(frozen=True)
class EncodedBatch:
    """A batch: the ids of its rows, the student's input, and the rows that could not be read, with the reasons."""

    ids: list[str]
    batch: Any
    problems: list[tuple[str, str]]


def predict_to(
    predictor: Predictor, inputs: TextInputs | ImageInputs, output: str, top: int | None = None
) -> Predicted:
    """Predict all rows, and write a table of ids, predictions and probabilities; whole or not at all.

    Rows that cannot be read are listed next to the output, or on stderr. Only a few batches are in memory at a time.

    Args:
        predictor: the student.
        inputs: the rows.
        output: a file that ends in .csv or .parquet, or `-` for CSV on standard output.
        top: write this many classes per row, the most probable first, instead of the probabilities of all.

    Raises:
        UserError: the output cannot be written, an input has the wrong form, or no row can be read.
    """
    table = PredictionTable(predictor, top)
    _check_output(output, inputs)
    predicted = unreadable = 0
    first = ""
    with ExitStack() as stack:
        advance = stack.enter_context(progress("predict", inputs.count(), "row"))
        lines = stack.enter_context(_writer(output, table))
        refuse = stack.enter_context(_listing(output))
        batches = _batches(predictor, inputs.blocks(predictor.batch_size))
        # On a CPU a thread that reads texts and the student would only wait for each other.
        beside = "image" in predictor.kind or predictor.device.type != "cpu"
        for encoded in stack.enter_context(ahead(batches) if beside else nullcontext(batches)):
            for id, problem in encoded.problems:
                refuse(id, problem)
                first = first or f"{id}: {problem}"
            if encoded.ids:
                lines(encoded.ids, predictor.predictions(predictor.outputs(encoded.batch)))
            predicted += len(encoded.ids)
            unreadable += len(encoded.problems)
            advance(len(encoded.ids) + len(encoded.problems))
        if not predicted:
            raise UserError(f"no row could be read; the first is {first}" if first else "there are no rows to predict")
    return Predicted(output, predicted, unreadable, inputs.skipped)


def _check_output(output: str, inputs: TextInputs | ImageInputs) -> None:
    if output == STDOUT:
        return
    path = Path(output)
    refuse_url(path)
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise UserError(f"--output {output}: write a name that ends in .csv or .parquet, or - for standard output")
    if not path.parent.is_dir():
        raise UserError(f"--output {output}: no folder {path.parent}; make it first")
    if path.is_dir():
        raise UserError(f"--output {output}: is a folder; choose another name")
    if path.exists() and any(Path(name).exists() and path.samefile(name) for name in inputs.names):
        raise UserError(f"--output {output}: is one of the inputs; choose another name")


def _batches(predictor: Predictor, blocks: Iterator[NewRows]) -> Iterator[EncodedBatch]:
    with ThreadPoolExecutor(THREADS) as pool:
        for block in exactly(predictor.batch_size, blocks):
            contents, unread = predictor.read_all(block.contents, pool)
            unread |= {row: problem for row, problem in enumerate(block.problems) if problem}
            ids = block.ids
            problems = [(ids[row], _without_path(ids[row], unread[row])) for row in sorted(unread)]
            if unread:
                sound = [row for row in range(len(block)) if row not in unread]
                ids, contents = [ids[row] for row in sound], [contents[row] for row in sound]
            yield _encoded(predictor, ids, contents, problems)


def _without_path(id: str, problem: str) -> str:
    """What is wrong with a row, without the path of its image, which its id is, or the end of it."""
    path, _, rest = problem.partition(": ")
    own = Path(id).parts
    return rest if rest and own and Path(path).parts[-len(own) :] == own else problem


def _encoded(
    predictor: Predictor, ids: list[str], contents: Sequence[Any], problems: list[tuple[str, str]]
) -> EncodedBatch:
    """A batch of rows; without those that cannot be encoded, if there are any."""
    if not ids:
        return EncodedBatch([], None, problems)
    try:
        return EncodedBatch(ids, predictor.encode(contents), problems)
    except ValueError:
        sound = []
        for id, content in zip(ids, contents, strict=True):
            try:
                predictor.encode([content])
                sound.append((id, content))
            except ValueError as error:
                problems = [*problems, (id, str(error))]
        return _encoded(predictor, [id for id, _ in sound], [content for _, content in sound], problems)


class PredictionTable:
    """The columns of the output.

    Args:
        predictor: the student.
        top: as in `predict_to`.

    Raises:
        UserError: `top` is given, but there are no classes.
    """

    def __init__(self, predictor: Predictor, top: int | None):
        task = predictor.task
        if top is not None and task.name == "regression":
            raise UserError("--top: a regression has no classes; leave it out")
        self.classes = np.array(task.outputs, dtype=object)
        self.top = None if top is None else min(top, len(self.classes))
        self.several = task.name == "multilabel"
        prediction = {"multilabel": pa.list_(pa.string()), "regression": pa.float32()}.get(task.name, pa.string())
        fields = [("id", pa.string()), ("prediction", prediction)]
        if self.top is not None:
            for place in range(1, self.top + 1):
                fields += [(f"class_{place}", pa.string()), (f"p_{place}", pa.float32())]
        elif task.name != "regression":
            fields += [(f"p_{name}", pa.float32()) for name in task.outputs]
        self.schema = pa.schema(fields)

    def columns(self, ids: Sequence[str], found: Predictions) -> list[Any]:
        """Values by column."""
        columns: list[Any] = [ids, found.predictions]
        if found.probabilities is None:
            return [ids, found.outputs[:, 0]]
        probabilities = found.probabilities.astype(np.float32)
        if self.top is None:
            return [*columns, *probabilities.T]
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, : self.top]
        for place in order.T:
            columns += [self.classes[place], np.take_along_axis(probabilities, place[:, None], 1)[:, 0]]
        return columns

    def lines(self, ids: Sequence[str], found: Predictions) -> str:
        """Lines of a CSV file, in which a spreadsheet will not run any cell as a formula."""
        columns = self.columns(ids, found)
        if self.several:
            columns[1] = [";".join(names) for names in found.predictions]
        elif found.probabilities is None:
            # The shortest digits that name a float32.
            columns[1] = found.outputs[:, 0].astype(str).tolist()
        numeric = [isinstance(values, np.ndarray) and values.dtype == np.float32 for values in columns]
        line = ",".join("%.7g" if number else "%s" for number in numeric) + "\n"
        cells = [v.tolist() if number else csv_cells(v) for v, number in zip(columns, numeric, strict=True)]
        return "".join([line % row for row in zip(*cells, strict=True)])


def csv_cells(values: Sequence[str]) -> Sequence[str]:
    """A column of texts as cells of a CSV file. Texts that repeat are looked at once, and all together first."""
    joined = "\n".join(values)
    if not _ODD.search(joined) and joined.count("\n") < len(values):
        return values
    known = {value: _csv_cell(value) for value in set(values)}
    return [known[value] for value in values]


def _csv_cell(value: str) -> str:
    text = cell(value)
    return '"' + text.replace('"', '""') + '"' if _QUOTED.search(text) else text


_QUOTED = re.compile(r'[",\r\n]')
_ODD = re.compile(rf'(?m)[",\r]|^(?:{FORMULA.pattern})')


Lines = Callable[[Sequence[str], Predictions], None]


@contextmanager
def _writer(output: str, table: PredictionTable) -> Iterator[Lines]:
    """Writes predictions; the file gets its name when it is complete."""
    if output == STDOUT:
        yield _csv(sys.stdout, table)
        return
    with replacing(Path(output)) as file:
        if output.lower().endswith(".parquet"):
            with _parquet(file, table) as lines:
                yield lines
        else:
            text = io.TextIOWrapper(file, "utf-8", newline="")
            yield _csv(text, table)
            text.detach()


def _csv(file: Any, table: PredictionTable) -> Lines:
    header = ",".join(csv_cells(table.schema.names)) + "\n"

    def lines(ids: Sequence[str], found: Predictions) -> None:
        nonlocal header
        file.write(header + table.lines(ids, found))
        header = ""  # written once, and not at all where no row can be read

    return lines


@contextmanager
def _parquet(file: Any, table: PredictionTable) -> Iterator[Lines]:
    waiting: list[pa.RecordBatch] = []  # a row group for each batch would be slow to write and to read
    size = 0

    # Names of classes repeat. Dictionaries of ids and probabilities, which do not, take three times as long to write.
    repeated = [name for name in table.schema.names if name == "prediction" or name.startswith("class_")]
    paths = [f"{name}.list.element" if table.several and name == "prediction" else name for name in repeated]
    with pq.ParquetWriter(file, table.schema, use_dictionary=paths) as writer:

        def lines(ids: Sequence[str], found: Predictions) -> None:
            nonlocal size
            arrays = [pa.array(v, field.type) for v, field in zip(table.columns(ids, found), table.schema, strict=True)]
            waiting.append(pa.record_batch(arrays, schema=table.schema))
            size += waiting[-1].nbytes
            if size >= GROUP:
                writer.write_table(pa.Table.from_batches(waiting, table.schema))
                waiting.clear()
                size = 0

        yield lines
        writer.write_table(pa.Table.from_batches(waiting, table.schema))


@contextmanager
def _listing(output: str) -> Iterator[Callable[[str, str], None]]:
    """Lists rows that cannot be read: in a file next to the output, or on stderr."""
    if output == STDOUT:
        yield lambda id, problem: print(f"not read: {id}: {problem}", file=sys.stderr)
        return
    path = Path(output + UNREADABLE)
    path.unlink(missing_ok=True)
    with ExitStack() as stack:
        writer: Any = None

        def refuse(id: str, problem: str) -> None:
            nonlocal writer
            if writer is None:
                file = stack.enter_context(path.open("w", encoding="utf-8", newline=""))
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(["id", "problem"])
            writer.writerow([cell(id), cell(problem)])

        yield refuse
