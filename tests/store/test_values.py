"""Rounding, bfloat16 and int8 against torch and against their definitions."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.store.format import Head
from pipeline.store.values import NotFinite, decode, encode

VALUES = st.lists(st.floats(-(2.0**126), 2.0**126, width=32, allow_subnormal=False), min_size=1)


def there_and_back(values: np.ndarray, head: Head) -> np.ndarray:
    return decode(encode(values, "h", head), "h", head)


@given(VALUES)
def test_bfloat16_rounds_as_torch_does(values: list[float]):
    array = np.array(values, np.float32)[:, None]
    expected = torch.from_numpy(array).to(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(there_and_back(array, Head((1,), "bfloat16")), expected)


def test_every_finite_bfloat16_comes_back_as_it_was():
    bits = np.arange(1 << 16, dtype=np.uint16)
    bits = bits[(bits & 0x7F80) != 0x7F80]
    back = there_and_back(bits[:, None], Head((1,), "bfloat16"))
    expected = torch.from_numpy(bits.copy()).view(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(back[:, 0].view(np.uint32), expected.view(np.uint32))
    again = encode(back, "h", Head((1,), "bfloat16"))["h"]
    np.testing.assert_array_equal(again[:, 0], bits)


@given(VALUES)
def test_int8_is_off_by_half_a_step_at_most(values: list[float]):
    array = np.array(values, np.float32)[None]
    back = there_and_back(array, Head((len(values),), "int8"))
    step = np.abs(array).max() / 127
    assert np.abs(back - array).max() <= step * 0.5001 + 1e-44
    assert (back[array == 0] == 0).all()


def test_int8_has_a_scale_for_each_vector_of_a_row():
    rows = np.random.default_rng(0).standard_normal((5, 3, 8)).astype(np.float32)
    rows[:, 1] *= 1000
    arrays = encode(rows, "h", Head((3, 8), "int8"))
    assert arrays["h.scale"].shape == (5, 3)
    back = decode(arrays, "h", Head((3, 8), "int8"))
    for row in range(5):
        for vector in range(3):
            exact = rows[row, vector]
            assert np.abs(back[row, vector] - exact).max() <= np.abs(exact).max() / 127 * 0.5001


@pytest.mark.parametrize("dtype", ["float16", "float32", "bfloat16", "int8"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_named_by_its_row(dtype: str, bad: float):
    rows = np.ones((6, 4), np.float32)
    rows[2, 1] = rows[5, 3] = bad
    with pytest.raises(NotFinite) as error:
        encode(rows, "h", Head((4,), dtype))
    assert error.value.rows.tolist() == [2, 5]
    assert not error.value.overflow


def test_numbers_too_large_for_float16_are_distinguished_from_infinite_ones():
    rows = np.ones((3, 4), np.float32)
    rows[1, 0] = 70_000
    with pytest.raises(NotFinite) as error:
        encode(rows, "h", Head((4,), "float16"))
    assert error.value.overflow
    assert encode(rows, "h", Head((4,), "float32"))["h"][1, 0] == 70_000


def test_the_callers_memory_is_never_kept():
    rows = np.ones((3, 4), np.float16)
    stored = encode(rows, "h", Head((4,), "float16"))["h"]
    rows[:] = 2
    assert (stored == 1).all()


def test_shapes_and_types_must_fit():
    with pytest.raises(UserError, match=r"shape \(4,\), found \(5,\)"):
        encode(np.ones((3, 5)), "h", Head((4,)))
    with pytest.raises(UserError, match="holds floats, found int64"):
        encode(np.ones((3, 4), int), "h", Head((4,)))


@pytest.mark.parametrize("dtype", ["float16", "float32", "bfloat16", "int8"])
def test_decoding_into_memory_of_the_caller_gives_the_same(dtype: str):
    head = Head((3, 5), dtype)
    arrays = encode(np.random.default_rng(0).standard_normal((7, 3, 5)), "h", head)
    fresh = decode(arrays, "h", head)
    out = np.full_like(fresh, np.nan)
    assert decode(arrays, "h", head, out) is out
    np.testing.assert_array_equal(out, fresh)
