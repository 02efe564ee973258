"""Drawing rows by class: stratified, groups whole, and the same on every machine.

A draw sorts rows by a fixed integer hash of who they are, the seed and the draw, and takes the first ones of every
class. No library's random numbers are used, so an upgrade of one never moves a row, and a data set that grows by a few
rows keeps nearly all its roles. Samples of one draw are nested: 400 labelled rows are among the 800 labelled rows.
"""

from hashlib import blake2b

import numpy as np
from jaxtyping import Bool, Int64, UInt64


def order(units: UInt64[np.ndarray, " n"], seed: int, draw: str) -> UInt64[np.ndarray, " n"]:
    """A sort key per row: equal for equal units, unlike for others, and unlike from draw to draw.

    Args:
        units: 64-bit hashes of what is drawn as one, a row or a group.
        draw: the name of the draw.

    The mixing is the finaliser of SplitMix64 (Steele, Lea, Flood 2014), which is one to one.
    """
    salt = np.frombuffer(blake2b(f"{seed}/{draw}".encode(), digest_size=8).digest(), np.dtype("<u8"))[0]
    mixed = units ^ salt
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def allot(
    total: int, counts: Int64[np.ndarray, " classes"], most: Int64[np.ndarray, " classes"]
) -> Int64[np.ndarray, " classes"]:
    """How many rows of each class make a sample of `total`: in proportion to `counts`, within one row.

    Every class gets at least one row, and at most `most`, even where that is further from its share.

    Raises:
        ValueError: `total` rows cannot be had within these bounds.
    """
    if not len(counts) <= total <= most.sum() or most.min(initial=1) < 1:
        raise ValueError(f"no sample of {total} rows, between 1 and {most.tolist()} of each class")
    share = total * counts / counts.sum()
    quota = np.clip(total * counts // counts.sum(), 1, most)
    while gap := total - int(quota.sum()):
        step = 1 if gap > 0 else -1
        able = np.flatnonzero(quota < most if gap > 0 else quota > 1)
        quota[able[np.argmax(step * (share - quota)[able])]] += step
    return quota


def choose(
    quota: Int64[np.ndarray, " classes"],
    labels: Int64[np.ndarray, " n"],
    keys: UInt64[np.ndarray, " n"],
) -> Bool[np.ndarray, " n"]:
    """Which rows are a sample with `quota` rows of each class, units whole.

    Args:
        labels: class numbers.
        keys: from `order`. Rows with one key are one unit, and are taken together or not at all.

    Returns:
        A mask over the rows. It has exactly `quota` rows of each class if no unit has two rows. Units of several rows
        are taken where they fit, at most in the sample's proportion as long as single rows can fill up; what is
        missing in the end is less than any unit that was left.
    """
    chosen = np.zeros(len(labels), dtype=bool)
    _, unit, sizes = np.unique(keys, return_inverse=True, return_counts=True)
    single = sizes[unit] == 1
    left = quota.copy()
    later = []
    if not single.all():
        several = np.flatnonzero(~single)
        several = several[np.argsort(unit[several], kind="stable")]
        groups = np.split(several, np.cumsum(sizes[sizes > 1])[:-1])
        budget = len(several) * int(quota.sum()) / len(labels)
        for rows in groups:
            need = np.bincount(labels[rows], minlength=len(quota))
            if len(rows) <= budget and (need <= left).all():
                chosen[rows] = True
                left -= need
                budget -= len(rows)
            else:
                later.append((rows, need))
    alone = np.flatnonzero(single)
    alone = alone[np.lexsort((keys[alone], labels[alone]))]
    per_class = np.bincount(labels[alone], minlength=len(quota))
    rank = np.arange(len(alone)) - np.repeat(np.cumsum(per_class) - per_class, per_class)
    taken = alone[rank < left[labels[alone]]]
    chosen[taken] = True
    left -= np.bincount(labels[taken], minlength=len(quota))
    for rows, need in later:
        if (need <= left).all():
            chosen[rows] = True
            left -= need
    return chosen
