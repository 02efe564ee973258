"""The outputs of a run's students for validation and test rows, kept so that a new score needs no student.

`evaluations/<run>.parquet`, one row group for each seed and part, in the order of the run's seeds:

    seed      of the student
    part      `val` or `test`, of the seed's split
    id        of the row
    label     as the task has it: the number of the class, a value, or 0 and 1 for each label
    outputs   of the student, float32, in the order of `outputs` in the record: logits, or the value
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from pipeline.errors import UserError
from pipeline.files import PARTIAL, explained, make_folder, sync_path

Part = Literal["val", "test"]


@dataclass(frozen=True)
class SavedOutputs:
    """The outputs of one seed's student for the n validation or test rows of its split."""

    seed: int
    part: Part
    ids: np.ndarray
    labels: np.ndarray
    outputs: Float[np.ndarray, "n c"]


def write_outputs(path: Path, blocks: Iterable[SavedOutputs]) -> None:
    """Write the outputs of a run's students, whole or not at all. The same outputs give the same bytes.

    Raises:
        UserError: the file cannot be written.
    """
    make_folder(path.parent)
    partial = path.with_name(path.name + PARTIAL)
    tables = map(_table, blocks)
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
            for number in range(file.num_row_groups):
                table = file.read_row_group(number)
                part: Part = table["part"][0].as_py()
                yield SavedOutputs(
                    table["seed"][0].as_py(),
                    part,
                    np.array(table["id"].to_pylist(), np.str_),
                    _values(table["label"]),
                    _values(table["outputs"]),
                )
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {again}") from None
    except (OSError, KeyError, IndexError, pa.ArrowException) as error:
        raise UserError(f"{path}: damaged ({' '.join(str(error).split())[:160]}); {again} again") from None


def _table(block: SavedOutputs) -> pa.Table:
    n = len(block.ids)
    return pa.table(
        {
            "seed": pa.array(np.full(n, block.seed, np.int64)),
            "part": pa.array([block.part] * n, pa.string()),
            "id": pa.array(block.ids.tolist(), pa.string()),
            "label": _column(block.labels),
            "outputs": _column(block.outputs),
        }
    )


def _column(values: np.ndarray) -> pa.Array:
    """An array [n] as a column, and one [n, c] as a column of lists."""
    if values.ndim == 1:
        return pa.array(values)
    ends = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(np.ascontiguousarray(values).reshape(-1)))


def _values(column: pa.ChunkedArray) -> np.ndarray:
    array = column.combine_chunks()
    if pa.types.is_list(array.type):
        return _numbers(array.flatten()).reshape(len(array), -1)
    return _numbers(array)


def _numbers(array: pa.Array) -> np.ndarray:
    """Numbers as their bytes are; Arrow's to_numpy would do, but imports pandas."""
    return np.frombuffer(array.buffers()[1], array.type.to_pandas_dtype())[array.offset :][: len(array)]
