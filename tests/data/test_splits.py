"""Drawing roles: properties over all kinds of tables, and bad sizes."""

from collections import Counter
from hashlib import blake2b

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from pipeline.data.dataset import Role
from pipeline.data.splits import FREE, apportion, assign, choose, sort_keys
from pipeline.errors import UserError

CLASSES = ("a", "b", "c")


def hashes(names: list[str]) -> np.ndarray:
    return np.array([int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little") for name in names], "<u8")


def table(labels: list[int], groups: list[int | None] | None = None, splits: list[int] | None = None) -> dict:
    """Arguments of `assign`; rows without a group are a unit of their own."""
    names = [f"row {number}" for number in range(len(labels))]
    named = zip(names, groups or [None] * len(names), strict=True)
    units = [name if group is None else f"group {group}" for name, group in named]
    return {
        "strata": np.array(labels),
        "splits": np.full(len(labels), FREE) if splits is None else np.array(splits),
        "rows": hashes(names),
        "units": hashes(units),
        "name": lambda number: f"class {CLASSES[number]!r}",
    }


def draw(known: dict, val: float = 10, test: float = 20, labelled: float | None = None, seed: int = 0, number: int = 0):
    return assign(**known, val=val, test=test, labelled=labelled, seed=seed, split=number)


@st.composite
def tables(draw_: st.DrawFn, grouped: bool) -> dict:
    """60 to 200 rows of three classes, at least 20 of each, some without a label, in groups or not."""
    rows = draw_(st.integers(0, 140))
    labels = draw_(st.lists(st.sampled_from([-1, 0, 0, 0, 1, 1, 2]), min_size=rows, max_size=rows))
    labels += [0, 1, 2] * 20
    groups = st.one_of(st.none(), st.integers(0, 60)) if grouped else st.none()
    return table(labels, draw_(st.lists(groups, min_size=len(labels), max_size=len(labels))))


amounts = st.one_of(st.integers(3, 12), st.floats(0.1, 0.3))


@given(tables(grouped=False), amounts, amounts, st.one_of(st.none(), amounts), st.integers(0, 9))
def test_single_rows_are_sampled_in_exact_numbers_and_every_class_within_one_row(known, val, test, labelled, seed):
    roles = draw(known, val, test, labelled, seed)
    labels = known["strata"]
    assert (roles[labels < 0] == Role.UNLABELLED).all()
    left = labels >= 0
    sizes = [(Role.TEST, test), (Role.VAL, val), *([] if labelled is None else [(Role.LABELLED, labelled)])]
    for role, amount in sizes:
        there = np.bincount(labels[left], minlength=3)
        total = amount if isinstance(amount, int) else round(amount * there.sum())
        found = np.bincount(labels[roles == role], minlength=3)
        share = total * there / there.sum()
        assert found.sum() == total
        assert (found >= 1).all()
        if (share >= 1).all():  # else the class gets one row all the same, and others pay for it
            assert (np.abs(found - share) < 1).all()
        left &= roles != role
    if labelled is None:
        assert (roles[left] == Role.LABELLED).all()


@given(tables(grouped=True), st.integers(0, 9), st.integers(0, 3))
def test_groups_are_whole_and_rows_without_a_label_are_in_train(known, seed, number):
    try:
        roles = draw(known, 0.2, 0.2, None, seed, number)
    except UserError:  # groups with unlabelled rows can leave too few rows to draw from
        reject()
    side = np.maximum(roles, Role.UNLABELLED)  # train, val or test
    for unit in np.unique(known["units"]):
        assert len(set(side[known["units"] == unit])) == 1
    assert set(roles[known["strata"] < 0]) <= {Role.UNLABELLED}
    assert set(roles[known["strata"] >= 0]) <= {Role.LABELLED, Role.VAL, Role.TEST}


def test_groups_of_similar_size_come_close_to_the_requested_size_and_are_sampled_in_proportion():
    labels = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2] * 100 + [0, 1, 2] * 400
    groups = [number // 4 for number in range(1200)] + [None] * 1200
    roles = draw(table(labels, groups), val=200, test=480)
    test = roles == Role.TEST
    assert test.sum() == 480
    # A fifth of the rows that are in groups, and a fifth of the others.
    assert abs(test[:1200].sum() - 240) <= 4
    assert abs((roles[:1200] == Role.VAL).sum() - 100) <= 4


@given(st.lists(st.integers(1, 9), min_size=60, max_size=90), st.integers(0, 9))
@settings(max_examples=50)
def test_if_all_rows_are_in_groups_a_sample_misses_its_size_by_less_than_a_group(sizes, seed):
    groups = [number for number, size in enumerate(sizes) for _ in range(size)]
    labels = [number % 3 for number, size in enumerate(sizes) for _ in range(size)]
    roles = draw(table(labels, groups), val=0.2, test=0.3, seed=seed)
    tests, vals = (roles == Role.TEST).sum(), (roles == Role.VAL).sum()
    assert abs(tests - 0.3 * len(roles)) < 3 * max(sizes)
    assert abs(vals - 0.2 * (len(roles) - tests)) < 3 * max(sizes)


def test_a_class_that_only_official_val_and_test_have_is_named():
    labels = [0, 1] * 20 + [2] * 4
    splits = [int(Role.LABELLED)] * 30 + [int(Role.VAL)] * 7 + [int(Role.TEST)] * 7
    with pytest.raises(UserError, match="no row of class 'c' is left for training"):
        draw(table(labels, splits=splits))


@given(tables(grouped=True), st.randoms())
@settings(max_examples=50)
def test_roles_depend_on_the_ids_of_rows_and_not_on_their_order(known, random):
    try:
        roles = draw(known, 0.2, 0.2, 0.5)
    except UserError:
        reject()
    order = np.arange(len(roles))
    random.shuffle(order)
    shuffled = {name: value if name == "name" else value[order] for name, value in known.items()}
    np.testing.assert_array_equal(draw(shuffled, 0.2, 0.2, 0.5), roles[order])


def test_splits_and_seeds_are_independent():
    known = table([0, 1, 2, 0] * 500)
    share = 0.25
    tests = [
        draw(known, 0.1, share, seed=seed, number=number) == Role.TEST for seed, number in [(0, 0), (0, 1), (1, 0)]
    ]
    for one in range(3):
        for other in range(one):
            both = (tests[one] & tests[other]).sum()
            assert abs(both - 2000 * share**2) < 5 * np.sqrt(2000 * share**2)


def test_more_labelled_rows_include_the_fewer():
    known = table([0, 1, 2, 0] * 100)
    few, many = (draw(known, labelled=labelled) == Role.LABELLED for labelled in (30, 90))
    assert few.sum() == 30
    assert many.sum() == 90
    assert not (few & ~many).any()


def test_a_table_that_grows_keeps_nearly_all_its_roles():
    before = draw(table([0, 1, 2, 0] * 500), 0.1, 0.2, 0.3)
    after = draw(table([0, 1, 2, 0] * 505), 0.1, 0.2, 0.3)
    assert (before != after[: len(before)]).mean() < 0.02


def test_roles_are_those_of_the_definition_on_every_machine():
    """In integers of Python: by SplitMix64 of hash xor salt, the first rows of each class are test, and so on."""

    def key(row: int) -> int:
        z = int(known["rows"][row]) ^ int.from_bytes(blake2b(b"7/draw 2", digest_size=8).digest(), "little")
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    known = table([0, 1, 2] * 20)
    expected = [Role.UNLABELLED] * 60
    for label in range(3):
        first = sorted(range(label, 60, 3), key=key)
        for place, role in enumerate([Role.TEST] * 5 + [Role.VAL] * 3 + [Role.LABELLED] * 4):
            expected[first[place]] = role
    assert draw(known, test=15, val=9, labelled=12, seed=7, number=2).tolist() == expected


def test_an_official_test_part_stays_in_every_split_and_val_is_sampled_from_train():
    splits = [int(Role.TEST) if number % 5 == 0 else int(Role.LABELLED) for number in range(100)]
    for number in range(3):
        roles = draw(table([0, 1, 2, 0] * 25, splits=splits), val=12, test=3, number=number)
        np.testing.assert_array_equal(np.flatnonzero(roles == Role.TEST), np.arange(0, 100, 5))
        assert (roles == Role.VAL).sum() == 12


def test_an_official_val_part_stays_and_test_is_sampled_from_the_rest():
    splits = [int(Role.VAL) if number % 5 == 0 else FREE for number in range(100)]
    roles = draw(table([0, 1, 2, 0] * 25, splits=splits), val=3, test=12)
    np.testing.assert_array_equal(np.flatnonzero(roles == Role.VAL), np.arange(0, 100, 5))
    assert (roles == Role.TEST).sum() == 12


def test_without_any_label_all_rows_are_unlabelled():
    known = table([-1] * 10)
    assert (draw(known) == Role.UNLABELLED).all()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"test": 100}, "dataset.test: 100 of 90 rows to choose from is 100; .* from 3 to 84"),
        ({"test": 2}, "dataset.test: 2 of 90 rows to choose from is 2; .* from 3 to 84"),
        ({"val": 80}, "dataset.val: 80 of 70 rows to choose from is 80; .* from 3 to 67"),
        ({"val": 0.99}, "dataset.val: 0.99 of 70 rows to choose from is 69"),
        ({"labelled": 61}, "dataset.labelled: 61 of 60 rows to choose from is 61; .* from 3 to 60"),
        ({"labelled": 0.01}, "dataset.labelled: 0.01 of 60 rows to choose from is 1"),
    ],
)
def test_sizes_that_do_not_fit_are_named_with_those_that_would(sizes, message):
    with pytest.raises(UserError, match=message):
        draw(table([0, 1, 2] * 30), **sizes)


