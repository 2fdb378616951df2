"""Probabilities and quantiles against closed forms, and against mpmath's incomplete beta function."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from jaxre.distributions import (
    chi2_quantile,
    f_quantile,
    f_tails,
    level_of,
    t_p_value,
    t_quantile,
)
from jaxre.incomplete_beta import betainc
from jaxre.roots import increasing_root

pytestmark = pytest.mark.usefixtures("x64")

# the error of XLA's incomplete beta function grows with its parameters, through differences of log gammas of their size
DEGREES = [((1, 2.5), 1e-13), ((0.7, 12.3), 1e-12), ((5, 200.0), 1e-12), ((39, 160.0), 1e-12), ((300, 2000.0), 1e-11)]
PROBABILITIES = [1e-9, 0.001, 0.025, 0.3, 0.5, 0.95, 0.975, 0.9999]


@pytest.mark.parametrize(("degrees", "tolerance"), DEGREES)
def test_both_tails_of_f_against_mpmath(degrees, tolerance):
    for x in (1e-3, 0.2, 1.0, 3.0, 40.0):
        with mpmath.workdps(400):  # so that a tail of 1e-300 is a difference from 1
            df1, df2 = map(mpmath.mpf, degrees)
            share = df1 * x / (df1 * x + df2)
            below = mpmath.betainc(df1 / 2, df2 / 2, 0, share, regularized=True)
            above = 1 - below
        found = f_tails(x, *degrees)
        for tail, true in zip(found, (below, above), strict=True):
            # an error of 1e-16 in x costs a far tail the size of its logarithm, and no double is below 1e-308
            allowed = tolerance * (1 + abs(float(mpmath.log(true))))
            assert float(tail) == pytest.approx(float(true), rel=allowed, abs=1e-300)


@pytest.mark.parametrize(("degrees", "tolerance"), DEGREES)
def test_f_quantile_is_the_inverse_of_the_smaller_tail(degrees, tolerance):
    """In the far tails a relative error of the probability is divided by the density's slope, at most 1 here."""
    for p in PROBABILITIES:
        below, above = f_tails(f_quantile(p, *degrees), *degrees)
        found, true = (below, p) if p < 0.5 else (above, 1 - p)
        assert float(found) == pytest.approx(true, rel=100 * tolerance)


def test_closed_forms():
    """F(2, d) has P(F > x) = (1 + 2 x / d)^(-d / 2); t on 1 and 2 degrees; chi-square on 1."""
    p = np.array(PROBABILITIES)
    for df in (1.0, 3.0, 40.0):
        np.testing.assert_allclose(f_quantile(p, 2.0, df), df / 2 * np.expm1(-2 / df * np.log1p(-p)), rtol=1e-12)
    np.testing.assert_allclose(t_quantile(p, 1.0), np.tan(np.pi * p / 2), rtol=1e-11)
    np.testing.assert_allclose(t_quantile(p, 2.0), p * np.sqrt(2 / (1 - p * p)), rtol=1e-11)
    t = np.array([0.0, 0.5, 2.0, 30.0])
    np.testing.assert_allclose(t_p_value(t, 1.0), 1 - 2 / np.pi * np.arctan(t), rtol=1e-12)
    assert t_quantile(0.95, np.inf) == pytest.approx(1.959963984540054, rel=1e-14)
    assert t_p_value(1.959963984540054, np.inf) == pytest.approx(0.05, rel=1e-13)
    assert chi2_quantile(0.95) == pytest.approx(3.841458820694124, rel=1e-14)


def test_ends_and_nonsense():
    assert f_quantile(0.0, 3.0, 5.0) == 0
    assert f_quantile(1.0, 3.0, 5.0) == np.inf
    assert np.isnan(f_quantile(np.array([-0.1, 1.1, np.nan]), 3.0, 5.0)).all()
    assert np.isnan(f_quantile(0.5, 0.0, 5.0))
    assert np.isnan(f_quantile(0.5, 3.0, np.nan))
    assert [float(tail) for tail in f_tails(0.0, 3.0, 5.0)] == [0, 1]
    assert [float(tail) for tail in f_tails(np.inf, 3.0, 5.0)] == [1, 0]
    for level in (0, 1, 95, -1):
        with pytest.raises(ValueError, match=r"between 0 and 1, such as 0.95"):
            level_of(level)


def test_under_vmap_and_jit_as_alone():
    rng = np.random.default_rng(0)
    p, df1, df2 = rng.uniform(size=40), 1 + rng.exponential(20, 40), 1 + rng.exponential(50, 40)
    together = jax.jit(jax.vmap(f_quantile))(p, df1, df2)
    alone = [f_quantile(*each) for each in zip(p, df1, df2, strict=True)]
    np.testing.assert_allclose(together, alone, rtol=1e-12)  # one more or one fewer step of Newton's


