"""Spread and check_tau: they see flat and one-hot teachers, and stay silent about a good one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from stepwell.recipe import Rung
from stepwell.recipe.ladder import teacher_temperature
from stepwell.teachers.spread import check_scores, check_tau, spread

RNG = np.random.default_rng(3)
GOOD = RNG.normal(scale=3.0, size=(200, 8))


def test_known_values():
    seen = spread([[1.0, 1.0, 1.0, 1.0], [10.0, -10.0, np.nan, np.nan], [0.0, np.log(3.0), np.nan, np.nan]])
    assert seen.queries == 3
    assert (seen.low, seen.high) == (-10.0, 10.0)
    np.testing.assert_allclose(seen.median_std, np.log(3) / 2)
    np.testing.assert_allclose(seen.mean_std, (0 + 10 + np.log(3) / 2) / 3)
    np.testing.assert_allclose([seen.flat, seen.one_hot], 1 / 3)
    # entropies: log 4 / log 4 = 1, about 0, and of (1/4, 3/4) in bits
    np.testing.assert_allclose(seen.entropy, (1 + 0 + 0.811278) / 3, atol=1e-5)


def test_queries_with_less_than_two_scores_are_left_out():
    assert spread([[1.0, np.nan], [1.0, 2.0], [np.nan, np.nan]]).queries == 1
    with pytest.raises(ValueError, match="two scores"):
        spread([[1.0, np.nan]])


@given(st.floats(-1e3, 1e3), st.floats(0.1, 10.0))
def test_law_a_shift_changes_nothing_but_the_range_and_tau_is_a_unit(shift, tau):
    one, two = spread(GOOD, 1.0), spread(GOOD * tau + shift, tau)
    np.testing.assert_allclose(two.entropy, one.entropy, rtol=1e-6)
    np.testing.assert_allclose(two.median_std, one.median_std * tau, rtol=1e-6)


def test_a_good_teacher_gives_no_warning():
    assert check_tau(GOOD, 1.0) == []
    assert check_tau(GOOD, 4.0) == []


def test_a_sigmoid_is_recognised():
    (warning,) = check_tau(0.5 + 0.02 * RNG.random((50, 8)), 1.0)
    assert "sigmoid" in warning
    assert "flat" in warning


def test_flat_logits_are_not_called_a_sigmoid():
    (warning,) = check_tau(RNG.normal(scale=0.05, size=(50, 8)) + 7, 1.0)
    assert "sigmoid" not in warning
    assert "flat" in warning


def test_scores_far_apart_are_no_more_than_a_label():
    (warning,) = check_tau(RNG.normal(scale=500, size=(50, 8)), 1.0)
    assert "no more than the label" in warning


@pytest.mark.parametrize("scale", [0.01, 500.0])
def test_the_tau_that_is_suggested_mends_it(scale):
    scores = RNG.normal(scale=scale, size=(50, 8))
    (warning,) = check_tau(scores, 1.0)
    suggested = float(warning.split("tau near ")[1].split(",")[0].rstrip("."))
    assert check_tau(scores, suggested) == []


def test_a_teacher_that_says_nothing_is_told_so():
    (warning,) = check_tau(np.full((5, 4), 2.0), 1.0)
    assert "nothing to learn" in warning


def test_what_is_looked_at_is_what_the_loss_reads():
    rung = Rung(teacher="ce", loss="candidates", tau=2, teacher_tau=3)
    assert teacher_temperature(rung) == 3
    assert teacher_temperature(rung.model_copy(update={"teacher_tau": None})) == 2
    assert teacher_temperature(rung.model_copy(update={"soft": "decoupled"})) == 2
    assert teacher_temperature(rung.model_copy(update={"soft": "margin-mse"})) is None
    assert teacher_temperature(rung.model_copy(update={"beta": 0.0})) is None
    flat = np.array([GOOD, GOOD / 1000])  # of two teachers the second is too flat for a softmax
    assert len(check_scores(flat, 1.0)) == 1 and check_scores(flat, None) == []
    assert check_scores([[1.0, np.nan]], 1.0) == []
