"""Residuals, their standard deviations and leverage against dense algebra."""

import dense
import designs
import jax
import numpy as np
import pytest
from nearly import approx, same_in_a_batch

import jaxre
from jaxre import Components
from jaxre.criteria import criteria
from jaxre.residuals import residuals

pytestmark = pytest.mark.usefixtures("x64")

RESIDUALS = jax.jit(residuals)


@pytest.mark.parametrize("sizes", [designs.SIZES["one giant"], designs.SIZES["unequal"], designs.SIZES["three groups"]])
@pytest.mark.parametrize("p", [1, 3])
@pytest.mark.parametrize("ratio", [0.0, 0.7, 1e3])
def test_against_dense_algebra(sizes, p, ratio):
    """Dense solves of condition up to 1e5 for a giant group and a large ratio."""
    y, groups, covariates = designs.simulate(41, sizes, p=p)
    within, x = 0.8, dense.design(len(y), covariates)
    at, moments = Components(within=within, between=ratio * within), designs.moments(y, groups, covariates)
    found = RESIDUALS(moments, at, y, groups, covariates)
    v = dense.covariance(within, ratio * within, groups)
    projection, close = dense.projection(x, v), {"rtol": 1e-9, "atol": 1e-11}
    beta, of_beta = dense.gls(y, x, v)
    conditional = within * projection @ y
    np.testing.assert_allclose(found.marginal, y - x @ beta, **close)
    np.testing.assert_allclose(found.conditional, conditional, **close)
    np.testing.assert_allclose(found.marginal_fitted, x @ beta, **close)
    np.testing.assert_allclose(found.conditional_fitted, y - conditional, **close)
    np.testing.assert_allclose(found.leverage, 1 - within * np.diag(projection), **close)
    np.testing.assert_allclose(found.fixed_leverage, np.diag(x @ of_beta @ x.T @ np.linalg.inv(v)), **close)
    marginal_sd = np.sqrt(np.diag(v - x @ of_beta @ x.T))
    conditional_sd = within * np.sqrt(np.diag(projection))
    np.testing.assert_allclose(found.marginal_standardised, (y - x @ beta) / marginal_sd, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(found.conditional_standardised, conditional / conditional_sd, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("p", [1, 3])
def test_leverage_sums_to_the_parameters(p):
    y, groups, covariates = designs.simulate(42, designs.SIZES["unequal"], p=p)
    moments, at = designs.moments(y, groups, covariates), Components(within=1.0, between=0.4)
    found = RESIDUALS(moments, at, y, groups, covariates)
    assert found.fixed_leverage.sum() == approx(p, rel=1e-13)  # a sum of 21 terms
    assert found.leverage.sum() == approx(criteria(moments, at).effective_parameters, rel=1e-13)


def test_a_mean_far_away_costs_no_digits():
    """1e12 is exactly representable beside these values, so nothing may change."""
    y, groups, _ = designs.simulate(43, designs.SIZES["unequal"])
    y = np.round(y * 1024) / 1024
    at = Components(within=1.0, between=0.4)
    here = RESIDUALS(designs.moments(y, groups), at, y, groups)
    there = RESIDUALS(designs.moments(y + 2.0**40, groups), at, y + 2.0**40, groups)
    for name in ("marginal", "conditional", "marginal_standardised", "conditional_standardised"):
        np.testing.assert_allclose(getattr(there, name), getattr(here, name), rtol=1e-12, atol=1e-14)


def test_conditional_residuals_at_a_huge_ratio_are_those_within_groups():
    y, groups, _ = designs.simulate(44, [2, 3, 4, 1])
    found = RESIDUALS(designs.moments(y, groups), Components(within=1.0, between=1e12), y, groups)
    np.testing.assert_allclose(found.conditional, dense.centre(y, groups), atol=1e-11)
    sizes = np.bincount(groups)[groups]
    np.testing.assert_allclose(found.leverage, 1 / sizes, rtol=1e-11)
    # a group of one is met whatever its value, to 1e-12: 1 - leverage is that small, and positive
    assert np.isfinite(found.conditional_standardised[:-1]).all()


def test_a_row_that_determines_a_coefficient_has_no_standardised_residual():
    y, groups, _ = designs.simulate(45, [3, 3, 3])
    covariates = (np.arange(9) == 4)[:, None] * 1.0
    found = RESIDUALS(
        designs.moments(y, groups, covariates), Components(within=1.0, between=0.5), y, groups, covariates
    )
    assert np.isnan(found.conditional_standardised[4])
    assert np.isfinite(np.delete(found.conditional_standardised, 4)).all()
    assert found.leverage[4] == approx(1, rel=1e-14)


def test_rows_of_other_moments():
    y, groups, covariates = designs.simulate(46, [3, 4, 2], p=2)
    moments, at = designs.moments(y, groups, covariates), Components(within=1.0, between=0.5)
    with pytest.raises(ValueError, match="got 2 rows of group 0 where the moments have 3"):
        residuals(moments, at, y, np.array([1, 0, 0, 1, 1, 1, 1, 2, 2]), covariates)
    with pytest.raises(ValueError, match=r"covariates must have shape \(9, 1\) as in the moments, got \(9, 0\)"):
        residuals(moments, at, y, groups)
    with pytest.raises(ValueError, match=r"groups must lie within 0 .. 2, got 0 to 3"):
        residuals(moments, at, y, np.where(groups == 2, 3, groups), covariates)
    with pytest.raises(ValueError, match=r"9 integers 0 .. 2, one a row, got float64"):
        residuals(moments, at, y, groups * 1.0, covariates)
    with pytest.raises(TypeError, match="by group, of group_moments, got Strata"):
        residuals(jaxre.stratify(moments), at, y, groups, covariates)


def test_degenerate_moments():
    constant = jaxre.group_moments(np.ones(6), [0, 0, 1, 1, 2, 2])
    found = residuals(constant, Components(within=1.0, between=0.5), np.ones(6), np.repeat(np.arange(3), 2))
    assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(found))


def test_batched_as_alone_and_in_single_precision():
    y, groups, covariates = designs.simulate(47, designs.SIZES["unequal"], p=2)
    outcomes = y + np.random.default_rng(0).normal(size=(4, len(y)))
    at = Components(within=1.0, between=0.5)
    one = lambda y: residuals(jaxre.group_moments(y, groups, covariates), at, y, groups, covariates)
    same_in_a_batch(one, outcomes, rtol=1e-11, atol=1e-13)
    with jax.enable_x64(False):
        single = residuals(
            jaxre.group_moments(y.astype(np.float32), groups, covariates), at, y.astype(np.float32), groups, covariates
        )
    for a, b in zip(jax.tree.leaves(single), jax.tree.leaves(jax.jit(one)(y)), strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, atol=2e-5)  # eps 1.2e-7 of numbers up to 10
