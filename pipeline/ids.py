"""The ids of rows: UTF-8 in arrays that may be mapped from a file, so that no object per row is in memory."""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import accumulate
from typing import Any, NamedTuple, overload

import numpy as np

from pipeline.errors import UserError

BLOCK_ROWS = 1 << 16
"""Ids that are decoded, compared or hashed at a time."""


class Block(NamedTuple):
    """Ids of consecutive rows: their bytes, where the first begins, and where each of them ends [n]."""

    text: np.ndarray
    begin: int
    ends: np.ndarray


class Ids(Sequence[str]):
    """The ids of a dataset's rows, in order.

    >>> ids[3], ids[[5, 7]].tolist()
    ('r3', ['r5', 'r7'])

    Args:
        parts: which follow one another.
        where: they are, for messages; ends with a colon and a space.

    Raises:
        UserError: reading ids that are damaged.
    """

    def __init__(self, parts: Iterable[Block], where: str = ""):
        # Slices of plain arrays are made in a fifth of the time of those of `np.memmap`.
        self._parts = [Block(np.asarray(text), begin, np.asarray(ends)) for text, begin, ends in parts]
        self._where = where
        self._stops = list(accumulate(len(part.ends) for part in self._parts))

    @classmethod
    def of_arrow(cls, column: Any) -> "Ids":
        """The ids in a column of strings of pyarrow, where they are in memory or in a mapped file."""
        return cls(map(_part_of_arrow, column.chunks))

    @classmethod
    def of(cls, names: Sequence[str] | np.ndarray) -> "Ids":
        """These names; as they are if they are `Ids` already."""
        if isinstance(names, Ids):
            return names
        encoded = [str(name).encode() for name in names]
        text = np.frombuffer(b"".join(encoded), np.uint8)
        return cls([Block(text, 0, np.cumsum([len(name) for name in encoded], dtype=np.int64))])

    def __len__(self) -> int:
        return self._stops[-1] if self._stops else 0

    def __iter__(self) -> Iterator[str]:
        return self.names(0, len(self))

    @overload
    def __getitem__(self, rows: int) -> str: ...
    @overload
    def __getitem__(self, rows: Any) -> Any: ...
    def __getitem__(self, rows: Any) -> Any:
        """The id of a row, or of rows as an array of strings: a slice, a list of numbers or a mask."""
        if isinstance(rows, int | np.integer):
            return self._name(range(len(self))[rows])
        if isinstance(rows, slice) and rows.step in (None, 1):
            start, stop, _ = rows.indices(len(self))
            return np.array(list(self.names(start, stop)), np.str_)
        rows = np.asarray(rows, None if len(rows) else np.int64)
        return np.array([self[row] for row in (np.flatnonzero(rows) if rows.dtype == bool else rows)], np.str_)

    def take(self, rows: np.ndarray | range) -> "Ids":
        """The ids of some rows, in the order given, copied."""
        blocks = (rows[start : start + BLOCK_ROWS] for start in range(0, len(rows), BLOCK_ROWS))
        return Ids(part for block in blocks for part in Ids.of([self[row] for row in block])._parts)

    def names(self, start: int, stop: int) -> Iterator[str]:
        """The ids of rows start to stop - 1."""
        for first in range(start, stop, BLOCK_ROWS):
            lengths, found = self.encoded(first, min(first + BLOCK_ROWS, stop))
            text, ends = found.tobytes(), np.cumsum(lengths).tolist()
            begin = 0
            for end in ends:
                yield self._decoded(text[begin:end])
                begin = end

    def encoded(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """The lengths of the ids of rows start to stop - 1 in bytes, int64, and the bytes themselves."""
        lengths, texts = [], []
        first = bisect_right(self._stops, start)
        for part, end in zip(self._parts[first:], self._stops[first:], strict=True):
            at = end - len(part.ends)
            if at >= stop:
                break
            begin, ends = self._span(part, at, max(start - at, 0), min(stop - at, len(part.ends)))
            lengths.append(np.diff(ends, prepend=begin))
            texts.append(part.text[begin : ends[-1]])
        if len(lengths) == 1:
            return lengths[0], texts[0]
        return np.concatenate([np.zeros(0, np.int64), *lengths]), np.concatenate([np.zeros(0, np.uint8), *texts])

    def first_difference(self, other: Sequence[str] | np.ndarray) -> int | None:
        """The first row whose id differs, None if all agree; a shorter list differs where it ends."""
        other = Ids.of(other)
        for start in range(0, max(len(self), len(other)), BLOCK_ROWS):
            stop = start + BLOCK_ROWS
            ours, theirs = (each.encoded(min(start, len(each)), min(stop, len(each))) for each in (self, other))
            if not all(map(np.array_equal, ours, theirs)):
                pairs = zip(self.names(start, min(stop, len(self))), other.names(start, min(stop, len(other))))  # noqa: B905
                ends = min(len(self), len(other))
                return start + next((k for k, (one, two) in enumerate(pairs) if one != two), ends - start)
        return None

    def _name(self, row: int) -> str:
        number = bisect_right(self._stops, row)
        text, begin, ends = self._parts[number]
        at = row - self._stops[number] + len(ends)
        begin, end = ends.item(at - 1) if at else begin, ends.item(at)
        if not 0 <= begin <= end <= len(text):
            raise self._damaged(row, row)
        return self._decoded(text[begin:end].tobytes())

    def _span(self, part: Block, at: int, first: int, last: int) -> tuple[int, np.ndarray]:
        """Where the bytes of rows first to last - 1 of a part begin, and where each of them ends, int64.

        Raises:
            UserError: an end is before a beginning.
        """
        begin = int(part.ends[first - 1]) if first else part.begin
        ends = np.asarray(part.ends[first:last], np.int64)
        if begin < 0 or (np.diff(ends, prepend=begin) < 0).any() or ends[-1] > len(part.text):
            raise self._damaged(at + first, at + last - 1)
        return begin, ends

    def _damaged(self, first: int, last: int) -> UserError:
        return UserError(f"{self._where}the row index is damaged: ids of rows {first}-{last} end before they begin")

    def _decoded(self, name: bytes) -> str:
        try:
            return name.decode()
        except UnicodeDecodeError:
            raise UserError(f"{self._where}the row index is damaged: the id of a row is {name!r}") from None


def _part_of_arrow(chunk: Any) -> Block:
    _, ends, text = chunk.buffers()
    places = np.frombuffer(ends, np.int32)[chunk.offset :][: len(chunk) + 1]
    return Block(np.frombuffer(text or b"", np.uint8), int(places[0]), places[1:])


class Places:
    """Finds ids among many, in 16 bytes for each, whatever its length.

    Args:
        ids: to search.
    """

    def __init__(self, ids: Sequence[str]):
        self._ids = ids
        hashes = np.fromiter(map(hash, ids), np.int64, len(ids))
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]

    def find(self, id: str) -> int:
        """The first place of an id, -1 if it is not there."""
        key, hashes = hash(id), self._hashes.data
        at = bisect_left(hashes, key)
        while at < len(hashes) and hashes[at] == key:
            place = self._order.item(at)
            if self._ids[place] == id:
                return int(place)
            at += 1
        return -1

    def repeated(self) -> str | None:
        """The first id, in their order, that was there before; None if all differ."""
        same = np.flatnonzero(self._hashes[1:] == self._hashes[:-1]) + 1
        places = np.sort(self._order[same]).tolist()
        return next((str(self._ids[place]) for place in places if self.find(self._ids[place]) != place), None)


class Repeats:
    """Counts how often each of many names has come, in 12 to 24 bytes for each that differs from all before it.

    A table of 64-bit digests with open addressing; names that came twice have a count besides. Should two names ever
    share a digest, they count as one.
    """

    def __init__(self) -> None:
        self._table, self._known = array("Q", bytes(8 * 1024)), 0
        self._counts: dict[int, int] = {}

    def count(self, name: str) -> int:
        """How often the name has come, this time included."""
        # 0 stands for an empty place.
        key = int.from_bytes(blake2b(name.encode(), digest_size=8).digest()) or 1
        if not self._put(key):
            self._counts[key] = self._counts.get(key, 1) + 1
            return self._counts[key]
        self._known += 1
        if 3 * self._known > 2 * len(self._table):
            keys = self._table
            self._table = array("Q", bytes(16 * len(keys)))
            for known in keys:
                if known:
                    self._put(known)
        return 1

    def _put(self, key: int) -> bool:
        """Put a key into the table; whether it was not there."""
        table = self._table
        last = len(table) - 1
        at = key & last
        while found := table[at]:
            if found == key:
                return False
            at = (at + 1) & last
        table[at] = key
        return True
