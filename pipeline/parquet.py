"""Untrusted Parquet files: read in batches, and refused if a few bytes claim to hold very many.

A page of a kilobyte may stand for a billion equal values, or for a text of a gigabyte. So, before anything is decoded:

- a table may have at most as many rows as bytes, because useful rows differ;
- its values, and its pages before compression, may be no larger than `files.refuse_bomb` allows;
- repeated texts are kept once while they are read; if cells hold lists of texts, few rows are read at a time; and all
  texts together keep to the same limit.

A single page may still claim up to 2 GiB, Parquet's own limit, and the list of one cell may repeat a text.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import UserError, count
from pipeline.files import refuse_bomb
from pipeline.objects import ObjectPath, Place, size_of

BATCH_ROWS = 1 << 16
BATCH_BYTES = 64 << 20
PIECE = 1 << 16
WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 8, "BYTE_ARRAY": 0}
"""Bytes of a value in memory, by type; unknown for texts until they are read."""


def opened(path: Place, memory_map: bool = False) -> pq.ParquetFile:
    """An open Parquet file whose claims were checked. Columns of texts, but not of lists, are read as dictionaries.

    Raises:
        UserError: it claims more rows or values than its bytes can plausibly hold.
        pa.ArrowException, OSError: it is not a Parquet file.
    """
    if (size := size_of(path)) is None:
        raise FileNotFoundError(str(path))
    with pq.ParquetFile(_source(path)) as file:
        claims, schema = file.metadata, file.schema
    if claims.num_rows > size:
        raise UserError(f"{path}: claims {count(claims.num_rows, 'row')}, but has only {size:,} bytes; write it again")
    texts = set()
    for group in map(claims.row_group, range(claims.num_row_groups)):
        for number in range(group.num_columns):
            column = group.column(number)
            each = WIDTHS.get(column.physical_type, schema.column(number).length)
            refuse_bomb(path, max(column.total_uncompressed_size, each * column.num_values), size)
            if column.physical_type == "BYTE_ARRAY" and not _is_nested(column):
                texts.add(column.path_in_schema)
    return pq.ParquetFile(
        _source(path), read_dictionary=sorted(texts), memory_map=memory_map, pre_buffer=isinstance(path, ObjectPath)
    )


def batches(
    path: Place, file: pq.ParquetFile, columns: Sequence[str], first_group: int = 0
) -> Iterator[pa.RecordBatch]:
    """The rows of some columns, in order, in batches; from a row group on.

    Raises:
        UserError: their texts take more bytes than the file can plausibly hold.
        pa.ArrowException, OSError: it is damaged.
    """
    total, size = 0, size_of(path)
    for number in range(first_group, file.num_row_groups):
        rows = _batch_rows(file.metadata.row_group(number), columns)
        for batch in file.iter_batches(rows, row_groups=[number], columns=list(columns)):
            total += sum(map(_text_bytes, batch.columns))
            refuse_bomb(path, total, size)
            yield batch


def _source(path: Place) -> Any:
    """What pyarrow reads a file from; of an object, only what it asks for."""
    return path.open(ahead=PIECE) if isinstance(path, ObjectPath) else path


def cells(column: pa.Array, plain: Callable[[pa.Array], list[Any]] = pa.Array.to_pylist) -> list[Any]:
    """A column as Python objects. Repeated texts are one object if `opened` reads them as a dictionary.

    Args:
        plain: converts a column that is not a dictionary.
    """
    if not pa.types.is_dictionary(column.type):
        return plain(column)
    texts, indices = column.dictionary, column.indices
    if len(texts) > len(indices):  # it has all texts of the batches before it, too
        used = indices.dictionary_encode()
        texts, indices = texts.take(used.dictionary), used.indices
    known = plain(texts)
    if indices.null_count:
        return [None if index is None else known[index] for index in indices.to_pylist()]
    return list(map(known.__getitem__, indices.to_pylist()))


def _batch_rows(group: pq.RowGroupMetaData, columns: Sequence[str]) -> int:
    """How many rows to read at a time: pyarrow repeats texts in lists, and one may be as long as all pages."""
    chunks = map(group.column, range(group.num_columns))
    lists = [chunk for chunk in chunks if chunk.physical_type == "BYTE_ARRAY" and _is_nested(chunk)]
    longest = sum(
        chunk.total_uncompressed_size * chunk.num_values
        for chunk in lists
        if chunk.path_in_schema.partition(".")[0] in columns
    )
    return max(1, min(BATCH_ROWS, BATCH_BYTES * group.num_rows // max(1, longest)))


def _is_nested(chunk: pq.ColumnChunkMetaData) -> bool:
    return "." in chunk.path_in_schema


def _text_bytes(array: pa.Array) -> int:
    """Bytes of all texts of a column, repetitions included."""
    if pa.types.is_dictionary(array.type):
        if not _is_text(array.type.value_type):
            return 0
        return pc.sum(pc.take(pc.binary_length(array.dictionary), array.indices)).as_py() or 0
    if _is_list(array.type):
        return _text_bytes(array.flatten())
    return pc.sum(pc.binary_length(array)).as_py() or 0 if _is_text(array.type) else 0


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _is_text(kind: pa.DataType) -> bool:
    return any(
        test(kind)
        for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    )
