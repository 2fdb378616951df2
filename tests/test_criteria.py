"""Information criteria against their definitions, and the derivative of the fitted values against differentiation."""

import dense
import designs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nearly import approx, same_in_a_batch
from reference import table
from slow import slow

import jaxre
from jaxre import Components
from jaxre.criteria import criteria

pytestmark = pytest.mark.usefixtures("x64")

METHODS = ("reml", "ml", "anova")
CRITERIA = jax.jit(criteria, static_argnames="method")


def fitted(y, groups, covariates, method):
    """X beta + Z a as an ordinary function of y, the estimation of the ratio included; X fixed."""
    moments = jaxre.group_moments(y, groups, covariates)
    estimate = getattr(jaxre, method)(moments)
    x = jnp.ones((len(y), 1)) if covariates is None else jnp.column_stack([jnp.ones(len(y)), covariates])
    return x @ estimate.beta + jaxre.blup(moments, estimate).effect[groups]


@pytest.mark.parametrize(("p", "method"), [slow(1, "reml"), (3, "reml"), slow(3, "ml"), (3, "anova")])
def test_conditional_parameters_are_the_derivative_of_the_fitted_values(p, method):
    """Automatic differentiation of the whole pipeline, through the implicit derivative of the ratio; and central
    differences of whole refits, good to 1e-7."""
    y, groups, covariates = designs.simulate(31, designs.SIZES["unequal"], p=p)
    moments = designs.moments(y, groups, covariates)
    found = CRITERIA(moments, jaxre.fit(y, groups, covariates, method=method).components, method=method)
    forward = jax.jit(lambda y: fitted(y, groups, covariates, method))
    step = 1e-5
    slopes = [(forward(y + step * e)[i] - forward(y - step * e)[i]) / (2 * step) for i, e in enumerate(np.eye(len(y)))]
    assert found.conditional_parameters == approx(sum(slopes) + 1, rel=1e-7)
    if p == 1:
        jacobian = jax.jit(jax.jacfwd(lambda y: fitted(y, groups, covariates, method)))(y)
        assert found.conditional_parameters == approx(jnp.trace(jacobian) + 1, rel=1e-11)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("p", [1, 3])
@pytest.mark.parametrize("ratio", [0.0, 0.7, 1e3])
def test_definitions_by_dense_algebra(p, method, ratio):
    y, groups, covariates = designs.simulate(32, designs.SIZES["pairs of sizes"], p=p)
    x, n, within = dense.design(len(y), covariates), len(y), 0.8
    found = CRITERIA(
        designs.moments(y, groups, covariates), Components(within=within, between=ratio * within), method=method
    )
    v = dense.covariance(within, ratio * within, groups)
    projection, rounding = dense.projection(x, v), {"rel": 1e-10}  # dense inverses of condition 1e4
    residual = within * projection @ y
    likelihood = dense.restricted_log_likelihood if method == "reml" else dense.log_likelihood
    minus_2 = -2 * likelihood(y, x, v)
    assert found.parameters == p + 2
    assert found.aic == approx(minus_2 + 2 * (p + 2), **rounding)
    assert found.bic == approx(minus_2 + np.log(n) * (p + 2), **rounding)
    assert found.effective_parameters == approx(n - within * np.trace(projection), **rounding)
    density = -(n * np.log(2 * np.pi * within) + residual @ residual / within) / 2
    assert found.conditional_log_likelihood == approx(density, **rounding)
    assert found.conditional_aic == approx(-2 * density + 2 * found.conditional_parameters, **rounding)
    explained = np.var(x @ dense.gls(y, x, v)[0], ddof=1)
    total = explained + within * (1 + ratio)
    assert found.r2_marginal == approx(explained / total, rel=1e-10, abs=1e-14)
    assert found.r2_conditional == approx((explained + ratio * within) / total, **rounding)
    if ratio == 0:
        assert found.conditional_parameters == approx(p + 1, rel=1e-14)


def test_dyestuff_as_lme4_prints_it():
    """lme4: REML criterion 319.6543, AIC 325.6543 and BIC 329.8579 of three parameters and 30 rows."""
    data = table("Dyestuff")
    fit = jaxre.fit(*data)
    found = criteria(fit.moments, fit.components)
    assert found.aic == approx(325.6543, abs=5e-5)
    assert found.bic == approx(329.8579, abs=5e-5)
    assert found.r2_marginal == 0
    assert found.r2_conditional == approx(fit.icc, rel=1e-14)


def test_scale_and_shift_of_the_outcome():
    """A power of two of the outcome changes no share, and the log-likelihoods by n (or n - p) logarithms of it."""
    y, groups, covariates = designs.simulate(33, designs.SIZES["unequal"], p=3)
    one = jaxre.fit(y, groups, covariates)
    here = CRITERIA(one.moments, one.components)
    for factor in (2.0**400, 2.0**-400):
        other = jaxre.fit(y * factor, groups, covariates)
        there = CRITERIA(other.moments, other.components)
        for name in ("r2_marginal", "r2_conditional", "effective_parameters", "conditional_parameters"):
            assert getattr(there, name) == approx(getattr(here, name), rel=1e-12), name
        assert there.aic == approx(here.aic + 2 * (len(y) - 3) * np.log(factor), rel=1e-13)
        assert there.conditional_aic == approx(here.conditional_aic + 2 * len(y) * np.log(factor), rel=1e-13)


def test_a_huge_ratio():
    """At an ICC of 1 - 1e-12 every group has its own parameter."""
    fit = jaxre.fit(*table("n09_icc_1-1e-12"))
    found = criteria(fit.moments, fit.components)
    assert found.effective_parameters == approx(20, rel=1e-11)
    assert found.conditional_parameters == approx(21, rel=1e-10)
    assert found.r2_conditional == approx(1, abs=1e-11)


def test_degenerate_input_and_words():
    at = Components(within=1.0, between=0.5)
    constant = jaxre.group_moments(np.ones(6), [0, 0, 1, 1, 2, 2])
    assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(criteria(constant, at)))
    with pytest.raises(ValueError, match="'reml', 'ml', 'anova', got 'map'"):
        criteria(constant, at, method="map")


@pytest.mark.parametrize("method", METHODS)
def test_batched_as_alone(method):
    y, groups, _ = designs.simulate(34, designs.SIZES["unequal"])
    outcomes = y + np.random.default_rng(0).normal(size=(4, len(y)))

    def one(y, between):
        moments = jaxre.group_moments(y, groups)
        return criteria(moments, Components(within=1.0, between=between), method=method)

    same_in_a_batch(one, outcomes, np.array([0.0, 0.3, 2.0, 40.0]), rtol=1e-11)
