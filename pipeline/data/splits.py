"""Who is in train, val and test: stratified by class, groups whole, and the same on every machine.

A draw sorts rows by a fixed integer hash of who they are, the seed and the draw, and takes the first ones of every
class. No library's random numbers are used, so an upgrade of one never moves a row, and a data set that grows by a few
rows keeps nearly all its roles. Samples of one draw are nested: 400 labelled rows are among the 800 labelled rows.
"""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from jaxtyping import Bool, Int64, UInt8, UInt64

from pipeline.data.dataset import Role
from pipeline.errors import UserError

FREE = -1
"""The role of a row that the source leaves to us. `Role.LABELLED` stands for train."""

Amount = int | float
"""A number of rows, or a share of those there are to choose from."""


def assign(
    labels: Int64[np.ndarray, " n"],
    splits: Int64[np.ndarray, " n"],
    rows: UInt64[np.ndarray, " n"],
    units: UInt64[np.ndarray, " n"],
    classes: Sequence[str],
    val: Amount,
    test: Amount,
    labelled: Amount | None,
    seed: int,
    draw: int,
) -> UInt8[np.ndarray, " n"]:
    """The `Role` of every row in one draw.

    Args:
        labels: class numbers, -1 for none; a row without a label is in train.
        splits: LABELLED (train), VAL or TEST where the source fixes it, else FREE.
        rows: 64-bit hashes of the row ids.
        units: 64-bit hashes of what is never torn between train, val and test: a group, or the row itself.
        classes: their names, for messages; if there are none, all rows are unlabelled.
        val, test: how much to draw, in case the source fixes none.
        labelled: how many training rows keep their label, None for all.

    Raises:
        UserError: an amount does not fit the rows there are, or a class has too few to be everywhere.
    """
    roles = np.where(labels < 0, Role.UNLABELLED, np.maximum(splits, Role.LABELLED)).astype(np.uint8)
    if not classes:
        return roles
    # A group with a row that has no label is in train, because that row is.
    movable = (roles == Role.LABELLED) & ~np.isin(units, units[labels < 0])
    keys = sort_keys(units, seed, f"draw {draw}")
    to_draw = [(role, amount) for role, amount in ((Role.TEST, test), (Role.VAL, val)) if not (splits == role).any()]
    for (role, amount), leave in zip(to_draw, range(len(to_draw), 0, -1), strict=True):
        among = movable & (roles == Role.LABELLED)
        roles[_sample(role, amount, among, labels, keys, classes, leave)] = role
    trained_on = np.bincount(labels[roles == Role.LABELLED], minlength=len(classes))
    if trained_on.min() == 0:
        missing = classes[int(trained_on.argmin())]
        raise UserError(f"dataset: no row of class {missing!r} is left for training; add some, or leave the class out")
    if labelled is not None:
        train = roles == Role.LABELLED
        chosen = _sample(Role.LABELLED, labelled, train, labels, sort_keys(rows, seed, f"draw {draw}"), classes, 0)
        roles[train] = Role.UNLABELLED
        roles[chosen] = Role.LABELLED
    return roles


def _sample(
    role: Role,
    amount: Amount,
    among: Bool[np.ndarray, " n"],
    labels: Int64[np.ndarray, " n"],
    keys: UInt64[np.ndarray, " n"],
    classes: Sequence[str],
    leave: int,
) -> Int64[np.ndarray, " m"]:
    """A stratified sample of the rows `among`, for `role`, that leaves at least `leave` rows of every class."""
    setting = f"dataset.{role.name.lower()}"
    rows = np.flatnonzero(among)
    counts = np.bincount(labels[rows], minlength=len(classes))
    if counts.min() <= leave:
        few = int(counts.argmin())
        raise UserError(
            f"{setting}: class {classes[few]!r} has {counts[few]} rows to choose from and needs {leave + 1} to be in "
            f"every split; add rows, or leave the class out"
        )
    total = amount if isinstance(amount, int) else round(amount * len(rows))
    most = len(rows) - leave * len(classes)
    if not len(classes) <= total <= most:
        raise UserError(
            f"{setting}: {amount} of {len(rows):,} rows to choose from is {total:,}; for every class to be in every "
            f"split it must be from {len(classes):,} to {most:,}"
        )
    chosen = rows[choose(apportion(total, counts, counts - leave), labels[rows], keys[rows])]
    found = np.bincount(labels[chosen], minlength=len(classes))
    if found.min() == 0:
        missing = classes[int(found.argmin())]
        raise UserError(f"{setting}: no group of class {missing!r} is small enough for {total:,} rows; ask for more")
    return chosen


def sort_keys(units: UInt64[np.ndarray, " n"], seed: int, draw: str) -> UInt64[np.ndarray, " n"]:
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


def apportion(
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
        keys: from `sort_keys`. Rows with one key are one unit, and are taken together or not at all.

    Returns:
        A mask over the rows. It has exactly `quota` rows of each class if no unit has two rows. Units of several rows
        come first where they fit, in the sample's proportion, and single rows fill up; where those are not enough,
        units of several rows are added as long as one brings the sample closer to the quota, in squares.
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
        if ((left - need) ** 2).sum() < (left**2).sum():
            chosen[rows] = True
            left -= need
    return chosen
