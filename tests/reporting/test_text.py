"""Numbers as text: rounding, signs, units, and what is not known."""

import math

import pytest

from pipeline.records import Metric
from pipeline.reporting.text import (
    change,
    change_unit,
    count,
    counted,
    duration,
    heading,
    interval,
    listed,
    number,
    p_value,
    percent,
    scaled,
    score,
    score_with_unit,
    share,
    short_duration,
    signed,
    size,
)

ACCURACY = Metric(name="accuracy", label="accuracy", unit="%")
RMSE = Metric(name="rmse", label="RMSE", unit="kWh", higher_is_better=False)
R2 = Metric(name="r2", label="R²")


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
        (short_duration, 0.00605, "6.05 ms"),
        (short_duration, 0.00023, "230 µs"),
        (short_duration, 1.25, "1.25 s"),
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


@pytest.mark.parametrize("write", [percent, signed, share, number, p_value, duration, short_duration])
@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_what_is_not_known_is_a_dash(write, value):
    assert write(value) == "—"


@pytest.mark.parametrize(
    ("names", "text"), [([], ""), (["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")]
)
def test_lists_names_as_a_sentence_does(names, text):
    assert listed(names) == text


@pytest.mark.parametrize(
    ("metric", "value", "shown", "with_unit", "difference", "drawn"),
    [
        (ACCURACY, 0.0183, "1.83", "1.83%", "+1.83", 1.83),
        (ACCURACY, -0.0183, "-1.83", "-1.83%", "-1.83", -1.83),
        (RMSE, 12.345, "12.3", "12.3 kWh", "+12.3", 12.345),
        (RMSE, -0.5, "-0.5", "-0.5 kWh", "-0.5", -0.5),
        (R2, 0.0, "0", "0", "0", 0.0),
    ],
)
def test_scores_and_differences_follow_the_unit_of_the_metric(metric, value, shown, with_unit, difference, drawn):
    written = [score(value, metric), score_with_unit(value, metric), change(value, metric)]
    assert written == [text.replace("-", "\N{MINUS SIGN}") for text in (shown, with_unit, difference)]
    assert scaled(value, metric) == pytest.approx(drawn)


def test_titles_and_units_of_differences():
    assert [heading(metric) for metric in (ACCURACY, RMSE, R2)] == ["accuracy, %", "RMSE, kWh", "R²"]
    assert [change_unit(metric) for metric in (ACCURACY, RMSE, R2)] == ["points", "kWh", "in R²"]


def test_one_of_a_thing_is_singular():
    assert [counted(n, "seed") for n in (0, 1, 5)] == ["0 seeds", "1 seed", "5 seeds"]
    assert [counted(n, "class", "classes") for n in (1, 1200)] == ["1 class", "1,200 classes"]


def test_an_interval_without_an_end_is_empty():
    assert interval(0.1, 0.2, share) == "10 to 20"
    assert interval(None, 0.2, share) == interval(0.1, None, share) == ""
