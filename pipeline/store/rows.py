"""Which rows a store holds: their ids and the digests of their contents, in order."""

import errno
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pipeline.errors import UserError, count
from pipeline.store.backends import Backend
from pipeline.store.format import Layout

DIGEST_BYTES = 16
BLOCK_ROWS = 1 << 16


class RowIndex:
    """The rows of a dataset in order. A row is identified by its id and the digest of its content.

    Ids are stored as one UTF-8 string with the end of each id, so that ten million of them open at once from a memory
    map.

    Args:
        ids: a name per row, unique, not empty [n].
        digests: 16 bytes per row that change when its content does; uint8 [n, 16], or n * 16 bytes.

    Raises:
        UserError: there are no rows, an id occurs twice, or the number of digests is wrong.
    """

    id_bytes: np.ndarray
    id_ends: np.ndarray
    digests: np.ndarray
    _where: str = ""

    def __init__(self, ids: Sequence[str] | np.ndarray, digests: bytes | np.ndarray):
        names: list[str] = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
        if not names:
            raise UserError("a store needs rows: the dataset has none")
        if len(set(names)) < len(names):
            seen: set[str] = set()
            twice = next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            raise UserError(f"row ids must be unique: {twice!r} occurs twice")
        encoded = [name.encode() for name in names]
        values = np.frombuffer(digests, np.uint8) if isinstance(digests, bytes) else np.asarray(digests, np.uint8)
        if values.size != len(names) * DIGEST_BYTES:
            raise UserError(f"{len(names)} x {DIGEST_BYTES} bytes of digests are needed, found {values.size}")
        self.id_bytes = np.frombuffer(b"".join(encoded), np.uint8)
        self.id_ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        self.digests = values.reshape(-1, DIGEST_BYTES)

    @classmethod
    def of_arrays(cls, id_bytes: np.ndarray, id_ends: np.ndarray, digests: np.ndarray, where: str = "") -> "RowIndex":
        """The index in these arrays, which were read from a store; `where` it is, for messages, ends with a colon."""
        index = cls.__new__(cls)
        index._where = where
        index.id_bytes, index.id_ends, index.digests = id_bytes, id_ends, digests
        return index

    def __len__(self) -> int:
        return len(self.id_ends)

    @property
    def ids(self) -> np.ndarray:
        """All ids, as strings [n]."""
        return np.array(list(self.names(0, len(self))))

    def names(self, start: int, stop: int) -> Iterator[str]:
        """The ids of rows start to stop - 1, a block at a time."""
        for first in range(start, stop, BLOCK_ROWS):
            offset, ends = self._span(first, min(first + BLOCK_ROWS, stop))
            text = self.id_bytes[offset : ends[-1]].tobytes()
            begin = 0
            for end in (ends - offset).tolist():
                try:
                    yield text[begin:end].decode()
                except UnicodeDecodeError:
                    raise UserError(
                        f"{self._where}the row index is damaged: the id of a row is {text[begin:end]!r}"
                    ) from None
                begin = end

    def name(self, row: int) -> str:
        """The id of one row."""
        return next(self.names(row, row + 1))

    def digest(self, start: int = 0, stop: int | None = None) -> str:
        """A digest of rows start to stop - 1: of their ids, contents and order, but not of their row numbers."""
        stop = len(self) if stop is None else stop
        hasher = hashlib.sha256(b"%d rows" % (stop - start))
        for first in range(start, stop, BLOCK_ROWS):
            last = min(first + BLOCK_ROWS, stop)
            offset, ends = self._span(first, last)
            hasher.update(np.diff(ends, prepend=offset).astype("<i8").data)
            hasher.update(np.ascontiguousarray(self.id_bytes[offset : ends[-1]]).data)
            hasher.update(np.ascontiguousarray(self.digests[first:last]).data)
        return hasher.hexdigest()[:32]

    def positions(self, ids: Sequence[str] | np.ndarray) -> np.ndarray:
        """The row of each id, -1 for missing ones; int64 [len(ids)]."""
        where = {name: row for row, name in enumerate(self.names(0, len(self)))}
        return np.fromiter((where.get(str(name), -1) for name in ids), np.int64, len(ids))

    def locate(self, other: "RowIndex") -> np.ndarray:
        """Positions in this index of the rows of another, by id and content; -1 where missing. int64 [len(other)]."""
        found = self.positions(list(other.names(0, len(other))))
        same = (self.digests[found] == other.digests).all(axis=1)
        return np.where((found >= 0) & same, found, -1)

    def first_difference(self, ids: Sequence[str] | np.ndarray) -> int | None:
        """The first row whose id differs from `ids`, None if all agree; a shorter list differs where it ends."""
        for start in range(0, max(len(self), len(ids)), BLOCK_ROWS):
            ours = list(self.names(start, min(start + BLOCK_ROWS, len(self))))
            theirs = [str(name) for name in ids[start : start + BLOCK_ROWS]]
            if ours != theirs:
                pairs = zip(ours, theirs, strict=False)
                return start + next((k for k, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))
        return None

    def _span(self, first: int, last: int) -> tuple[int, np.ndarray]:
        """Where the id bytes of rows first to last - 1 begin, and where each of them ends.

        Raises:
            UserError: an end is before a beginning.
        """
        offset, ends = (int(self.id_ends[first - 1]) if first else 0), np.asarray(self.id_ends[first:last])
        if offset < 0 or (np.diff(ends, prepend=offset) < 0).any() or ends[-1] > len(self.id_bytes):
            raise UserError(
                f"{self._where}the row index is damaged: ids of rows {first}-{last - 1} end before they begin"
            )
        return offset, ends


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
