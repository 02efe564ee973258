"""Predictions for files: rows are read, prepared, predicted and written batch by batch."""

import csv
import io
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pipeline.ahead import ahead
from pipeline.datasets import NewRows
from pipeline.errors import UserError, count
from pipeline.files import FORMULA, cell, refuse_url, replacing
from pipeline.forks import can_fork, in_turns
from pipeline.objects import is_url, version_of
from pipeline.predict import THREADS, Predictions, Predictor
from pipeline.progress import progress
from pipeline.serving.inputs import STDIN, ImageInputs, TextInputs, exactly

STDOUT = "-"

UNREADABLE = ".unreadable.csv"
"""The suffix, after the name of the output, of the file that lists the rows that could not be read."""


ALONE = 20_000
"""Fewer rows are finished by one process before copies of it would have gained anything."""

MOST = 8
"""The most copies: each of them reads all rows, which takes a tenth of the time of finishing them."""

GROUP = 1 << 20
"""Bytes of predictions that are written to a Parquet file together."""

Form = Callable[[Sequence[str], Predictions], Any]
"""What `PredictionTable` makes of the ids of rows and the predictions for them."""


@dataclass(frozen=True)
class Predicted:
    """What `predict_to` did.

    Attributes:
        output: the file.
        rows: the number of predicted rows.
        unreadable: the number of rows that could not be read.
        skipped: the number of files in folders that are not images.
        notes: what the user should know of how rows were read, as `aft prepare` remarks on it.
    """

    output: str
    rows: int
    unreadable: int
    skipped: int
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [count(self.rows, "row")]
        if self.unreadable:
            where = "" if self.output == STDOUT else f" (listed in {self.output}{UNREADABLE})"
            parts.append(f"{self.unreadable:,} not read{where}")
        if self.skipped:
            parts.append(f"{count(self.skipped, 'file')} skipped, not images")
        line = f"{'standard output' if self.output == STDOUT else self.output}: {'; '.join(parts)}"
        return "\n".join([line, *(f"note: {note}" for note in self.notes)])


@dataclass(frozen=True)
class FinishedBatch:
    """A batch as it is written.

    Attributes:
        made: its part of the output: lines of CSV, or a batch of Arrow; None if it has no rows.
        rows: how many it has.
        problems: the rows that could not be read, with the reasons.
        remarks: the ids of rows with remarks on how they were read, and what these are.
    """

    made: Any
    rows: int
    problems: list[tuple[str, str]]
    remarks: list[tuple[str, tuple[str, ...]]]


@dataclass(frozen=True)
class EncodedBatch:
    """A batch: the ids of its rows, the student's input, and the rest as in `FinishedBatch`."""

    ids: list[str]
    batch: Any
    problems: list[tuple[str, str]]
    remarks: list[tuple[str, tuple[str, ...]]]


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
    first, remarked = "", dict[str, tuple[int, str]]()
    rows, form = inputs.count(), table.batch if output.lower().endswith(".parquet") else table.lines
    with ExitStack() as stack:
        batches = stack.enter_context(_finished(predictor, inputs, rows, form))
        advance = stack.enter_context(progress("predict", rows, "row"))
        write = stack.enter_context(_writer(output, table))
        refuse = stack.enter_context(_listing(output))
        for batch in batches:
            for id, problem in batch.problems:
                refuse(id, problem)
                first = first or f"{id}: {problem}"
            for id, remarks in batch.remarks:
                for remark in remarks:
                    times, first_id = remarked.get(remark, (0, id))
                    remarked[remark] = (times + 1, first_id)
            if batch.rows:
                write(batch.made)
            predicted += batch.rows
            unreadable += len(batch.problems)
            advance(batch.rows + len(batch.problems))
        if not predicted:
            raise UserError(f"no row could be read; the first is {first}" if first else "there are no rows to predict")
    notes = [
        f"{count(times, 'row')}: {remark} (the first is row {id})" for remark, (times, id) in sorted(remarked.items())
    ]
    return Predicted(output, predicted, unreadable, inputs.skipped, tuple(notes))


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


@contextmanager
def _finished(
    predictor: Predictor, inputs: TextInputs | ImageInputs, rows: int | None, form: Form
) -> Iterator[Iterator[FinishedBatch]]:
    """All batches, in order.

    Where Python alone prepares the rows of a large input, copies of this process share it: each reads all of it, which
    takes little, and finishes every so many batches.
    """
    size = predictor.batch_size

    def finish(batch: EncodedBatch) -> FinishedBatch:
        found = form(batch.ids, predictor.predictions(predictor.outputs(batch.batch))) if batch.ids else None
        return FinishedBatch(found, len(batch.ids), batch.problems, batch.remarks)

    def share(number: int, of: int) -> Iterator[EncodedBatch]:
        return _batches(predictor, islice(exactly(size, inputs.blocks(size)), number, None, of))

    copies = _copies(predictor, inputs, rows)  # as many as torch has threads
    with ExitStack() as stack:
        if predictor.in_python:
            stack.enter_context(_one_thread())
        if copies > 1:
            versions = _versions(inputs)
            made = stack.enter_context(in_turns(lambda number: map(finish, share(number, copies)), copies))
            yield _unchanged(made, inputs, versions)
        elif "image" in predictor.kind or predictor.device.type != "cpu":
            yield map(finish, stack.enter_context(ahead(share(0, 1))))
        else:  # on a CPU a thread that reads texts and the student would only wait for each other
            yield map(finish, share(0, 1))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Inside, torch has one thread: for small operations, others are waited for longer than they help.

    Copies of this process have to have one: threads that have worked before are not there, and would be waited for.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _copies(predictor: Predictor, inputs: TextInputs | ImageInputs, rows: int | None) -> int:
    """How many copies of this process share the rows; 1 if there are none."""
    files = not any(name == STDIN or is_url(name) for name in inputs.names)
    if not (predictor.in_python and files and can_fork()) or (rows is not None and rows < ALONE):
        return 1
    return min(torch.get_num_threads(), MOST)


