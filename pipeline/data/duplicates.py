"""Twins: rows that say the same, of which one is enough, and of which none may be trained on and tested on."""

import re
from collections import Counter
from itertools import pairwise

import numpy as np
from jaxtyping import Int64, UInt8

from pipeline.data.dataset import Role, content_digest

KEPT, TWIN, CONFLICT = range(3)
"""Stays; goes because a twin stays; goes because twins with another label are as many, or more."""


def words_digest(text: str) -> bytes:
    """16 bytes that texts share which have the same set of words in lower case, or the same text if it has no words."""
    words = sorted(set(re.findall(r"\w+", text.lower())))
    return content_digest("\n".join(words) if words else text)


def resolve(
    names: UInt8[np.ndarray, "n 16"], labels: Int64[np.ndarray, " n"], splits: Int64[np.ndarray, " n"]
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Decide which of twins stays.

    All rows that the source puts into test stay, even twins, so that results on them compare with anybody's. They
    send their twins elsewhere away. Among others the label that most of the twins have is right, and one row that has
    it stays, rather one of val, rather the first. If no label has most votes, none can be trusted, and all go.

    Args:
        names: what twins share.
        labels: class numbers, -1 for none.
        splits: the role that the source fixes, if any.

    Returns:
        The fate of every row, and for one that goes a twin to name as the reason, else -1.
    """
    fate, partner = np.full(len(names), KEPT), np.full(len(names), -1)
    for members in _families(names):
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
                fate[row] = TWIN if agrees else CONFLICT
                partner[row] = first if stay else following
    return fate, partner


def _families(names: UInt8[np.ndarray, "n 16"]) -> list[list[int]]:
    """Row numbers, ascending, of each name that more than one row has."""
    halves = np.ascontiguousarray(names).view("<u8")
    by_name = np.lexsort((halves[:, 1], halves[:, 0]))
    starts = np.flatnonzero(np.append(True, (np.diff(halves[by_name], axis=0) != 0).any(1)))
    stops = np.append(starts[1:], len(names))
    several = stops - starts > 1
    return [by_name[a:b].tolist() for a, b in zip(starts[several], stops[several], strict=True)]
