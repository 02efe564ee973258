"""Tables in Arrow and Parquet, whose columns have types: their rows, checked to stay inside of their bytes."""

import json
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import pyarrow as pa

from pipeline import parquet
from pipeline.datasets._rows import TableBlock, TableRow, Wanted, check
from pipeline.errors import UserError
from pipeline.objects import ObjectPath, Place, size_of

Table = tuple[pa.Schema, Iterable[pa.RecordBatch]]


def _parquet(path: Place, wanted: Wanted, first: int) -> tuple[Table, int]:
    """The table from a row on, or from some before it, and the number of its first row; the same for Arrow."""
    file = parquet.opened(path)
    check(str(path), wanted.columns, file.schema_arrow.names)
    group = number = 0
    while group < file.num_row_groups and number + (rows := file.metadata.row_group(group).num_rows) <= first:
        group, number = group + 1, number + rows
    return (file.schema_arrow, parquet.batches(path, file, wanted.columns, group)), number


def _arrow(path: Place, wanted: Wanted, first: int) -> tuple[Table, int]:
    schema, batches = arrow(path)
    check(str(path), wanted.columns, schema.names)
    return (schema, (batch.select(list(wanted.columns)) for batch in batches)), 0


def arrow(path: Place) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """A file of Arrow: its schema and its rows.

    Raises:
        UserError: it is missing, or no file of Arrow; reading its rows, that it is damaged.
    """
    if size_of(path) is None:
        raise UserError(f"{path}: no such file")
    batches: Iterable[pa.RecordBatch]
    try:
        source = (
            pa.PythonFile(path.open(ahead=parquet.PIECE)) if isinstance(path, ObjectPath) else pa.memory_map(str(path))
        )
        try:
            file = pa.ipc.open_file(source)
            batches = (file.get_batch(number) for number in range(file.num_record_batches))
        except pa.ArrowInvalid:  # a stream, as the package `datasets` writes
            source.seek(0)
            file = batches = pa.ipc.open_stream(source)
        schema = file.schema
        schema.names  # noqa: B018, which decodes them
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise unreadable(path, error) from None

    def checked() -> Iterator[pa.RecordBatch]:
        try:
            for batch in batches:
                for column in batch.columns:
                    _validate(column)
                yield batch
        except (OSError, pa.ArrowException) as error:
            raise unreadable(path, error) from None

    return schema, checked()


def _validate(column: pa.Array) -> None:
    """Check that a column stays inside of its bytes: Arrow believes what a file says, and would read other memory.

    Raises:
        pa.ArrowInvalid: it does not. Texts may hold bytes that are not UTF-8; their rows are told later.
    """
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        as_bytes = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary(), pa.string_view(): pa.binary_view()}
        if column.type not in as_bytes:
            raise
        column.view(as_bytes[column.type]).validate(full=True)


def unreadable(path: Place, error: Exception) -> UserError:
    """What to raise for a file that a library cannot read."""
    return UserError(f"{path}: cannot be read: {' '.join(str(error).split())}")


ARROW = {".parquet": _parquet, ".arrow": _arrow, ".feather": _arrow}


def arrow_rows(table: Table, file: str, wanted: Wanted) -> Iterator[TableRow]:
    """The rows of Arrow batches; see `arrow_blocks`."""
    for block in arrow_blocks(table, file, wanted):
        yield from block.rows()


def arrow_blocks(
    table: Table, file: str, wanted: Wanted, size: int = parquet.BATCH_ROWS, number: int = 0, first: int = 0
) -> Iterator[TableBlock]:
    """The rows of Arrow batches, in blocks of at most `size`.

    Class numbers become names if `datasets` has put the names into the schema.

    Args:
        number: of the first row of the table in the file, from 0.
        first: the number of the first row to give.

    Raises:
        UserError: a cell has a type that Python does not have.
    """
    schema, batches = table
    classes = _class_names(schema)
    for batch in batches:
        if number + len(batch) <= first:
            number += len(batch)
            continue
        columns = {}
        for name in wanted.columns:
            cells = _cells(batch.column(name))
            columns[name] = [_named(cell, classes[name]) for cell in cells] if name in classes else cells
        for start in range(max(0, first - number), len(batch), size):
            block = {name: cells[start : start + size] for name, cells in columns.items()}
            yield TableBlock(block, partial(_rows, block, file, number + start + 1))
        number += len(batch)


def _rows(cells: dict[str, list[Any]], file: str, first: int) -> Iterator[TableRow]:
    for number, values in enumerate(zip(*cells.values(), strict=True), first):
        yield TableRow(dict(zip(cells, values, strict=True)), file, number)


def _cells(column: pa.Array) -> list[Any]:
    """A column as Python objects; bytes of text that are not UTF-8 become lone surrogates, as in text files."""
    return parquet.cells(column, _plain_cells)


def _plain_cells(column: pa.Array) -> list[Any]:
    try:
        found: list[Any] = column.to_pylist()
        return found
    except UnicodeDecodeError:
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            raise UserError(f"a column of type {column.type} holds bytes that are not text in UTF-8") from None
        raw = column.cast(pa.large_binary()).to_pylist()
        return [None if cell is None else cell.decode(errors="surrogateescape") for cell in raw]


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """The names of classes by column, as the package `datasets` writes them into a schema."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"].items()
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return {}
    return {name: names for name, feature in features if (names := _names_of(feature)) is not None}


def _names_of(feature: Any) -> list[str] | None:
    """The names of the classes of a column, or in its lists, which older versions describe by a list."""
    if isinstance(feature, list):
        feature = feature[0] if feature else None
    elif isinstance(feature, dict) and feature.get("_type") in ("List", "LargeList", "Sequence"):
        feature = feature.get("feature")
    if not isinstance(feature, dict) or feature.get("_type") != "ClassLabel":
        return None
    return list(map(str, feature["names"])) if isinstance(feature.get("names"), list) else None


def _named(cell: Any, names: list[str]) -> Any:
    if isinstance(cell, list):
        return [_named(one, names) for one in cell]
    return names[cell] if isinstance(cell, int) and 0 <= cell < len(names) else cell
