"""The outputs of a run's students for validation and test rows, kept so that a new score needs no student.

`evaluations/<run>.parquet`, one row group for each seed and part, or several if it has many rows, in the order of the
run's seeds:

    seed      of the student
    part      `val` or `test`, of the seed's split
    id        of the row
    label     as the task has it: the number of the class, a value, or 0 and 1 for each label
    outputs   of the student, float32, in the order of `outputs` in the record: logits, or the value
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, groupby
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from pipeline.errors import UserError
from pipeline.files import PARTIAL, explained, make_folder, sync_path
from pipeline.ids import Ids

Part = Literal["val", "test"]

GROUP_ROWS = 1 << 20
GROUP_NUMBERS = 1 << 28
"""The most rows of a row group, and numbers in its outputs: Arrow counts those of a column in 31 bits."""


@dataclass(frozen=True)
class SavedOutputs:
    """The outputs of one seed's student for the n validation or test rows of its split."""

    seed: int
    part: Part
    ids: Ids
    labels: np.ndarray
    outputs: Float[np.ndarray, "n c"]


def write_outputs(path: Path, blocks: Iterable[SavedOutputs]) -> None:
    """Write the outputs of a run's students, whole or not at all. The same outputs give the same bytes.

    Raises:
        UserError: the file cannot be written.
    """
    make_folder(path.parent)
    partial = path.with_name(path.name + PARTIAL)
    tables = chain.from_iterable(map(_tables, blocks))
    try:
        first = next(tables)
        with pq.ParquetWriter(partial, first.schema) as writer:
            for table in chain([first], tables):
                writer.write_table(table, row_group_size=len(table))
        sync_path(partial)
        os.replace(partial, path)
    except OSError as error:
        raise explained(error, path) from error
    finally:
        partial.unlink(missing_ok=True)


def read_outputs(path: Path) -> Iterator[SavedOutputs]:
    """Read what `write_outputs` wrote, block by block.

    Raises:
        UserError: it is missing or damaged.
    """
    again = f"run `aft evaluate {path.stem}`"
    try:
        with pq.ParquetFile(path) as file:
            groups = map(file.read_row_group, range(file.num_row_groups))
            for (seed, part), tables in groupby(
                groups, lambda group: (group["seed"][0].as_py(), group["part"][0].as_py())
            ):
                table = pa.concat_tables(tables)
                ids, labels, outputs = (table[name] for name in ("id", "label", "outputs"))
                yield SavedOutputs(seed, part, Ids.of_arrow(ids), _values(labels), _values(outputs))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {again}") from None
    except (OSError, KeyError, IndexError, pa.ArrowException) as error:
        raise UserError(f"{path}: damaged ({' '.join(str(error).split())[:160]}); {again} again") from None


def _seed_and_part(group: pa.Table) -> tuple[int, Part]:
    return group["seed"][0].as_py(), group["part"][0].as_py()


def _tables(block: SavedOutputs) -> Iterator[pa.Table]:
    """The row groups of a block."""
    size = min(GROUP_ROWS, max(1, GROUP_NUMBERS // block.outputs.shape[1]))
    for start in range(0, len(block.ids), size):
        rows = slice(start, start + size)
        ids = block.ids.take(range(len(block.ids))[rows]) if len(block.ids) > size else block.ids
        yield _table(replace(block, ids=ids, labels=block.labels[rows], outputs=block.outputs[rows]))


def _table(block: SavedOutputs) -> pa.Table:
    n = len(block.ids)
    return pa.table(
        {
            "seed": pa.array(np.full(n, block.seed, np.int64)),
            "part": pa.repeat(block.part, n),
            "id": _texts(block.ids),
            "label": _column(block.labels),
            "outputs": _column(block.outputs),
        }
    )


def _texts(ids: Ids) -> pa.Array:
    lengths, text = ids.encoded(0, len(ids))
    ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.StringArray.from_buffers(len(ids), pa.py_buffer(ends), pa.py_buffer(np.ascontiguousarray(text)))


def _column(values: np.ndarray) -> pa.Array:
    """An array [n] as a column, and one [n, c] as a column of lists."""
    if values.ndim == 1:
        return pa.array(values)
    ends = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(np.ascontiguousarray(values).reshape(-1)))


def _values(column: pa.ChunkedArray) -> np.ndarray:
    if pa.types.is_list(column.type):
        return np.concatenate([_numbers(chunk.flatten()).reshape(len(chunk), -1) for chunk in column.chunks])
    return np.concatenate(list(map(_numbers, column.chunks)))


def _numbers(array: pa.Array) -> np.ndarray:
    """Numbers as their bytes are; Arrow's to_numpy would do, but imports pandas."""
    return np.frombuffer(array.buffers()[1], array.type.to_pandas_dtype())[array.offset :][: len(array)]
