"""The second pass over a source: write the rows that are kept, and what was decided about them.

`content.arrow` is written batch by batch, so after an interruption those that are whole are kept: they are compared
with what the scan knows, and the source is read from the last part of the scan before the first row that is missing.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from itertools import compress, islice, repeat
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, UInt8

from pipeline.data.dataset import CONTENT, CONTENTS, LOCATION, ROWS, content_digest, role_column
from pipeline.data.journal import Journal
from pipeline.data.scan import Scan, row_hash, tidied
from pipeline.data.sources import Reading, Sources
from pipeline.datasets import Row, parts_of
from pipeline.errors import UserError
from pipeline.progress import progress

BATCH_ROWS, BATCH_BYTES = 1 << 16, 1 << 26
"""A batch of `content.arrow` ends at either."""

MAGIC = 8
"""Bytes of a file of Arrow before its stream."""


def copy_rows(
    folder: Path,
    sources: Sources,
    table: Scan,
    keep: Bool[np.ndarray, " n"],
    roles: UInt8[np.ndarray, "m splits"],
    referring: Path | None,
    journal: Journal,
) -> str:
    """Write `content.arrow` and `rows.parquet`; returns the digest of ids and content.

    Args:
        folder: for the files; a `content.arrow` there is gone on with.
        sources, table, keep, roles: what is written.
        referring: the folder that references are relative to, if contents are not copied.
        journal: knows from where the source can be read.

    Raises:
        UserError: the source is not as it was when it was scanned.
    """
    types = {"text": pa.large_string(), "image": pa.large_binary()}
    contents = {name: types[part] for name, part in zip(CONTENTS, parts_of(sources.kind), strict=False)}
    content_schema = pa.schema({"id": pa.string(), "digest": pa.binary(16), **(LOCATION if referring else contents)})
    columns = {role_column(split): pa.uint8() for split in range(roles.shape[1])}
    label = pa.from_numpy_dtype(table.labels.dtype) if table.labels.ndim == 1 else pa.binary(table.labels[0].nbytes)
    rows_schema = pa.schema({"id": pa.string(), "label": label, "group": pa.string(), **columns})
    hasher, written = sha256(), 0
    earlier = _earlier(folder / CONTENT, content_schema, table, keep) if journal.begun else iter(())
    known_groups = compress(journal.groups() if table.grouped else repeat(None), keep)

    def batches() -> Iterator[tuple[list[int], pa.RecordBatch, list[str | None]]]:
        done = 0
        for numbers, batch in earlier:
            done = numbers[-1] + 1
            yield numbers, batch, list(islice(known_groups, len(batch)))
        for numbers, rows in _rows(sources.rows(journal.known(done)), table, keep, done):
            batch = _batch(rows, table.digests[numbers], content_schema, referring)
            yield numbers, batch, [row.group for row in rows]

    with (
        _content_file(folder / CONTENT, content_schema, journal.begun) as content_file,
        pq.ParquetWriter(folder / ROWS, rows_schema, compression="zstd") as rows_file,
        progress("copy the data", len(roles), "rows") as advance,
    ):
        for numbers, batch, groups in batches():
            labels = table.labels[numbers]
            column = labels if labels.ndim == 1 else [row.tobytes() for row in labels]
            assigned = roles[written : written + len(batch)].T
            content_file.write_batch(batch)
            rows_file.write_batch(pa.record_batch([batch["id"], column, groups, *assigned], schema=rows_schema))
            for id, digest in zip(batch["id"].to_pylist(), batch["digest"].to_pylist(), strict=True):
                hasher.update(f"{len(id.encode())}:{id}".encode() + digest)
            written += len(batch)
            advance(len(batch))
    return hasher.hexdigest()[:32]


def _batch(
    rows: list[Row], digests: UInt8[np.ndarray, "n 16"], schema: pa.Schema, referring: Path | None
) -> pa.RecordBatch:
    contents = [row.content for row in rows]
    sides = [list(side) for side in zip(*contents, strict=True)] if isinstance(contents[0], tuple) else [contents]
    if referring:
        places = [row.location.within(referring) for row in rows if row.location]
        sides = [list(values) for values in zip(*places, strict=True)]
    return pa.record_batch([[row.id for row in rows], list(map(bytes, digests)), *sides], schema=schema)


def _rows(
    reading: Reading, table: Scan, keep: Bool[np.ndarray, " n"], done: int
) -> Iterator[tuple[list[int], list[Row]]]:
    """The rows that are kept, with their numbers in the source, from `done` on; it must be as it was when scanned."""
    numbers: list[int] = []
    rows: list[Row] = []
    size, expected = 0, iter(range(reading.begun, len(keep)))
    for row in map(tidied, reading):
        number = next(expected, -1)
        if number < 0 or row_hash(row.id) != table.rows[number].tobytes():
            raise UserError(f"dataset.source: {row.place} is new, the data changed meanwhile; run `aft prepare` again")
        if not keep[number] or number < done:
            continue
        if content_digest(row.content) != table.digests[number].tobytes():
            raise UserError(f"dataset.source: {row.place} has changed meanwhile; run `aft prepare` again")
        numbers.append(number)
        rows.append(row)
        size += sum(map(len, row.content)) if isinstance(row.content, tuple) else len(row.content)
        if len(rows) == BATCH_ROWS or size >= BATCH_BYTES:
            yield numbers, rows
            numbers, rows, size = [], [], 0
    if (number := next(expected, -1)) >= 0:
        raise UserError(f"dataset.source: {table.place(number)} has gone meanwhile; run `aft prepare` again")
    if rows:
        yield numbers, rows


def _earlier(
    path: Path, schema: pa.Schema, table: Scan, keep: Bool[np.ndarray, " n"]
) -> Iterator[tuple[list[int], pa.RecordBatch]]:
    """The batches of an unfinished file that are whole, and hold the rows that are kept, in order."""
    expected = compress(range(len(keep)), keep)
    try:
        with pa.OSFile(str(path)) as file:
            file.seek(MAGIC)
            stream = pa.ipc.open_stream(file)
            while stream.schema == schema:
                batch = stream.read_next_batch()
                batch.validate(full=True)
                numbers = list(islice(expected, len(batch)))
                digests = [table.digests[number].tobytes() for number in numbers]
                if list(map(row_hash, batch["id"].to_pylist())) != [table.rows[number].tobytes() for number in numbers]:
                    return
                if batch["digest"].to_pylist() != digests or not _sound(batch, digests):
                    return
                yield numbers, batch
    except (OSError, StopIteration, UnicodeDecodeError, pa.ArrowException):
        return


def _sound(batch: pa.RecordBatch, digests: list[bytes]) -> bool:
    """Whether contents have their digests; places of contents were compared when they were found."""
    sides = [batch[name].to_pylist() for name in CONTENTS if name in batch.schema.names]
    contents = zip(*sides, strict=True) if len(sides) > 1 else sides[0] if sides else ()
    return not sides or list(map(content_digest, contents)) == digests


@contextmanager
def _content_file(path: Path, schema: pa.Schema, goes_on: bool) -> Iterator[pa.RecordBatchFileWriter]:
    """A file to write. One to go on with gets its bytes once more, right behind where it is read, so none is lost."""
    if not (goes_on and path.exists()):
        with pa.ipc.new_file(path, schema) as writer:
            yield writer
        return
    with open(path, "r+b", buffering=0) as file:
        with pa.ipc.new_file(pa.PythonFile(file, "w"), schema) as writer:
            yield writer
        os.truncate(path, file.tell())
