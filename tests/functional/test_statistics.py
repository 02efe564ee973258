"""Comparisons over seeds, each against its definition written with plain loops."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.functional.statistics import gap_closed, holm, paired, standard_error

# Two-sided 95 % points of Student's t by degrees of freedom, from printed tables.
T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 7: 2.365, 9: 2.262}


def mean(values):
    return sum(values) / len(values)


def error_of(values):
    return math.sqrt(sum((x - mean(values)) ** 2 for x in values) / (len(values) - 1) / len(values))


@pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 10])
def test_paired_is_mean_standard_error_and_students_interval(n):
    differences = list(np.random.default_rng(n).normal(0.01, 0.02, size=n))
    found = paired(differences)
    reach = T95[n - 1] * error_of(differences)
    assert found.mean == pytest.approx(mean(differences), rel=1e-12)
    assert found.standard_error == standard_error(differences) == pytest.approx(error_of(differences), rel=1e-12)
    assert found.low == pytest.approx(mean(differences) - reach, rel=2e-3, abs=1e-5)
    assert found.high == pytest.approx(mean(differences) + reach, rel=2e-3, abs=1e-5)
    assert found.wins == sum(x > 0 for x in differences)
    assert found.n == n


def test_the_p_value_is_that_of_the_t_distribution():
    # With two seeds, t follows Cauchy's law, whose tail has a closed form.
    differences = [0.01, 0.04]
    t = mean(differences) / error_of(differences)
    assert paired(differences).p == pytest.approx(1 - 2 * math.atan(t) / math.pi, rel=1e-9)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=9))
def test_the_interval_holds_zero_exactly_when_p_is_above_five_percent(differences):
    found = paired(differences)
    if abs(found.p - 0.05) > 1e-6:
        assert found.inside_noise == (found.p > 0.05)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=9))
def test_swapping_the_two_runs_mirrors_the_comparison(differences):
    one, other = paired(differences), paired([-x for x in differences])
    assert (one.mean, one.low, one.high) == pytest.approx((-other.mean, -other.high, -other.low), abs=1e-12)
    assert one.p == pytest.approx(other.p)


def test_one_seed_has_a_difference_and_no_interval():
    found = paired([0.03])
    assert (found.mean, found.wins, found.n) == (0.03, 1, 1)
    assert (found.standard_error, found.low, found.high, found.p) == (None, None, None, None)
    assert found.inside_noise


def test_a_run_equal_to_the_baseline_is_inside_the_noise():
    found = paired([0.0, 0.0, 0.0])
    assert (found.low, found.high, found.p, found.wins) == (0, 0, 1, 0)
    assert found.inside_noise


def test_a_constant_difference_is_certain():
    found = paired([0.25, 0.25, 0.25])
    assert (found.low, found.high, found.p) == (0.25, 0.25, 0)
    assert not found.inside_noise


def test_the_interval_covers_the_truth_as_often_as_it_says():
    random = np.random.default_rng(0)
    held = [(p := paired(random.normal(1, 2, size=5))).low <= 1 <= p.high for _ in range(2000)]
    assert 0.93 < mean(held) < 0.97


@given(st.lists(st.floats(0, 1), max_size=8), st.floats(0.001, 0.999))
def test_holm_rejects_what_his_procedure_rejects(p_values, alpha):
    rejected = set()
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[i] * (len(p_values) - rank) > alpha:
            break
        rejected.add(i)
    assert {i for i, p in enumerate(holm(p_values)) if p <= alpha} == rejected


def test_holm_leaves_a_single_comparison_alone():
    assert holm([0.03]) == [0.03]
    assert holm([]) == []


def test_the_share_of_a_gap_is_a_ratio_of_means():
    found = gap_closed([0.02, 0.03, 0.025], [0.04, 0.05, 0.045])
    assert found.share == pytest.approx(mean([0.02, 0.03, 0.025]) / mean([0.04, 0.05, 0.045]))
    assert found.low < found.share < found.high


@pytest.mark.parametrize("n", [3, 5, 10])
def test_fiellers_interval_holds_the_shares_that_a_t_test_cannot_reject(n):
    random = np.random.default_rng(n)
    gaps = list(random.normal(0.05, 0.005, size=n))
    gains = list(0.6 * np.array(gaps) + random.normal(0, 0.01, size=n))
    found = gap_closed(gains, gaps)
    for r in np.linspace(found.low - 0.5, found.high + 0.5, 60):
        left = paired([x - r * y for x, y in zip(gains, gaps, strict=True)])
        assert (left.low <= 0 <= left.high) == (found.low <= r <= found.high)


def test_a_gap_inside_the_noise_gives_no_interval_and_says_so():
    found = gap_closed([0.01, 0.02, 0.0], [0.05, -0.04, 0.02])
    assert (found.low, found.high) == (None, None)
    assert "within the noise" in found.note


def test_no_gap_gives_no_share():
    found = gap_closed([0.01, 0.02], [-0.03, -0.04])
    assert (found.share, found.low, found.high) == (None, None, None)
    assert "no gap" in found.note


def test_one_seed_gives_a_share_without_an_interval():
    found = gap_closed([0.02], [0.04])
    assert (found.share, found.low, found.high) == (0.5, None, None)
    assert "one seed" in found.note


def test_a_run_that_is_the_probe_closes_the_gap_exactly():
    gaps = [0.04, 0.05, 0.06]
    found = gap_closed(gaps, gaps)
    assert (found.share, found.low, found.high) == pytest.approx((1, 1, 1))
