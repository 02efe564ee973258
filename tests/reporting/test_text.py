"""Numbers in words: rounding, signs, units, and what is not known."""

import math

import pytest

from pipeline.reporting.text import count, duration, listed, number, p_value, percent, share, signed, size


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [
        (percent, 0.65384, "65.38"),
        (percent, -0.002849, "-0.28"),
        (percent, 0.0, "0.00"),
        (percent, -0.00001, "0.00"),
        (percent, 1.0, "100.00"),
        (signed, 0.0183, "+1.83"),
        (signed, -0.0183, "-1.83"),
        (signed, 0.00001, "0.00"),
        (signed, -0.00001, "0.00"),
        (share, 0.4249, "42"),
        (share, -1.551, "-155"),
        (share, -0.001, "0"),
        (number, 0.057149, "0.0571"),
        (number, 7.9, "7.9"),
        (number, 8.0, "8"),
        (number, 1234.5, "1,230"),
        (number, 0.0, "0"),
        (number, -0.5, "-0.5"),
        (p_value, 0.00035, "< 0.001"),
        (p_value, 0.0312, "0.031"),
        (p_value, 0.5281, "0.53"),
        (p_value, 1.0, "1.00"),
        (duration, 0.0, "0.0 s"),
        (duration, 0.03, "< 0.1 s"),
        (duration, 0.84, "0.8 s"),
        (duration, 9.97, "10 s"),
        (duration, 59.7, "1 min 00 s"),
        (duration, 130.0, "2 min 10 s"),
        (duration, 3900.0, "1 h 05 min"),
        (size, 0, "0 bytes"),
        (size, 999, "999 bytes"),
        (size, 1000, "1 kB"),
        (size, 4_612_345, "4.61 MB"),
        (size, 3_000_000_000_000_000, "3,000 TB"),
        (count, 5200, "5,200"),
    ],
)
def test_writes_numbers_for_people(write, value, text):
    assert write(value) == text.replace("-", "\N{MINUS SIGN}")


@pytest.mark.parametrize("write", [percent, signed, share, number, p_value, duration])
@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_what_is_not_known_is_a_dash(write, value):
    assert write(value) == "—"


@pytest.mark.parametrize(
    ("names", "text"), [([], ""), (["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")]
)
def test_lists_names_as_a_sentence_does(names, text):
    assert listed(names) == text