def test_a_class_too_small_to_be_everywhere_is_named():
    with pytest.raises(UserError, match=r"dataset.test: class 'c' has 2 rows to choose from and needs 3"):
        draw(table([0, 1] * 30 + [2, 2]))


def test_a_small_class_is_everywhere_even_where_its_share_would_take_all_its_rows():
    roles = draw(table([0, 1] * 30 + [2, 2, 2]), test=0.6, val=0.4)
    assert sorted(roles[-3:].tolist()) == [Role.LABELLED, Role.VAL, Role.TEST]


def test_a_class_in_groups_that_are_too_large_is_named():
    labels = [0, 1] * 50 + [2] * 60
    groups = [None] * 100 + [number // 20 for number in range(60)]
    with pytest.raises(UserError, match=r"dataset\.test: no group of class 'c' is small enough for 10 rows"):
        draw(table(labels, groups), test=10)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=12), st.data())
def test_apportioning_is_as_close_to_proportion_as_its_bounds_allow(counts, data):
    most = [data.draw(st.integers(1, count)) for count in counts]
    total = data.draw(st.integers(len(counts), sum(most)))
    quota = apportion(total, np.array(counts), np.array(most))
    assert quota.sum() == total
    assert (quota >= 1).all()
    assert (quota <= most).all()
    share = [total * count / sum(counts) for count in counts]
    # No row can move from one class to another and bring both together closer to their shares.
    for giver in range(len(counts)):
        for taker in range(len(counts)):
            if giver != taker and quota[giver] > 1 and quota[taker] < most[taker]:
                now = (quota[giver] - share[giver]) ** 2 + (quota[taker] - share[taker]) ** 2
                moved = (quota[giver] - 1 - share[giver]) ** 2 + (quota[taker] + 1 - share[taker]) ** 2
                assert now <= moved + 1e-9


def test_an_impossible_apportionment_is_refused():
    with pytest.raises(ValueError, match="no sample of 7 rows"):
        apportion(7, np.array([3, 3]), np.array([3, 3]))


def test_choosing_takes_the_first_rows_of_each_class_by_key():
    labels, keys = np.array([0, 1, 0, 1, 0]), np.array([5, 4, 3, 2, 1], dtype=np.uint64)
    chosen = choose(np.array([2, 1]), labels, keys)
    assert np.flatnonzero(chosen).tolist() == [2, 3, 4]


def test_sort_keys_are_one_to_one_and_spread():
    keys = sort_keys(np.arange(100_000, dtype=np.uint64), 0, "draw 0")
    assert len(np.unique(keys)) == 100_000
    bins = Counter((keys >> np.uint64(60)).tolist())
    assert len(bins) == 16
    assert max(bins.values()) - min(bins.values()) < 600