def test_increasing_root():
    """Roots where Newton's method alone diverges, at the ends, and beyond them."""
    shifts = jnp.array([0.3, -20.0, 0.0, 100.0, -100.0])
    slope = lambda x: 1 / (1 + x * x)
    found = increasing_root(
        lambda x: (jnp.arctan(x - shifts), slope(x - shifts)), jnp.full(5, -50.0), jnp.full(5, 50.0), jnp.full(5, 30.0)
    )
    np.testing.assert_allclose(found, [0.3, -20, 0, 50, -50], rtol=1e-14, atol=1e-14)


def test_derivatives_in_degrees_of_freedom():
    """Of probabilities and quantiles of t and F, against differences of themselves, good to about 1e-9."""
    for function, at in (
        (lambda df: t_p_value(2.3, df), 4.7),
        (lambda df: t_quantile(0.95, df), 4.7),
        (lambda df: t_quantile(0.95, df), 0.6),
        (lambda df: f_quantile(0.9, df, 2 * df), 3.2),
        (lambda df: f_tails(1.7, 2.0, df)[0], 30.0),
    ):
        step = 2e-5 * at
        expected = float(function(at + step) - function(at - step)) / (2 * step)
        assert jax.grad(function)(at) == pytest.approx(expected, rel=1e-7)
        assert jax.jvp(function, (at,), (1.0,))[1] == pytest.approx(expected, rel=1e-7)


def test_derivatives_in_a_level_and_a_statistic_are_densities():
    """F(2, d): P(F > x) = (1 + 2 x / d)^(-d / 2), so density (1 + 2 x / d)^(-d / 2 - 1)."""
    x, d = 1.3, 7.0
    density = (1 + 2 * x / d) ** (-d / 2 - 1)
    below = f_tails(x, 2.0, d)[0]
    assert jax.grad(lambda x: f_tails(x, 2.0, d)[0])(x) == pytest.approx(density, rel=1e-12)
    assert jax.grad(lambda p: f_quantile(p, 2.0, d))(below) == pytest.approx(float(1 / density), rel=1e-11)


@pytest.mark.parametrize("t", [-40.0, -1.3, 0.4, 8.0])
def test_the_slope_of_a_normal_p_value_is_twice_the_density(t):
    """p = 2 Phi(-|t|); and at 0, a peak, the slope is 0."""
    expected = -2 * np.sign(t) * np.exp(-t * t / 2) / np.sqrt(2 * np.pi)
    assert jax.grad(t_p_value)(t, jnp.inf) == pytest.approx(expected, rel=1e-12)
    assert jax.grad(t_p_value)(t, 1e9) == pytest.approx(expected, rel=1e-5)  # t^4 / 4 df apart
    assert [float(slope) for slope in jax.grad(t_p_value, (0, 1))(0.0, jnp.inf)] == [0, 0]


@pytest.mark.parametrize("df", [1e4, 1e8, 1e17, 1e300, np.inf])
def test_p_values_far_out_vanish(df):
    """Below the smallest double, and where t^2 overflows."""
    assert [float(t_p_value(t, df)) for t in (300.0, 1e160, -np.inf)] == [0, 0, 0]
    assert np.isfinite(jax.grad(t_p_value, (0, 1))(2.0, df)).all()


def test_company_changes_no_bit_of_an_incomplete_beta_function():
    """Of elements of an array, beside one that converges at once and one that takes long; under vmap too."""
    rng = np.random.default_rng(0)
    a, b, x = rng.uniform(0.5, 20, 50), rng.uniform(0.5, 20, 50), rng.uniform(0, 1, 50)
    for function in (jax.jit(betainc), jax.jit(jax.vmap(betainc))):
        beside = lambda *other, f=function: f(
            *(np.append(one, more) for one, more in zip((a, b, x), other, strict=True))
        )
        quick, slow = beside(1.0, 1.0, 0.5), beside(300.0, 4000.0, 0.0697)
        np.testing.assert_array_equal(quick[:50], slow[:50])


def test_the_domain_of_an_incomplete_beta_function():
    found = betainc(
        jnp.array([1.0, 2, 2, -1, 0, np.nan, np.inf, 2, 2]), 3.0, jnp.array([0.3, 0, 1, 0.5, 0.5, 0.5, 0.5, -0.1, 1.1])
    )
    np.testing.assert_allclose(found, [1 - 0.7**3, 0, 1, *[np.nan] * 6], rtol=1e-14)  # a = 1 has a closed form


def test_no_degrees_of_freedom_give_no_p_value():
    assert np.isnan(t_p_value(np.array([0.0, 1.0, np.inf]), np.nan)).all()
    assert np.isnan(t_p_value(np.nan, np.array([1.0, 2e4, np.inf]))).all()
