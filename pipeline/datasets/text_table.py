"""A table with a column of text: CSV, TSV, Parquet or JSON Lines, by the file's name.

Ids and labels are read as the text they are: "007" stays "007". Without an `id_column`, a row's id is the digest of its
text (with -2, -3 ... for repeats), and not its number: rows may then be added, removed or sorted, and what was computed
for the others is found again. That costs about 100 bytes of memory a row while the table is read; an `id_column`
costs nothing.
"""

import json
from collections import Counter
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq

from pipeline.datasets import Row
from pipeline.errors import UserError
from pipeline.params import Settings as Section

KIND = "text"


class Settings(Section):
    """`path` to the table, and which column holds what. An empty label is no label."""

    path: str
    text_column: str = "text"
    label_column: str | None = None
    id_column: str | None = None
    split_column: str | None = None
    group_column: str | None = None
    encoding: str = "utf8"
    """Of CSV and TSV files."""


def rows(settings: Settings) -> Iterator[Row]:
    """The rows of the table, in its order."""
    seen: Counter[str] = Counter()
    optional = (settings.label_column, settings.id_column, settings.split_column, settings.group_column)
    wanted = dict.fromkeys([settings.text_column, *(name for name in optional if name)])
    for number, record in enumerate(_records(settings, list(wanted)), start=1):
        cell = {name: None if value is None else str(value) for name, value in record.items()}
        text = cell[settings.text_column] or ""
        if settings.id_column is None:
            id = blake2b(text.encode(errors="surrogatepass"), digest_size=8).hexdigest()
            seen[id] += 1
            id = id if seen[id] == 1 else f"{id}-{seen[id]}"
        else:
            id = cell[settings.id_column] or ""
            if not id:
                raise UserError(f"{settings.path}: row {number} has nothing in column {settings.id_column!r}")
        label, split, group = (
            cell[name] or None if name else None
            for name in (settings.label_column, settings.split_column, settings.group_column)
        )
        yield Row(id, text, label, split, group)


def _records(settings: Settings, wanted: list[str]) -> Iterator[dict[str, Any]]:
    path = Path(settings.path)
    readers = {".csv": _csv, ".tsv": _csv, ".parquet": _parquet, ".jsonl": _jsonl, ".ndjson": _jsonl}
    if path.suffix.lower() not in readers:
        raise UserError(f"{path}: not a table this reads; its name must end in {', '.join(readers)}")
    try:
        yield from readers[path.suffix.lower()](path, wanted, settings.encoding)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check dataset.source.path") from None
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None


def _csv(path: Path, wanted: list[str], encoding: str) -> Iterator[dict[str, Any]]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reading = csv.ReadOptions(encoding=encoding, block_size=1 << 24)
    parsing = csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    converting = csv.ConvertOptions(column_types={name: pa.string() for name in wanted}, strings_can_be_null=False)
    with csv.open_csv(path, reading, parsing, converting) as reader:
        _check(path, wanted, reader.schema.names)
        for batch in reader:
            yield from batch.select(wanted).to_pylist()


def _parquet(path: Path, wanted: list[str], encoding: str) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(path) as file:
        _check(path, wanted, file.schema_arrow.names)
        for batch in file.iter_batches(columns=wanted):
            yield from batch.to_pylist()


def _jsonl(path: Path, wanted: list[str], encoding: str) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{path}: line {number} is not valid JSON: {error}") from None
            if not isinstance(record, dict):
                raise UserError(f"{path}: line {number} is not a JSON object")
            if number == 1:
                _check(path, wanted, list(record))
            yield {name: record.get(name) for name in wanted}


def _check(path: Path, wanted: list[str], there: list[str]) -> None:
    if missing := [name for name in wanted if name not in there]:
        raise UserError(f"{path}: no column {missing[0]!r}; there are {', '.join(map(repr, there))}")
