"""Which rows a store holds: their ids and the digests of their contents, in order."""

import errno
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.errors import UserError, count
from pipeline.ids import BLOCK_ROWS, Block, Ids, Places
from pipeline.store.backends import Backend
from pipeline.store.format import Layout

DIGEST_BYTES = 16


class RowIndex:
    """The rows of a dataset in order. A row is identified by its id and the digest of its content.

    Ids are stored as one UTF-8 string with the end of each id, so that ten million of them open at once from a memory
    map.

    Args:
        ids: a name per row, unique, not empty [n].
        digests: 16 bytes per row that change when its content does; uint8 [n, 16], or n * 16 bytes.

    Attributes:
        ids: of all rows.
        id_bytes, id_ends: the same ids as they are stored.
        digests: of all rows [n, 16].

    Raises:
        UserError: there are no rows, an id occurs twice, or the number of digests is wrong.
    """

    ids: Ids
    id_bytes: np.ndarray
    id_ends: np.ndarray
    digests: np.ndarray

    def __init__(self, ids: Sequence[str] | np.ndarray, digests: bytes | np.ndarray):
        given = Ids.of(ids)
        if not len(given):
            raise UserError("a store needs rows: the dataset has none")
        if (twice := Places(given).repeated()) is not None:
            raise UserError(f"row ids must be unique: {twice!r} occurs twice")
        values = np.frombuffer(digests, np.uint8) if isinstance(digests, bytes) else np.asarray(digests, np.uint8)
        if values.size != len(given) * DIGEST_BYTES:
            raise UserError(f"{len(given)} x {DIGEST_BYTES} bytes of digests are needed, found {values.size}")
        lengths, self.id_bytes = given.encoded(0, len(given))
        self.id_ends = np.cumsum(lengths)
        self.digests = values.reshape(-1, DIGEST_BYTES)
        self.ids = Ids([Block(self.id_bytes, 0, self.id_ends)])

    @classmethod
    def of_arrays(cls, id_bytes: np.ndarray, id_ends: np.ndarray, digests: np.ndarray, where: str = "") -> "RowIndex":
        """The index in these arrays, which were read from a store; `where` it is, for messages, ends with a colon.

        Raises:
            ValueError: they are other arrays.
        """
        found = [(array.dtype, array.ndim) for array in (id_bytes, id_ends, digests)]
        if found != [(np.uint8, 1), (np.int64, 1), (np.uint8, 2)]:
            raise ValueError("not the arrays of a row index")
        index = cls.__new__(cls)
        index.id_bytes, index.id_ends, index.digests = id_bytes, id_ends, digests
        index.ids = Ids([Block(id_bytes, 0, id_ends)], where)
        return index

    def __len__(self) -> int:
        return len(self.id_ends)

    def digest(self, start: int = 0, stop: int | None = None) -> str:
        """A digest of rows start to stop - 1: of their ids, contents and order, but not of their row numbers."""
        stop = len(self) if stop is None else stop
        hasher = hashlib.sha256(b"%d rows" % (stop - start))
        for first in range(start, stop, BLOCK_ROWS):
            last = min(first + BLOCK_ROWS, stop)
            lengths, text = self.ids.encoded(first, last)
            hasher.update(lengths.astype("<i8").data)
            hasher.update(np.ascontiguousarray(text).data)
            hasher.update(np.ascontiguousarray(self.digests[first:last]).data)
        return hasher.hexdigest()[:32]

    def positions(self, ids: Sequence[str]) -> np.ndarray:
        """The row of each id, -1 for missing ones; int64 [len(ids)]."""
        return np.fromiter(map(Places(self.ids).find, ids), np.int64, len(ids))

    def locate(self, other: "RowIndex") -> np.ndarray:
        """Positions in this index of the rows of another, by id and content; -1 where missing. int64 [len(other)]."""
        found = self.positions(other.ids)
        same = (self.digests[found] == other.digests).all(axis=1)
        return np.where((found >= 0) & same, found, -1)


def read_rows(store: Backend, layout: Layout) -> RowIndex:
    """The row index of a store, mapped if it is local.

    Raises:
        UserError: its files are missing or have the wrong sizes.
    """

    def read(name: str, dtype: str) -> np.ndarray:
        # An empty file cannot be mapped, and the ids of a store may be one empty string.
        if store.folder is not None and store.size(name):
            return np.memmap(store.folder / name, dtype, "r")
        return np.frombuffer(store.read(name) or b"", dtype)

    claim_of_rows(store, layout)
    try:
        ends, digests = read("rows/id_ends/c.0", "<i8"), read("rows/digests/c.0.0", "|u1")
        names = read("rows/id_bytes/c.0", "|u1")
        sound = digests.size == DIGEST_BYTES * layout.rows and names.size == ends[-1]
    except ValueError:
        sound = False
    except OSError as error:
        if error.errno != errno.ENOMEM:  # larger than memory can map
            raise
        sound = False
    if not sound:
        raise UserError(f"{store.name}/rows: the row index is damaged; restore it or extract again")
    return RowIndex.of_arrays(names, ends, digests.reshape(-1, DIGEST_BYTES), f"{store.name}/rows: ")


def claim_of_rows(store: Backend, layout: Layout) -> None:
    """Make sure that a store's row index has the size that its metadata claims, before any work per row.

    Raises:
        UserError: it does not.
    """
    there = store.size("rows/id_ends/c.0")
    if there != 8 * layout.rows:
        rows = count(layout.rows, "row")
        found = "is missing" if there is None else f"has {there:,} bytes, and not 8 for each of {rows}"
        raise UserError(f"{store.name}/rows/id_ends/c.0: {found}; restore it or extract again")


def as_rows(rows: Any, count: int) -> np.ndarray:
    """Row numbers as a contiguous int64 array, checked to be in 0 .. count - 1; -1 is not the last row.

    Raises:
        IndexError: a number is negative or too large, or these are not numbers (such as a mask of booleans).
    """
    rows = np.asarray(rows)
    if rows.ndim != 1 or (rows.dtype.kind not in "iu" and rows.size):
        raise IndexError(f"rows must be a list of whole numbers, found {rows.dtype} of shape {rows.shape}")
    rows = np.ascontiguousarray(rows, np.int64)
    # As an unsigned number a negative one is huge, so one pass checks both ends.
    if rows.size and int(rows.view(np.uint64).max()) >= count:
        wrong = rows[(rows < 0) | (rows >= count)][0]
        raise IndexError(f"row {wrong} is not in 0 .. {count - 1}")
    return rows
