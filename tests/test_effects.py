"""Generalised least squares against dense algebra; predictions against Henderson's mixed model equations."""

import dense
import designs
import jax
import numpy as np
import pytest

import jaxre
from jaxre.effects import gls, normal_equations

pytestmark = pytest.mark.usefixtures("x64")

VARIANCES = [np.array([1.0, 2.0, 0.5, 4.0]), np.array([3.0, 3.0, 3.0]), np.array([1e-8, 1.0, 1e8])]
BLUP = jax.jit(jaxre.blup)
GLS = jax.jit(lambda strata, ratio: gls(normal_equations(strata), ratio))


@pytest.mark.parametrize("variances", VARIANCES)
def test_blue_weights_are_those_of_lagrange(variances):
    means = np.arange(len(variances)) - 0.7
    estimate = jaxre.blue(means, variances)
    weights = np.asarray(estimate.weights)
    ulps = 4e-16  # a division and a short sum
    assert weights.sum() == pytest.approx(1, rel=ulps)
    # stationary point of sum w^2 v - 2 m (sum w - 1): w_j v_j is the same multiplier m for all
    np.testing.assert_allclose(weights * variances, weights[0] * variances[0], rtol=ulps)
    assert estimate.variance == pytest.approx(1 / (1 / variances).sum(), rel=ulps)
    assert estimate.variance == pytest.approx(weights**2 @ variances, rel=4 * ulps)
    assert estimate.mean == pytest.approx(weights @ means, rel=4 * ulps)


@pytest.mark.parametrize("variances", VARIANCES)
def test_no_other_unbiased_weights_have_a_smaller_variance(variances):
    estimate = jaxre.blue(np.zeros(len(variances)), variances)
    others = np.random.default_rng(1).normal(size=(2000, len(variances)))
    others -= others.mean(axis=1, keepdims=True)  # the weights still sum to one
    for size in (1e-3, 1.0):
        spread = ((estimate.weights + size * others) ** 2 @ variances).min()
        assert spread > estimate.variance
    # the increase is exactly sum d_j^2 v_j: the cross term vanishes at the optimum
    increase = (estimate.weights + others) ** 2 @ variances - estimate.variance
    np.testing.assert_allclose(increase, others**2 @ variances, rtol=1e-11)  # eps times |d|^2 v / increase


def test_blue_is_the_grand_mean_when_balanced():
    y = designs.simulate(3, [4] * 7)[0]
    means = y.reshape(7, 4).mean(axis=1)
    variances = jaxre.group_mean_variance(jaxre.Components(within=2.0, between=0.3), np.full(7, 4.0))
    assert jaxre.blue(means, variances).mean == pytest.approx(y.mean(), rel=1e-15)


def test_blue_of_the_group_means_is_the_gls_mean():
    y, groups, _ = designs.simulate(4, designs.SIZES["unequal"])
    within, between = 1.3, 0.4
    sizes = np.bincount(groups)
    means = np.bincount(groups, weights=y) / sizes
    estimate = jaxre.blue(means, jaxre.group_mean_variance(jaxre.Components(within=within, between=between), sizes))
    beta, cov = dense.gls(y, dense.design(len(y)), dense.covariance(within, between, groups))
    assert estimate.mean == pytest.approx(beta[0], rel=1e-14)  # dense solve of 21 rows
    assert estimate.variance == pytest.approx(cov[0, 0], rel=1e-14)


@pytest.mark.parametrize(("p", "shift"), [(1, 0.0), (3, 0.0), (1, 1e9), (3, 1e9)])
def test_group_means_are_in_the_units_of_the_outcome(p, shift):
    y, groups, covariates = designs.simulate(5, [3, 1, 4, 2], p=p)
    y = y * 1000 + shift
    covariates = None if covariates is None else covariates + shift
    means = np.array([y[groups == j].mean() for j in range(4)])
    found = jaxre.group_means(designs.moments(y, groups, covariates))
    # a few ulps of the largest number, times the cancellation against slopes of 1000 at covariates of 1e9
    scale = np.abs(means).max() + (1000 * shift if p > 1 else 0)
    np.testing.assert_allclose(found, means, rtol=0, atol=8e-16 * scale)


