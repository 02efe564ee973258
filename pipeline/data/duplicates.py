"""Duplicates: rows of the same content, of which one is enough, and of which none may be in both train and test."""

import re
from collections import Counter
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from pipeline.data.dataset import Role, content_digest
from pipeline.datasets import RowContent

KEPT, DUPLICATE, CONFLICT = range(3)
"""Kept; dropped because a duplicate is kept; dropped because at least as many duplicates have another label."""


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


def resolve(
    keys: UInt8[np.ndarray, "n 16"], labels: Int64[np.ndarray, " n"], splits: Int64[np.ndarray, " n"]
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
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
    fate, partner = np.full(len(keys), KEPT), np.full(len(keys), -1)
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
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Drop rows of further sources that are also in a dataset's own, where duplicates are kept otherwise.

    A row without a label would be trained on while its duplicate is in val or test.

    Args:
        keys: equal for rows that are duplicates of one another.
        further: which rows are of further sources.

    Returns:
        As `resolve`.
    """
    fate, partner = np.full(len(keys), KEPT), np.full(len(keys), -1)
    for members in _families(keys) if further.any() else ():
        own = [row for row in members if not further[row]]
        for row in members:
            if own and further[row]:
                fate[row], partner[row] = DUPLICATE, own[0]
    return fate, partner


def _families(keys: UInt8[np.ndarray, "n 16"]) -> list[list[int]]:
    """Row numbers, ascending, of each key that more than one row has."""
    halves = np.ascontiguousarray(keys).view("<u8")
    by_key = np.lexsort((halves[:, 1], halves[:, 0]))
    starts = np.flatnonzero(np.append(True, (np.diff(halves[by_key], axis=0) != 0).any(1)))
    stops = np.append(starts[1:], len(keys))
    several = stops - starts > 1
    return [by_key[a:b].tolist() for a, b in zip(starts[several], stops[several], strict=True)]
