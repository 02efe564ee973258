"""Which rows are in train, val and test: stratified, groups kept whole, and the same on every machine.

A split sorts rows by a fixed integer hash of their ids, the seed and the number of the split, and takes the first rows
of every stratum; the task defines the strata, such as classes. No random numbers of a library are used, so an upgrade
never moves a row, and a dataset that grows by a few rows keeps nearly all its roles. Samples of one split are nested:
400 labelled rows are among the 800 labelled rows.
"""

from collections.abc import Callable
from hashlib import blake2b

import numpy as np
from jaxtyping import Bool, Int, Int64, UInt8, UInt64

from pipeline.data.dataset import Role
from pipeline.errors import UserError, count

FREE = -1
"""The role of a row that the source leaves open. `Role.LABELLED` stands for train."""

Amount = int | float
"""A number of rows, or a share of the rows to choose from."""


def assign(
    strata: Int[np.ndarray, " n"],
    splits: Int[np.ndarray, " n"],
    rows: UInt64[np.ndarray, " n"],
    units: UInt64[np.ndarray, " n"],
    name: Callable[[int], str],
    val: Amount,
    test: Amount,
    labelled: Amount | None,
    seed: int,
    split: int,
) -> UInt8[np.ndarray, " n"]:
    """The `Role` of every row in one split.

    Args:
        strata: the stratum of every row, -1 for a row without a label, which is in train.
        splits: LABELLED (train), VAL or TEST where the source fixes it, else FREE.
        rows: 64-bit hashes of the row ids.
        units: 64-bit hashes of what is never divided between train, val and test: a group, or the row itself. `rows`
            itself if there are no groups.
        name: gives the name of a stratum for messages.
        val, test: how much to sample, if the source fixes none.
        labelled: how many training rows keep their label; all if None.

    Raises:
        UserError: an amount does not fit the number of rows, or a stratum has too few rows to be in every part.
    """
    roles = np.where(strata < 0, Role.UNLABELLED, np.maximum(splits, Role.LABELLED)).astype(np.uint8)
    if (strata < 0).all():
        return roles
    strata, present = numbered(strata)
    number = len(present)

    def name_of(number: int) -> str:
        return name(int(present[number]))

    movable = roles == Role.LABELLED
    if units is not rows:
        # A group with a row that has no label is in train, because that row is.
        movable &= ~np.isin(units, units[strata < 0])
    keys = sort_keys(units, seed, _salt(split))
    wanted = [(role, amount) for role, amount in ((Role.TEST, test), (Role.VAL, val)) if not (splits == role).any()]
    for (role, amount), leave in zip(wanted, range(len(wanted), 0, -1), strict=True):
        among = movable & (roles == Role.LABELLED)
        roles[_sample(role, amount, among, strata, keys, name_of, leave)] = role
    trained_on = np.bincount(strata[roles == Role.LABELLED], minlength=number)
    if trained_on.min() == 0:
        missing = name_of(int(trained_on.argmin()))
        raise UserError(f"dataset: no row of {missing} is left for training; add some, or leave these rows out")
    return roles if labelled is None else keep_labels(roles, strata, rows, name_of, labelled, seed, split)


def keep_labels(
    roles: UInt8[np.ndarray, " n"],
    strata: Int[np.ndarray, " n"],
    rows: UInt64[np.ndarray, " n"],
    name: Callable[[int], str],
    labelled: Amount,
    seed: int,
    split: int,
) -> UInt8[np.ndarray, " n"]:
    """The roles in one split where `labelled` training rows keep their label, of all that have one.

    Args:
        roles: in this split, with as many labels as any.
        strata, rows, name, seed: as in `assign`; no number of a stratum is left out.

    Raises:
        UserError: the amount does not fit the number of rows.
    """
    train = (strata >= 0) & (roles <= Role.UNLABELLED)
    keys = sort_keys(rows, seed, _salt(split))
    chosen = _sample(Role.LABELLED, labelled, train, strata, keys, name, 0)
    found = np.where(train, np.uint8(Role.UNLABELLED), roles)
    found[chosen] = Role.LABELLED
    return found


def numbered(strata: Int[np.ndarray, " n"]) -> tuple[Int[np.ndarray, " n"], Int64[np.ndarray, " strata"]]:
    """Strata with new numbers, without gaps, and the old number of each."""
    occurs = np.bincount(strata[strata >= 0]) > 0
    new = (np.cumsum(occurs, dtype=np.int32) - np.int32(1))[strata]
    return np.where(strata < 0, np.int32(-1), new), np.flatnonzero(occurs)


def _salt(split: int) -> str:
    """The text is part of every hash: changing a word in it would change the roles of all rows."""
    return f"draw {split}"