def _versions(inputs: TextInputs | ImageInputs) -> dict[str, str]:
    """By file, what changes when it is replaced or written to."""
    return {name: version_of(Path(name)) for name in inputs.names}


def _unchanged(
    batches: Iterator[FinishedBatch], inputs: TextInputs | ImageInputs, versions: dict[str, str]
) -> Iterator[FinishedBatch]:
    """Batches of files that several processes read. Raises `UserError` at the end if they may have read others."""
    yield from batches
    for name, version in _versions(inputs).items():
        if version != versions[name]:
            raise UserError(f"{name}: has changed while it was read; run it again")


def _batches(predictor: Predictor, blocks: Iterator[NewRows]) -> Iterator[EncodedBatch]:
    """Blocks, which have the rows of a batch each, as they are given to the student."""
    with ThreadPoolExecutor(THREADS) as pool:
        for block in blocks:
            contents, unread = predictor.read_all(block.contents, pool)
            unread |= {row: problem for row, problem in enumerate(block.problems) if problem}
            ids, remarks = block.ids, [one for one in zip(block.ids, block.remarks, strict=True) if one[1]]
            problems = [(ids[row], _without_path(ids[row], unread[row])) for row in sorted(unread)]
            if unread:
                sound = [row for row in range(len(block)) if row not in unread]
                ids, contents = [ids[row] for row in sound], [contents[row] for row in sound]
            yield _encoded(predictor, ids, contents, problems, remarks)


def _without_path(id: str, problem: str) -> str:
    """What is wrong with a row, without the path of its image, which its id is, or the end of it."""
    path, _, rest = problem.partition(": ")
    own = Path(id).parts
    return rest if rest and own and Path(path).parts[-len(own) :] == own else problem


def _encoded(
    predictor: Predictor,
    ids: list[str],
    contents: Sequence[Any],
    problems: list[tuple[str, str]],
    remarks: list[tuple[str, tuple[str, ...]]],
) -> EncodedBatch:
    """A batch of rows; without those that cannot be encoded, if there are any."""
    if not ids:
        return EncodedBatch([], None, problems, remarks)
    try:
        return EncodedBatch(ids, predictor.encode(contents), problems, remarks)
    except ValueError:
        sound = []
        for id, content in zip(ids, contents, strict=True):
            try:
                predictor.encode([content])
                sound.append((id, content))
            except ValueError as error:
                problems = [*problems, (id, str(error))]
        return _encoded(predictor, [id for id, _ in sound], [content for _, content in sound], problems, remarks)


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

    def batch(self, ids: Sequence[str], found: Predictions) -> pa.RecordBatch:
        """Rows of a Parquet file."""
        columns = zip(self.columns(ids, found), self.schema, strict=True)
        return pa.record_batch([pa.array(values, field.type) for values, field in columns], schema=self.schema)

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


@contextmanager
def _writer(output: str, table: PredictionTable) -> Iterator[Callable[[Any], None]]:
    """Writes what a table has made of batches; the file gets its name when it is complete."""
    if output == STDOUT:
        yield _csv(sys.stdout, table)
        return
    with replacing(Path(output)) as file:
        if output.lower().endswith(".parquet"):
            with _parquet(file, table) as write:
                yield write
        else:
            text = io.TextIOWrapper(file, "utf-8", newline="")
            yield _csv(text, table)
            text.detach()


def _csv(file: Any, table: PredictionTable) -> Callable[[str], None]:
    header = ",".join(csv_cells(table.schema.names)) + "\n"

    def write(lines: str) -> None:
        nonlocal header
        file.write(header + lines)
        header = ""  # written once, and not at all where no row can be read

    return write


@contextmanager
def _parquet(file: Any, table: PredictionTable) -> Iterator[Callable[[pa.RecordBatch], None]]:
    waiting: list[pa.RecordBatch] = []  # a row group for each batch would be slow to write and to read
    size = 0

    # Names of classes repeat. Dictionaries of ids and probabilities, which do not, take three times as long to write.
    repeated = [name for name in table.schema.names if name == "prediction" or name.startswith("class_")]
    paths = [f"{name}.list.element" if table.several and name == "prediction" else name for name in repeated]
    with pq.ParquetWriter(file, table.schema, use_dictionary=paths) as writer:

        def write(batch: pa.RecordBatch) -> None:
            nonlocal size
            waiting.append(batch)
            size += batch.nbytes
            if size >= GROUP:
                writer.write_table(pa.Table.from_batches(waiting, table.schema))
                waiting.clear()
                size = 0

        yield write
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
