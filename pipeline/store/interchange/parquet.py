"""Parquet: columns `id`, `digest` and `features`, a list of fixed size with the numbers of a row."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import parquet
from pipeline.errors import UserError, count, listed
from pipeline.store.format import shortened
from pipeline.store.interchange import Table, about_in, dtype_in

KEY = b"feature_store"
NAMES = ("features", "embedding", "embeddings")
GROUP_BYTES = 4 << 30
"""Of a row group, which is read as a whole."""


def write(path: Path, table: Table) -> None:
    """A row group for each block of rows."""
    assert table.ids is not None and table.digests is not None
    width = int(np.prod(table.shape))
    number = pa.float16() if table.dtype == "float16" else pa.float32()
    about = {**(table.about or {}), "shape": list(table.shape)}
    fields = [("id", pa.string()), ("digest", pa.binary(16)), ("features", pa.list_(number, width))]
    schema = pa.schema(fields, metadata={KEY: json.dumps(about)})
    # Features do not compress, and dictionaries of distinct numbers only cost time.
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        for start, stop in table.blocks():
            flat = pa.array(table.read(start, stop).reshape(-1), number)
            digests = [digest.tobytes() for digest in table.digests[start:stop]]
            columns = [
                pa.array(table.ids[start:stop], pa.string()),
                pa.array(digests, pa.binary(16)),
                pa.FixedSizeListArray.from_arrays(flat, width),
            ]
            writer.write_table(pa.table(columns, schema=schema))


def read(path: Path) -> Table:
    """Raises `UserError` if this is not a Parquet file with a column of equally long lists of floats."""
    try:
        file = parquet.opened(path, memory_map=True)
    except (pa.ArrowException, OSError):
        raise UserError(f"{path}: not a Parquet file, or damaged") from None
    schema = file.schema_arrow
    name = next((name for name in NAMES if name in schema.names), None)
    if name is None:
        raise UserError(f"{path}: no column `features` or `embedding`; there are {listed(schema.names)}")
    text = (schema.metadata or {}).get(KEY)
    about = None if text is None else about_in(text, path)
    if about and (missing := {"id", "digest"} - set(schema.names)):
        raise UserError(f"{path}: no column `{min(missing)}`; remove the metadata to import it without")
    ends = np.cumsum([0, *(file.metadata.row_group(k).num_rows for k in range(file.num_row_groups))])

    def rows(start: int, stop: int) -> np.ndarray:
        first, last = np.searchsorted(ends, [start, stop - 1], side="right") - 1
        groups = file.read_row_groups(range(first, last + 1), columns=[name])
        column = groups.column(name).slice(start - int(ends[first]), stop - start).combine_chunks()
        if column.null_count or not pa.types.is_floating(column.type.value_type):
            raise UserError(f"{path}: column `{name}` must hold lists of floats, none missing")
        flat = column.flatten().to_numpy(zero_copy_only=False)
        if flat.dtype == np.float64:
            flat = flat.astype(np.float32)
        if flat.size % (stop - start) or (pa.types.is_list(column.type) and len(set(np.diff(column.offsets))) > 1):
            raise UserError(f"{path}: the lists in column `{name}` differ in length")
        return flat.reshape(stop - start, *shape)

    largest = max((column.num_values for column in _columns(file, name)), default=0)
    if 4 * largest > GROUP_BYTES:
        raise UserError(
            f"{path}: a row group of {count(largest, 'number')}; write row groups of {GROUP_BYTES >> 30} GiB at most"
        )
    total = file.metadata.num_rows
    if not total or not hasattr(schema.field(name).type, "value_type"):
        raise UserError(f"{path}: column `{name}` must hold lists of floats, and some")
    shape: tuple[int, ...] = (-1,)
    first_row = rows(0, 1)
    shape = tuple(about.pop("shape")) if about else first_row.shape[1:]
    ids = None
    if "id" in schema.names:
        ids = [_name(value, path) for value in _column(path, file, "id")]
    digests = None
    if about:
        digests = np.frombuffer(b"".join(_column(path, file, "digest")), np.uint8).reshape(-1, 16)
    return Table(total, shape, dtype_in(about, first_row.dtype), rows, ids, digests, about)


def _column(path: Path, file: pq.ParquetFile, name: str) -> list[Any]:
    """All cells of a column."""
    return [cell for batch in parquet.batches(path, file, [name]) for cell in parquet.cells(batch.column(name))]


def _columns(file: pq.ParquetFile, name: str) -> list[pq.ColumnChunkMetaData]:
    """The parts of a column, in all row groups."""
    groups = map(file.metadata.row_group, range(file.num_row_groups))
    columns = (group.column(number) for group in groups for number in range(group.num_columns))
    return [column for column in columns if column.path_in_schema.partition(".")[0] == name]


def _name(value: object, path: Path) -> str:
    """The id of a row. Raises `UserError` if it is neither a text nor a number."""
    try:
        if isinstance(value, str | int | bytes):
            return value.decode() if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError:
        pass
    raise UserError(f"{path}: column `id` holds {shortened(value)}; every row needs a text or a whole number there")
