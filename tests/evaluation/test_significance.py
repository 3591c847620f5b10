"""Laws of intervals, tests and corrections, and a few values known from elsewhere."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from stepwell.evaluation.significance import bootstrap_interval, bootstrap_intervals, holm, paired_test

unit = st.floats(0, 1, allow_nan=False, width=32)
values = arrays(np.float64, st.integers(2, 30), elements=unit)
p_values = st.lists(st.floats(0, 1), min_size=1, max_size=8)


@given(values, st.integers(0, 2**32))
@settings(max_examples=40)
def test_an_interval_lies_within_the_values_and_is_repeatable(sample, seed):
    low, high = bootstrap_interval(sample, seed, samples=200)
    assert sample.min() - 1e-9 <= low <= high <= sample.max() + 1e-9
    assert (low, high) == bootstrap_interval(sample, seed, samples=200)


@given(values, st.floats(-1, 1), st.floats(0.1, 5))
@settings(max_examples=40)
def test_an_interval_moves_and_scales_with_the_values(sample, shift, scale):
    moved = bootstrap_interval(sample * scale + shift, 3, samples=100)
    assert moved == pytest.approx(np.array(bootstrap_interval(sample, 3, samples=100)) * scale + shift, abs=1e-9)


@given(values)
@settings(max_examples=40)
def test_a_higher_level_gives_a_wider_interval(sample):
    low, high = bootstrap_interval(sample, 5, level=0.99, samples=300)
    inner_low, inner_high = bootstrap_interval(sample, 5, level=0.8, samples=300)
    assert low <= inner_low <= inner_high <= high


def test_columns_share_their_draws():
    sample = np.random.default_rng(0).random((50, 2))
    lows, highs = bootstrap_intervals(sample, seed=9, samples=500)
    for column in range(2):
        assert bootstrap_interval(sample[:, column], 9, samples=500) == pytest.approx((lows[column], highs[column]))


def test_drawing_in_blocks_gives_every_sample(monkeypatch):
    whole = bootstrap_interval(np.arange(10.0), seed=1, samples=1_000)
    monkeypatch.setattr("stepwell.evaluation.significance._BLOCK", 70)
    assert bootstrap_interval(np.arange(10.0), seed=1, samples=1_000) == whole


def test_the_interval_of_many_values_is_that_of_the_normal_distribution():
    sample = np.random.default_rng(1).random(2_000)
    low, high = bootstrap_interval(sample, seed=2)
    half = 1.96 * sample.std() / np.sqrt(len(sample))
    assert (low, high) == pytest.approx((sample.mean() - half, sample.mean() + half), abs=0.05 * half)


def test_no_queries_have_no_interval():
    assert np.isnan(bootstrap_interval(np.zeros(0), seed=0)).all()


@given(st.integers(2, 30).flatmap(lambda n: st.tuples(*[arrays(np.float64, n, elements=unit)] * 2)))
def test_a_p_value_is_a_probability_and_does_not_care_who_is_first(pair):
    p = paired_test(*pair)
    assert 0 <= p <= 1
    assert p == pytest.approx(paired_test(*pair[::-1]))


@given(values)
def test_a_system_never_differs_from_itself(sample):
    assert paired_test(sample, sample) == 1.0


def test_the_test_is_the_paired_t_test():
    rng = np.random.default_rng(4)
    a, b = rng.random(40), rng.random(40)
    assert paired_test(a, b) == pytest.approx(stats.ttest_rel(a, b).pvalue)


def test_differences_that_are_all_equal_get_the_randomisation_test():
    a = np.array([0.1, 0.2, 0.3, 0.4])
    assert paired_test(a + 0.1, a) == 0.125
    exact = stats.permutation_test((np.full(4, 0.1),), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert exact.pvalue == 0.125


def test_one_query_proves_nothing():
    assert paired_test(np.array([1.0]), np.array([0.0])) == 1.0


def test_values_that_are_not_paired_are_refused():
    with pytest.raises(ValueError, match="not paired"):
        paired_test(np.zeros(3), np.zeros(4))


@given(p_values)
def test_holm_lies_between_no_correction_and_bonferroni(family):
    adjusted = holm(family)
    assert (adjusted >= np.array(family)).all()
    assert (adjusted <= np.minimum(1, np.array(family) * len(family))).all()


@given(p_values)
def test_holm_keeps_the_order_of_the_p_values(family):
    order = np.argsort(family, kind="stable")
    assert (np.diff(holm(family)[order]) >= 0).all()


@given(p_values, st.randoms())
def test_holm_does_not_depend_on_the_order_of_the_tests(family, random):
    shuffled = list(range(len(family)))
    random.shuffle(shuffled)
    assert holm([family[i] for i in shuffled]).tolist() == holm(family)[shuffled].tolist()


def test_holm_gives_the_values_of_a_worked_example():
    # Step-down by hand: 4 * 0.005, 3 * 0.01, 2 * 0.03, then no less than the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_of_nothing_is_nothing():
    assert holm([]).tolist() == []
