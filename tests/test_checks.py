"""Checks of equal variances and of normality against scipy, definitions and simulation."""

import jax
import numpy as np
import pytest
from nearly import approx
from scipy import stats

from jaxre.checks import homogeneity_check, normality_check

pytestmark = pytest.mark.usefixtures("x64")


def test_brown_forsythe_is_levenes_test_with_the_median(rng):
    sizes = [3, 4, 7, 12, 5]
    groups = np.repeat(np.arange(5), sizes)
    order = rng.permutation(len(groups))
    values = rng.normal(size=len(groups)) * (1 + groups) + 10 * groups
    found = homogeneity_check(values[order], groups[order], 5)
    expected = stats.levene(*(values[groups == j] for j in range(5)), center="median")
    assert found.statistic == approx(expected.statistic, rel=1e-12)
    assert found.p_value == approx(expected.pvalue, rel=1e-10)
    assert (found.df1, found.df2) == (4, 26)
    # groups of one and two rows are left out, and so is an empty one
    more, those = np.concatenate([values, rng.normal(size=3)]), np.concatenate([groups, [5, 6, 6]])
    again = homogeneity_check(more, those, 8)
    assert again.p_value == approx(found.p_value, rel=1e-12)
    assert np.isnan(again.spread[5:]).all()
    for j in range(5):
        own = values[groups == j]
        assert again.spread[j] == approx(abs(own - np.median(own)).mean(), rel=1e-13)


def test_a_constant_of_each_group_drops_out(rng):
    groups = np.repeat(np.arange(4), 6)
    values = rng.normal(size=24)
    here, there = (homogeneity_check(values + shift[groups], groups, 4) for shift in (np.zeros(4), np.arange(4) * 3.0))
    assert here.statistic == approx(there.statistic, rel=1e-12)


def test_too_little_to_say():
    for groups in ([0, 0, 0, 1, 1], [0, 0, 0, 0, 0]):
        found = homogeneity_check([1.0, 2.0, 4.0, 1.0, 2.0], groups, 2)
        assert np.isnan(found.statistic)
        assert np.isnan([found.p_value, found.df1, found.df2]).all()
    assert np.isnan(homogeneity_check(np.ones(8), np.repeat([0, 1], 4), 2).p_value)
    with pytest.raises(ValueError, match=r"got \(3,\) and \(2,\)"):
        homogeneity_check(np.ones(3), np.zeros(2, int), 1)


def test_shapiro_francia_by_definition(rng):
    values = rng.exponential(size=40)
    found = normality_check(values)
    scores = stats.norm.ppf((stats.rankdata(values) - 3 / 8) / (40 + 1 / 4))
    assert found.statistic == approx(np.corrcoef(values, scores)[0, 1] ** 2, rel=1e-12)
    np.testing.assert_allclose(found.scores, scores, rtol=1e-12)
    assert found.skewness == approx(stats.skew(values), rel=1e-12)
    assert found.excess_kurtosis == approx(stats.kurtosis(values), rel=1e-12)
    assert found.p_value < 0.01


def test_shapiro_francia_at_the_published_critical_value():
    """Shapiro and Francia (1972), table 1: the 5 % point for n = 50 is .953, to Monte-Carlo error of the table."""
    u = np.log(50)
    v = np.log(u)
    z = (np.log(1 - 0.953) - (1.0521 * (v - u) - 1.2725)) / (1.0308 - 0.26758 * (v + 2 / u))
    assert stats.norm.sf(z) == approx(0.05, abs=0.01)


@pytest.mark.parametrize("n", [10, 50, 400])
def test_normal_values_are_refused_as_often_as_said(n):
    """Royston's approximation is good to about 0.005 at 5 %; 20,000 draws have a Monte-Carlo error of 0.0015."""
    draws = np.random.default_rng(5).normal(size=(20_000 if n < 400 else 5_000, n))
    found = jax.jit(jax.vmap(normality_check))(draws)
    error = np.sqrt(0.05 * 0.95 / len(draws))
    assert (np.asarray(found.p_value) < 0.05).mean() == approx(0.05, abs=0.005 + 4 * error)
    assert (np.asarray(found.p_value) < 0.5).mean() == approx(0.5, abs=0.02 + 8 * error)


def test_missing_and_few_values(rng):
    values = rng.normal(size=12)
    padded = np.insert(values, [3, 7], np.nan)
    alone, among = normality_check(values), normality_check(padded)
    for name in ("statistic", "p_value", "skewness", "excess_kurtosis"):
        assert getattr(among, name) == approx(getattr(alone, name), rel=1e-13)
    np.testing.assert_array_equal(np.isnan(among.scores), np.isnan(padded))
    few = normality_check([1.0, 2.0, 4.0, 4.5])
    assert np.isnan(few.p_value)
    assert np.isfinite(few.statistic)
    assert np.isnan(normality_check(np.ones(9)).statistic)
    with pytest.raises(ValueError, match=r"got shape \(2, 3\)"):
        normality_check(np.ones((2, 3)))


def test_in_single_precision(rng):
    values, groups = rng.normal(size=20), np.repeat(np.arange(4), 5)
    with jax.enable_x64(False):
        singles = homogeneity_check(values.astype(np.float32), groups, 4), normality_check(values.astype(np.float32))
    doubles = homogeneity_check(values, groups, 4), normality_check(values)
    for a, b in zip(jax.tree.leaves(singles), jax.tree.leaves(doubles), strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
