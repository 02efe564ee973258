"""Rows are their ids and contents, in order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import ids as module
from pipeline.errors import UserError
from pipeline.store.rows import RowIndex, as_rows

IDS = st.lists(st.text(max_size=5), min_size=1, max_size=20, unique=True)


def index_of(ids: list[str], contents: list[int] | None = None) -> RowIndex:
    contents = contents or [hash(name) % 251 for name in ids]
    return RowIndex(ids, np.array([[content] * 16 for content in contents], np.uint8))


@settings(deadline=None)
@given(IDS)
def test_ids_come_back_as_they_were(ids: list[str]):
    index = index_of(ids)
    assert list(index.ids) == ids
    assert [index.ids[row] for row in range(len(ids))] == ids
    assert index.positions(ids).tolist() == list(range(len(ids)))


@settings(deadline=None)
@given(IDS, st.data())
def test_rows_are_found_by_id_and_content_at_any_position(ids: list[str], data: st.DataObject):
    chosen = data.draw(st.lists(st.sampled_from(ids), unique=True, min_size=1))
    changed = data.draw(st.sets(st.sampled_from(chosen)))
    here = index_of(ids, [1] * len(ids))
    there = index_of([*chosen, "stranger!"], [2 if name in changed else 1 for name in chosen] + [1])
    expected = [-1 if name in changed else ids.index(name) for name in chosen] + [-1]
    assert here.locate(there).tolist() == expected


def test_a_digest_knows_ids_contents_and_order():
    base = index_of(["a", "b", "c"], [1, 2, 3])
    others = [
        index_of(["b", "a", "c"], [2, 1, 3]),
        index_of(["a", "b", "d"], [1, 2, 3]),
        index_of(["a", "b", "c"], [1, 2, 4]),
        index_of(["ab", "", "c"], [1, 2, 3]),
        index_of(["a", "b"], [1, 2]),
    ]
    assert len({base.digest(), *(other.digest() for other in others)}) == 6
    assert base.digest() == index_of(["a", "b", "c"], [1, 2, 3]).digest()


def test_a_digest_of_some_rows_does_not_depend_on_their_position():
    long, short = index_of(["x", "yy", "a", "b"], [9, 9, 1, 2]), index_of(["a", "b"], [1, 2])
    assert long.digest(2, 4) == short.digest()
    assert long.digest(0, 2) != short.digest()


def test_blocks_make_no_difference(monkeypatch: pytest.MonkeyPatch):
    index = index_of([f"name {k}" for k in range(100)])
    names, difference = list(index.ids.names(3, 97)), index.ids.first_difference(["name 0"])
    monkeypatch.setattr(module, "BLOCK_ROWS", 7)
    assert list(index.ids.names(3, 97)) == names
    assert index.ids.first_difference(["name 0"]) == difference == 1


@pytest.mark.parametrize(
    ("ids", "row"), [(["a", "b"], None), (["a", "x"], 1), (["a"], 1), (["a", "b", "c"], 2), (["z", "b"], 0), ([], 0)]
)
def test_the_first_row_that_differs_is_found(ids: list[str], row: int | None):
    assert index_of(["a", "b"]).ids.first_difference(ids) == row


def test_rows_that_cannot_be_told_apart_are_refused():
    with pytest.raises(UserError, match="'b' occurs twice"):
        index_of(["a", "b", "b"])
    with pytest.raises(UserError, match="needs rows"):
        index_of([])
    with pytest.raises(UserError, match="2 x 16 bytes of digests are needed, found 16"):
        RowIndex(["a", "b"], np.zeros((1, 16), np.uint8))


def test_digests_may_be_bytes():
    assert RowIndex(["a", "b"], bytes(32)).digest() == RowIndex(["a", "b"], np.zeros((2, 16), np.uint8)).digest()


@pytest.mark.parametrize("wrong", [[-1], [0, 5], [2**40], [0.5], [True, False], [[0]]])
def test_row_numbers_are_checked(wrong: list):
    with pytest.raises(IndexError):
        as_rows(wrong, 5)


def test_no_rows_are_fine():
    assert as_rows([], 5).shape == (0,)


@pytest.mark.parametrize("name", ["id_bytes", "id_ends", "digests"])
@pytest.mark.parametrize("change", [lambda a: a * 0.5, lambda a: a[None], lambda a: a.astype(np.int32)])
def test_other_arrays_are_no_index(name: str, change):
    index = RowIndex(["a", "bc"], np.zeros((2, 16), np.uint8))
    arrays = {key: getattr(index, key) for key in ("id_bytes", "id_ends", "digests")}
    assert list(RowIndex.of_arrays(**arrays).ids) == ["a", "bc"]
    with pytest.raises(ValueError, match="not the arrays of a row index"):
        RowIndex.of_arrays(**arrays | {name: change(arrays[name])})
