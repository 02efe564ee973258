"""Items that are made ahead: the same, in the same order, one at a time."""

import threading
from collections.abc import Iterator

import pytest

from pipeline.ahead import ahead, mapped


def test_items_come_in_order_and_the_next_one_is_made_meanwhile():
    made: list[int] = []
    third = threading.Event()

    def items() -> Iterator[int]:
        for number in range(4):
            made.append(number)
            if number == 2:
                third.set()
            yield number

    with ahead(items()) as found:
        assert next(found) == 0
        assert next(found) == 1
        assert third.wait(60), "the item after the one in use is made without being asked for"
        assert made == [0, 1, 2], "and no other"
        assert list(found) == [2, 3]


def test_an_exception_is_raised_where_its_item_would_be():
    def items() -> Iterator[int]:
        yield 0
        raise ValueError("the second")

    with ahead(items()) as found:
        assert next(found) == 0
        with pytest.raises(ValueError, match="the second"):
            next(found)


def test_what_is_left_early_leaves_no_thread():
    before = threading.active_count()
    with ahead(iter(range(10))) as found:
        assert next(found) == 0
    assert threading.active_count() == before
    with ahead(iter([])) as nothing:
        assert list(nothing) == []


def test_what_is_made_of_items_comes_in_their_order_and_several_are_made_at_once():
    both = threading.Barrier(2, timeout=60)

    def make(number: int) -> int:
        both.wait()
        return -number

    assert list(mapped(make, range(6), at_once=2)) == [0, -1, -2, -3, -4, -5]
    assert list(mapped(abs, [-1, 2], at_once=1)) == [1, 2]


def test_a_thread_that_ends_before_another_finds_work():
    third = threading.Event()

    def make(number: int) -> bool:
        if number == 2:
            third.set()
        return third.wait(10) if number == 0 else True

    assert list(mapped(make, range(3), at_once=2)) == [True] * 3


@pytest.mark.parametrize("at_once", [1, 4])
def test_an_exception_comes_after_what_was_made_before_it(at_once: int):
    def items() -> Iterator[int]:
        yield from (3, 2)
        raise ValueError("no third")

    found = mapped(lambda number: 6 // number, items(), at_once)
    assert [next(found), next(found)] == [2, 3]
    with pytest.raises(ValueError, match="no third"):
        next(found)
    # Also where more items follow than are made at once.
    found = mapped(lambda number: 6 // number, [3, 0, *range(1, 7)], at_once)
    assert next(found) == 2
    with pytest.raises(ZeroDivisionError):
        next(found)
