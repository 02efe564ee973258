"""A cache on disk of what students read of a dataset, computed once: decoded images, numbers of words and tokens.

    .aft/inputs/<dataset's folder>/<digest of the dataset>/<digest of the key>/
        arrays.json    type, shape and checksum of each array; written last: without it the folder is unfinished
        <name>.bin     the values of an array, row by row

Every process maps the same files, so they are in memory only once however many students train at the same time. The
folder may be deleted at any time; what is missing or damaged is computed again.
"""

import math
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pipeline.checksum import file_checksum
from pipeline.data import Dataset
from pipeline.errors import UserError
from pipeline.files import PARTIAL, explained, make_folder
from pipeline.locks import Lock
from pipeline.project import Project
from pipeline.provenance import digest_of
from pipeline.records import Record
from pipeline.verified import VerifiedFiles

ARRAYS = "arrays.json"

Chunk = Mapping[str, np.ndarray]
"""The next rows of each array, by name."""


class ArrayRecord(Record):
    """Type, shape and checksum of an array in a `.bin` file."""

    dtype: str
    shape: tuple[int, ...]
    checksum: str


class ArraysRecord(Record):
    """arrays.json: the arrays of a folder, by name."""

    arrays: dict[str, ArrayRecord]


def kept(data: Dataset, key: Mapping[str, Any]) -> bool:
    """Whether the arrays of `key` are on disk."""
    return (_folder(data, key) / ARRAYS).is_file()


def arrays(data: Dataset, key: Mapping[str, Any], chunks: Iterable[Chunk]) -> dict[str, np.ndarray]:
    """Arrays of a dataset, mapped from the disk; computed first if they are not there.

    If several processes need the same arrays at the same time, one computes them and the others wait. It also deletes
    arrays of an earlier content of the dataset's folder.

    Args:
        data: the dataset.
        key: everything that the values depend on besides the dataset's ids and content, JSON-like.
        chunks: yields the rows of all arrays, in order; not iterated if the arrays are there.

    Returns:
        Read-only arrays by name.

    Raises:
        UserError: they cannot be written.
    """
    folder = _folder(data, key)
    return arrays_at(folder, chunks, lambda: _remove_former(folder))


def _remove_former(folder: Path) -> None:
    """Delete arrays of an earlier content of the dataset's folder."""
    for other in folder.parent.parent.iterdir():
        if other != folder.parent:
            shutil.rmtree(other, ignore_errors=True)


def arrays_at(
    folder: Path, chunks: Iterable[Chunk], before: Callable[[], None] = lambda: None
) -> dict[str, np.ndarray]:
    """The arrays of a folder, mapped from the disk; computed first if they are not there; see `arrays`.

    Args:
        folder: whose name says all that the values depend on.
        chunks: yields the rows of all arrays, in order; not touched if the arrays are there.
        before: called before they are written.

    Raises:
        UserError: they cannot be written.
    """
    found = _open(folder)
    if found is None:
        lock = Lock(folder / "lock")
        lock.acquire(patience=math.inf)
        try:
            # Another process may have written them while this one waited.
            found = _open(folder)
            if found is None:
                before()
                found = _write(folder, chunks)
        finally:
            lock.release()
    return found


def _folder(data: Dataset, key: Mapping[str, Any]) -> Path:
    of = {**key, "side": data.side} if data.side else key
    return Project(data.path.parent).inputs / data.path.name / data.digest / digest_of(of)


def _open(folder: Path) -> dict[str, np.ndarray] | None:
    """The arrays of a folder, or None if they are not there, unfinished or damaged."""
    try:
        record = ArraysRecord.read(folder / ARRAYS)
        sums = {f"{name}.bin": array.checksum for name, array in record.arrays.items()}
        VerifiedFiles(folder, sums, "it is computed again").finish()
        found = {}
        for name, array in record.arrays.items():
            path = folder / f"{name}.bin"
            found[name] = _map(path, np.dtype(array.dtype), array.shape)
    except (UserError, OSError, ValueError, TypeError):
        return None
    return found


def _map(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    if not math.prod(shape):  # an empty file cannot be mapped
        return np.empty(shape, dtype)
    # As a plain array: indexing a `memmap` takes several times as long.
    return np.memmap(path, dtype, "r", shape=shape).view(np.ndarray)


def _write(folder: Path, chunks: Iterable[Chunk]) -> dict[str, np.ndarray]:
    files: dict[str, BinaryIO] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    types: dict[str, np.dtype] = {}
    try:
        make_folder(folder, sync_name=False)
        for entry in folder.iterdir():
            if entry.is_dir():  # where a file should be, and nothing else is here
                shutil.rmtree(entry)
        (folder / ARRAYS).unlink(missing_ok=True)
        with ExitStack() as stack:
            for chunk in chunks:
                for name, values in chunk.items():
                    if name not in files:
                        files[name] = stack.enter_context((folder / f"{name}.bin{PARTIAL}").open("wb"))
                        shapes[name], types[name] = (0, *values.shape[1:]), values.dtype
                    files[name].write(np.ascontiguousarray(values).data)
                    shapes[name] = (shapes[name][0] + len(values), *values.shape[1:])
        records = {}
        for name in files:
            path = folder / f"{name}.bin"
            # Renamed, not overwritten: another process may still have the former file mapped.
            os.replace(path.with_name(path.name + PARTIAL), path)
            records[name] = ArrayRecord(dtype=types[name].str, shape=shapes[name], checksum=file_checksum(path))
        ArraysRecord(arrays=records).write(folder / ARRAYS)
        return {name: _map(folder / f"{name}.bin", types[name], shapes[name]) for name in files}
    except OSError as error:
        raise explained(error, folder) from None
    finally:
        for partial in folder.glob(f"*.bin{PARTIAL}"):
            partial.unlink(missing_ok=True)