def test_group_mean_of_an_empty_group_is_nan():
    moments = jax.jit(lambda y: jaxre.group_moments(y, np.array([0, 0, 2]), num_groups=4))(np.array([1.0, 2.0, 5.0]))
    np.testing.assert_allclose(jaxre.group_means(moments), [1.5, np.nan, 5.0, np.nan], rtol=4e-16)  # two roundings


@pytest.mark.parametrize("sizes", [designs.SIZES["one giant"], designs.SIZES["unequal"], designs.SIZES["balanced"]])
@pytest.mark.parametrize("p", [1, 3])
@pytest.mark.parametrize("ratio", [0.0, 0.3, 1e3])
def test_gls_is_the_dense_one(sizes, p, ratio):
    y, groups, covariates = designs.simulate(6, sizes, p=p)
    moments = designs.moments(y, groups, covariates)
    fit = GLS(designs.strata(y, groups, covariates), ratio)
    x = dense.design(len(y), covariates)
    beta, cov = dense.gls(y, x, dense.covariance(1.0, ratio, groups))
    transform, scale = moments.frame.transform, moments.frame.scale
    inverse = np.asarray(fit.inverse) * scale**2  # within is 1 in the user's units
    rounding = 1e-12  # the dense solve: eps times the condition of V, at most 4e4
    np.testing.assert_allclose(moments.frame.origin + transform @ fit.gamma, beta, rtol=rounding, atol=rounding)
    np.testing.assert_allclose(transform @ inverse @ transform.T, cov, rtol=rounding, atol=rounding * np.abs(cov).max())
    residual = y - x @ beta
    q = residual @ np.linalg.solve(dense.covariance(1.0, ratio, groups), residual)
    found = (fit.within + fit.weights @ fit.squares) / scale**2
    assert found == pytest.approx(q, rel=rounding)


@pytest.mark.parametrize("sizes", [designs.SIZES["one giant"], designs.SIZES["unequal"], designs.SIZES["three groups"]])
@pytest.mark.parametrize("p", [1, 3])
def test_blup_solves_hendersons_equations(sizes, p):
    y, groups, covariates = designs.simulate(7, sizes, p=p)
    within, between = 0.8, 1.7
    found = BLUP(designs.moments(y, groups, covariates), jaxre.Components(within=within, between=between))
    x, z = dense.design(len(y), covariates), dense.indicators(groups)
    effect, variance = dense.blup(y, x, groups, within, between)
    rounding = 1e-12  # two dense solves of condition 1e2
    np.testing.assert_allclose(found.effect, effect, rtol=rounding, atol=rounding)
    np.testing.assert_allclose(found.variance, variance, rtol=rounding)
    v = dense.covariance(within, between, groups)
    residual = y - x @ dense.gls(y, x, v)[0]
    np.testing.assert_allclose(found.effect, between * z.T @ np.linalg.solve(v, residual), rtol=rounding, atol=rounding)
    sizes = np.array(sizes)
    np.testing.assert_allclose(found.shrinkage, sizes * between / (within + sizes * between), rtol=1e-15)


@pytest.mark.parametrize("p", [1, 3])
def test_predictions_sum_to_zero_and_vanish_on_the_boundary(p):
    y, groups, covariates = designs.simulate(8, designs.SIZES["unequal"], p=p)
    moments = designs.moments(y, groups, covariates)
    found = BLUP(moments, jaxre.Components(within=0.8, between=1.7))
    # sum of the predictions = between 1'Z' V^-1 (y - X beta), which the normal equation of the intercept makes 0
    assert np.sum(found.effect) == pytest.approx(0, abs=1e-13)
    none = BLUP(moments, jaxre.Components(within=0.8, between=0.0))
    for field in (none.effect, none.variance, none.shrinkage):
        np.testing.assert_array_equal(field, np.zeros(6))
