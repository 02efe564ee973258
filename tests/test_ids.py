"""Ids of rows: read from arrays as they are needed, whatever the parts that they are in."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import ids as module
from pipeline.errors import UserError
from pipeline.ids import Block, Ids, Places, Repeats

NAMES = st.lists(st.text(max_size=5), max_size=20)


def in_parts(names: list[str], cuts: list[int]) -> Ids:
    """The names in as many parts; each part's text begins with bytes of no row."""
    parts = []
    for start, stop in pairwise(sorted({0, *cuts, len(names)})):
        encoded = [name.encode() for name in names[start:stop]]
        ends = 3 + np.cumsum([len(name) for name in encoded])
        parts.append(Block(np.frombuffer(b"xyz" + b"".join(encoded) + b"!", np.uint8), 3, ends))
    return Ids(parts)


@pytest.fixture(params=[3, 1 << 16], autouse=True)
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows and many rows are read at a time."""
    monkeypatch.setattr(module, "BLOCK_ROWS", request.param)


@pytest.mark.parametrize("cuts", [[], [1], [4, 5, 11]])
def test_ids_are_read_across_the_ends_of_parts(cuts: list[int]) -> None:
    names = [f"name {'é' * (row % 4)} {row}" for row in range(13)] + [""]
    ids = in_parts(names, cuts)
    assert (len(ids), list(ids), ids[-1]) == (14, names, "")
    assert [ids[row] for row in range(14)] == names
    assert list(ids.names(2, 12)) == names[2:12]
    assert ids[2:12].tolist() == names[2:12] and ids[[12, 0, 5, 5]].tolist() == [names[r] for r in (12, 0, 5, 5)]
    assert ids[np.arange(14) % 2 == 0].tolist() == names[::2] and ids[[]].tolist() == []
    assert list(ids.take(np.array([12, 0, 5, 5, 13]))) == [names[r] for r in (12, 0, 5, 5, 13)]
    with pytest.raises(IndexError):
        ids[14]


@given(NAMES)
def test_ids_of_arrow_are_its_texts(names: list[str]) -> None:
    column = pa.chunked_array([pa.array(names, pa.string()), pa.array(["before", *names], pa.string())[1:]])
    assert list(Ids.of_arrow(column)) == [*names, *names]


@given(NAMES, NAMES, st.data())
def test_the_first_difference_does_not_depend_on_parts(one: list[str], other: list[str], data: st.DataObject) -> None:
    shared = data.draw(NAMES)
    ours, theirs = [*shared, *one], [*shared, *other]
    expected = next((row for row, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
    if expected is None and len(ours) != len(theirs):
        expected = min(len(ours), len(theirs))
    cuts = data.draw(st.lists(st.integers(0, len(ours)), max_size=3))
    assert in_parts(ours, cuts).first_difference(theirs) == expected
    assert Ids.of(ours).first_difference(Ids.of(theirs)) == expected


@given(NAMES, NAMES)
def test_places_are_the_first_ones(names: list[str], others: list[str]) -> None:
    places = Places(Ids.of(names))
    for name in [*names, *others]:
        assert places.find(name) == (names.index(name) if name in names else -1)
    repeated = next((name for row, name in enumerate(names) if name in names[:row]), None)
    assert places.repeated() == repeated


class Same(str):
    """A name with the hash that all such names have."""

    def __hash__(self) -> int:
        return 7


def test_places_tell_ids_of_one_hash_apart() -> None:
    names = [Same(f"name {row}") for row in range(20)]
    places = Places(names)
    assert [places.find(name) for name in names] == list(range(20)) and places.find(Same("other")) == -1
    assert places.repeated() is None
    assert Places([*names, Same("name 3"), Same("name 1")]).repeated() == "name 3"


def test_repeats_are_counted() -> None:
    names = [str(row % 1789) for row in range(0, 30_000, 7)]
    repeats, expected = Repeats(), Counter[str]()
    for name in names:
        expected[name] += 1
        assert repeats.count(name) == expected[name]


def test_damaged_ids_are_refused() -> None:
    text = np.frombuffer(b"abc\xff", np.uint8)
    for ends in ([2, 1], [1, 9]):
        with pytest.raises(UserError, match="here: the row index is damaged: ids of rows 0-1 end before they begin"):
            list(Ids([Block(text, 0, np.array(ends))], "here: "))
    with pytest.raises(UserError, match=r"here: the row index is damaged: the id of a row is b'c\\xff'"):
        list(Ids([Block(text, 2, np.array([4]))], "here: "))