def _sample(
    role: Role,
    amount: Amount,
    among: Bool[np.ndarray, " n"],
    strata: Int[np.ndarray, " n"],
    keys: UInt64[np.ndarray, " n"],
    name: Callable[[int], str],
    leave: int,
) -> Int64[np.ndarray, " m"]:
    """A stratified sample for `role` of the rows `among`, which leaves at least `leave` rows of every stratum."""
    setting = f"dataset.{role.name.lower()}"
    number = int(strata.max()) + 1
    rows = np.flatnonzero(among)
    strata, keys = (strata, keys) if len(rows) == len(among) else (strata[rows], keys[rows])
    counts = np.bincount(strata, minlength=number)
    if counts.min() <= leave:
        few = int(counts.argmin())
        raise UserError(
            f"{setting}: {name(few)} has {count(counts[few], 'row')} to choose from and needs {leave + 1} to be in "
            "train, val and test; add rows, or leave these out"
        )
    total = amount if isinstance(amount, int) else round(amount * len(rows))
    most = len(rows) - leave * number
    if not number <= total <= most:
        raise UserError(
            f"{setting}: {amount} of {count(len(rows), 'row')} to choose from is {total:,}; for every "
            f"{name(0).partition(' ')[0]} to be in train, val and test it must be from {number:,} to {most:,}"
        )
    taken = choose(apportion(total, counts, counts - leave), strata, keys)
    found = np.bincount(strata[taken], minlength=number)
    if found.min() == 0:
        missing = name(int(found.argmin()))
        raise UserError(f"{setting}: no group of {missing} is small enough for {count(total, 'row')}; ask for more")
    return rows[taken]


def sort_keys(units: UInt64[np.ndarray, " n"], seed: int, salt: str) -> UInt64[np.ndarray, " n"]:
    """A sort key per row: equal for equal units, different for others, and different for another salt.

    Args:
        units: 64-bit hashes of what is sampled as one, a row or a group.
        salt: such as the number of the split.

    The mixing is the finaliser of SplitMix64 (Steele, Lea, Flood 2014), which is one to one.
    """
    mask = np.frombuffer(blake2b(f"{seed}/{salt}".encode(), digest_size=8).digest(), np.dtype("<u8"))[0]
    mixed = units ^ mask
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def apportion(
    total: int, counts: Int64[np.ndarray, " strata"], most: Int64[np.ndarray, " strata"]
) -> Int64[np.ndarray, " strata"]:
    """How many rows of each stratum to take for a sample of `total`: in proportion to `counts`, within one row.

    Every stratum gets at least one row, and at most `most`, even where that is further from its share.

    Raises:
        ValueError: `total` rows are not possible within these bounds.
    """
    if not len(counts) <= total <= most.sum() or most.min(initial=1) < 1:
        raise ValueError(f"no sample of {count(total, 'row')}, between 1 and {most.tolist()} of each stratum")
    share = total * counts / counts.sum()
    quota = np.clip(total * counts // counts.sum(), 1, most)
    while gap := total - int(quota.sum()):
        step = 1 if gap > 0 else -1
        able = np.flatnonzero(quota < most if gap > 0 else quota > 1)
        quota[able[np.argmax(step * (share - quota)[able])]] += step
    return quota


def choose(
    quota: Int64[np.ndarray, " strata"],
    strata: Int[np.ndarray, " n"],
    keys: UInt64[np.ndarray, " n"],
) -> Bool[np.ndarray, " n"]:
    """Which rows are a sample with `quota` rows of each stratum, units whole.

    Args:
        strata: of every row.
        keys: from `sort_keys`. Rows with one key are one unit, and are taken together or not at all.

    Returns:
        A mask over the rows. If no unit has two rows, it has exactly `quota` rows of each stratum. Otherwise units of
        several rows are taken first, as far as they fit the sample's proportions, and single rows fill up the rest. If
        these are not enough, units of several rows are added as long as this reduces the squared distance to the quota.
    """
    chosen = np.zeros(len(strata), dtype=bool)
    left = quota.copy()
    later = []
    alone: slice | np.ndarray = slice(None)
    ordered = np.sort(keys)
    if (ordered[1:] == ordered[:-1]).any():
        _, unit, sizes = np.unique(keys, return_inverse=True, return_counts=True)
        single = sizes[unit] == 1
        alone = np.flatnonzero(single)
        several = np.flatnonzero(~single)
        several = several[np.argsort(unit[several], kind="stable")]
        groups = np.split(several, np.cumsum(sizes[sizes > 1])[:-1])
        budget = len(several) * int(quota.sum()) / len(strata)
        for rows in groups:
            need = np.bincount(strata[rows], minlength=len(quota))
            if len(rows) <= budget and (need <= left).all():
                chosen[rows] = True
                left -= need
                budget -= len(rows)
            else:
                later.append((rows, need))
    order = np.lexsort((keys[alone], strata[alone]))
    per_stratum = np.bincount(strata[alone], minlength=len(quota))
    starts = np.cumsum(per_stratum) - per_stratum
    first = [order[a : a + n] for a, n in zip(starts, np.minimum(left, per_stratum), strict=True)]
    taken = np.concatenate(first) if isinstance(alone, slice) else alone[np.concatenate(first)]
    chosen[taken] = True
    left -= np.bincount(strata[taken], minlength=len(quota))
    for rows, need in later:
        if ((left - need) ** 2).sum() < (left**2).sum():
            chosen[rows] = True
            left -= need
    return chosen
