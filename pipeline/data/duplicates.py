"""Duplicates: rows of the same content, of which one is enough, and of which none may be in both train and test."""

import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import scipy.fft
import scipy.sparse
from jaxtyping import Bool, Int, Int8, Int64, UInt8, UInt64
from PIL import Image
from scipy.sparse.csgraph import connected_components

from pipeline import images
from pipeline.data.dataset import Role, content_digest
from pipeline.datasets import RowContent

PARTS = 16
"""Into how many parts keys are divided to be sorted."""

KEPT, DUPLICATE, CONFLICT = range(3)
"""Kept; dropped because a duplicate is kept; dropped because at least as many duplicates have another label."""


MARK = np.frombuffer(b"NEARHASH", "<u8")[0]
"""The second half of keys that hold a perceptual hash."""


def words_digest(content: RowContent) -> bytes:
    """16 bytes that texts share which have the same set of words in lower case, or the same text if it has no words.

    Pairs share it if both sides do; images if they have the same bytes.
    """
    if isinstance(content, tuple):
        return content_digest(b"".join(map(words_digest, content)))
    return content_digest(content) if isinstance(content, bytes) else _words_digest(content)


def _words_digest(text: str) -> bytes:
    words = sorted(set(re.findall(r"\w+", text.lower())))
    return content_digest("\n".join(words) if words else text)


def image_hash(content: bytes) -> int | None:
    """The perceptual hash of an image, 64 bits, of which few change with its size, compression or brightness.

    After Zauner 2010: the 8 x 8 lowest frequencies of the cosine transform of 32 x 32 grey pixels, each compared with
    their median. None for an image of one colour, which has no such frequencies.
    """
    image = images.decode(content).convert("L").resize((32, 32), Image.Resampling.LANCZOS)
    pixels = np.asarray(image, np.float64)
    if np.ptp(pixels) == 0:
        return None
    lowest = scipy.fft.dctn(pixels)[:8, :8].ravel()
    return int.from_bytes(np.packbits(lowest > np.median(lowest)).tobytes(), "big")


def near_key(content: RowContent) -> bytes:
    """16 bytes: the perceptual hash of an image and a mark, or its digest if it has no hash."""
    assert isinstance(content, bytes)
    found = image_hash(content)
    return content_digest(content) if found is None else found.to_bytes(8, "little") + MARK.tobytes()


def merged(keys: UInt8[np.ndarray, "n 16"], bits: int) -> UInt8[np.ndarray, "n 16"]:
    """Keys of `near_key`, made equal for images whose hashes are near; see `near_keys`."""
    halves = np.ascontiguousarray(keys).view("<u8").copy()
    hashed = halves[:, 1] == MARK
    halves[hashed, 0] = near_keys(halves[hashed, 0], bits)
    return halves.view(np.uint8)


def near_keys(hashes: UInt64[np.ndarray, " n"], bits: int) -> Int64[np.ndarray, " n"]:
    """Numbers that hashes share which differ in at most `bits` bits, or of which each is that near to the next.

    If two hashes differ in `bits` bits, they are equal in one of `bits` + 1 parts: only those are compared.
    """
    values, inverse = np.unique(hashes, return_inverse=True)
    edges = [np.empty((2, 0), np.int64)]
    for part in np.array_split(np.arange(64, dtype=np.uint64), bits + 1):
        piece = (values >> part[0]) & np.uint64((1 << len(part)) - 1)
        order = np.argsort(piece, kind="stable")
        sorted_piece, away = piece[order], 1
        while (same := np.flatnonzero(sorted_piece[away:] == sorted_piece[:-away])).size:
            one, other = order[same], order[same + away]
            near = np.bitwise_count(values[one] ^ values[other]) <= bits
            edges.append(np.stack([one[near], other[near]]))
            away += 1
    one, other = np.concatenate(edges, axis=1)
    graph = scipy.sparse.coo_array((np.ones(len(one), np.int8), (one, other)), (len(values), len(values)))
    return connected_components(graph, directed=False)[1][inverse].astype(np.int64)


def resolve(
    keys: UInt8[np.ndarray, "n 16"], labels: Int[np.ndarray, " n"], splits: Int[np.ndarray, " n"]
) -> tuple[Int8[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Decide which of several duplicates is kept.

    All rows that the source puts into test are kept, even duplicates, so that results on them compare with published
    ones; their duplicates elsewhere are dropped. Otherwise the label that most of the duplicates have is taken as
    right, and one row that has it is kept: one of val if possible, else the first. If no label has the most votes, none
    can be trusted, and all are dropped.

    Args:
        keys: equal for rows that are duplicates of one another.
        labels: codes, equal for equal labels; -1 for none.
        splits: the role that the source fixes, if any.

    Returns:
        What becomes of every row, and for a dropped one a duplicate to name as the reason, else -1.
    """
    fate, partner = np.full(len(keys), KEPT, np.int8), np.full(len(keys), -1)
    for members in _families(keys):
        votes = Counter(label for label in labels[members].tolist() if label >= 0)
        best = [label for label, count in votes.items() if count == max(votes.values())]
        stay = {row for row in members if splits[row] == Role.TEST}
        if not stay and len(best) <= 1:
            able = [row for row in members if labels[row] in best] or members
            stay = {min(able, key=lambda row: (splits[row] != Role.VAL, row))}
        first = min(stay, default=-1)
        for row, following in pairwise([*members, members[0]]):
            if row not in stay:
                agrees = bool(stay) and labels[row] in (-1, labels[first])
                fate[row] = DUPLICATE if agrees else CONFLICT
                partner[row] = first if stay else following
    return fate, partner


def repeats(
    keys: UInt8[np.ndarray, "n 16"], further: Bool[np.ndarray, " n"]
) -> tuple[Int8[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Drop rows of further sources that are also in a dataset's own, where duplicates are kept otherwise.

    A row without a label would be trained on while its duplicate is in val or test.

    Args:
        keys: equal for rows that are duplicates of one another.
        further: which rows are of further sources.

    Returns:
        As `resolve`.
    """
    fate, partner = np.full(len(keys), KEPT, np.int8), np.full(len(keys), -1)
    for members in _families(keys) if further.any() else ():
        own = [row for row in members if not further[row]]
        for row in members:
            if own and further[row]:
                fate[row], partner[row] = DUPLICATE, own[0]
    return fate, partner


def _families(keys: UInt8[np.ndarray, "n 16"]) -> Iterator[list[int]]:
    """Row numbers, ascending, of each key that more than one row has.

    Keys are sorted a sixteenth at a time, by four of their bits: sorting all would take three times their memory.
    """
    halves = np.ascontiguousarray(keys).view("<u8")
    for bits in range(PARTS):
        rows = np.flatnonzero(keys[:, 0] % PARTS == bits)
        some = halves[rows]
        by_key = np.lexsort((some[:, 1], some[:, 0]))
        some = some[by_key]
        starts = np.flatnonzero(np.append(True, (some[1:] != some[:-1]).any(1)))
        stops = np.append(starts[1:], len(rows))
        several = stops - starts > 1
        yield from (rows[by_key[a:b]].tolist() for a, b in zip(starts[several], stops[several], strict=True))
