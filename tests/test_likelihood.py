"""The likelihoods against dense algebra, and their derivatives: closed form = autodiff = finite differences."""

import dense
import designs
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import jaxre
from jaxre.effects import normal_equations
from jaxre.profile import profile

pytestmark = pytest.mark.usefixtures("x64")

FULL = jax.jit(jaxre.log_likelihood)
RESTRICTED = jax.jit(jaxre.restricted_log_likelihood)
DERIVATIVES = jax.jit(jaxre.log_variance_derivatives, static_argnames="restricted")
SMALL = [1, 2, 4, 5]


def negative(log_variances, strata, restricted):
    components = jaxre.Components(within=jnp.exp(log_variances[0]), between=jnp.exp(log_variances[1]))
    return -(jaxre.restricted_log_likelihood if restricted else jaxre.log_likelihood)(components, strata)


# forward over reverse: the derivative of the value and that of the gradient, in one compilation
AUTODIFF = jax.jit(jax.jacfwd(jax.value_and_grad(negative)), static_argnums=2)


def profile_derivatives(strata, ratio, restricted):
    """Profile at a ratio, and its fields' derivatives in the ratio by forward differentiation."""
    at = lambda r: profile(normal_equations(strata), r, restricted)
    return at(ratio), jax.jvp(at, (ratio,), (jnp.ones_like(ratio),))[1]


PROFILES = jax.jit(jax.vmap(profile_derivatives, (None, 0, None)), static_argnums=2)


@pytest.mark.parametrize("design", ["one giant", "three groups", "unequal", "balanced"])
@pytest.mark.parametrize("p", [1, 4])
@pytest.mark.parametrize(("within", "between"), [(1.0, 0.0), (0.7, 1.9), (2.0, 1e-6), (0.01, 30.0)])
def test_likelihoods_are_the_dense_ones(design, p, within, between):
    y, groups, covariates = designs.simulate(1, designs.SIZES[design], p=p)
    strata, components = designs.strata(y, groups, covariates), jaxre.Components(within=within, between=between)
    x, v = dense.design(len(y), covariates), dense.covariance(within, between, groups)
    rounding = 1e-11  # dense V: eps times its condition of up to 3e5
    assert FULL(components, strata) == pytest.approx(dense.log_likelihood(y, x, v), rel=rounding)
    assert RESTRICTED(components, strata) == pytest.approx(dense.restricted_log_likelihood(y, x, v), rel=rounding)
    beta = dense.gls(y, x, v)[0] + np.linspace(-0.5, 1, p)
    assert FULL(components, strata, beta) == pytest.approx(dense.log_likelihood(y, x, v, beta), rel=rounding)


def test_likelihoods_survive_a_large_mean_and_powers_of_two():
    """A shift by 2^30 and a scale by 2^40 are exact here: only the constants of the change of units remain."""
    y, groups, _ = designs.simulate(2, designs.SIZES["unequal"])
    y = np.round(y * 2**10) / 2**10  # 20 bits, so that 2^30 can be added exactly
    here, far = designs.strata(y, groups), designs.strata((y + 2**30) * 2**40, groups)
    a, b = jaxre.Components(within=1.0, between=0.5), jaxre.Components(within=2.0**80, between=2.0**79)
    rounding = 1e-14  # a few ulps
    assert FULL(b, far) == pytest.approx(float(FULL(a, here)) - len(y) * np.log(2**40), rel=rounding)
    assert RESTRICTED(b, far) == pytest.approx(float(RESTRICTED(a, here)) - (len(y) - 1) * np.log(2**40), rel=rounding)


@pytest.mark.parametrize("p", [1, 4])
def test_the_gls_coefficients_are_the_most_likely(p):
    y, groups, covariates = designs.simulate(3, designs.SIZES["unequal"], p=p)
    strata, components = designs.strata(y, groups, covariates), jaxre.Components(within=0.7, between=1.9)
    beta = dense.gls(y, dense.design(len(y), covariates), dense.covariance(0.7, 1.9, groups))[0]
    best = float(FULL(components, strata))
    assert FULL(components, strata, beta) == pytest.approx(best, rel=1e-14)  # second order in the error of beta
    for step in 1e-3 * np.concatenate([np.eye(p), -np.eye(p)]):
        assert FULL(components, strata, beta + step) < best


@pytest.mark.parametrize("restricted", [False, True])
@pytest.mark.parametrize("p", [1, 4])
@pytest.mark.parametrize("at", [(0.0, 0.5), (-0.7, -3.0), (1.0, 4.0)])
def test_log_variance_derivatives_three_ways(restricted, p, at):
    y, groups, covariates = designs.simulate(4, SMALL, p=p)
    strata = designs.strata(y, groups, covariates)
    components = jaxre.Components(within=np.exp(at[0]), between=np.exp(at[1]))
    closed = DERIVATIVES(components, strata, restricted=restricted)
    gradient, hessian = AUTODIFF(np.array(at), strata, restricted)
    rounding = {"rtol": 1e-12, "atol": 1e-12}  # 12 rows: a few hundred ulps of terms of order n
    np.testing.assert_allclose(closed.gradient, gradient, **rounding)
    np.testing.assert_allclose(closed.hessian, hessian, **rounding)

    x = dense.design(len(y), covariates)
    with mpmath.workdps(60):  # central differences in 60 digits: the steps of 1e-15 leave an error of 1e-30
        h = mpmath.mpf(10) ** -15
        f = lambda i, j: dense.precise_minus_log_likelihood(y, x, groups, at[0] + i * h, at[1] + j * h, restricted)
        middle = f(0, 0)
        first = [(f(1, 0) - f(-1, 0)) / (2 * h), (f(0, 1) - f(0, -1)) / (2 * h)]
        cross = (f(1, 1) - f(1, -1) - f(-1, 1) + f(-1, -1)) / (4 * h * h)
        second = [(f(1, 0) - 2 * middle + f(-1, 0)) / h**2, cross, cross, (f(0, 1) - 2 * middle + f(0, -1)) / h**2]
    np.testing.assert_allclose(closed.value, float(middle), **rounding)
    np.testing.assert_allclose(closed.gradient, [float(v) for v in first], **rounding)
    np.testing.assert_allclose(np.ravel(closed.hessian), [float(v) for v in second], **rounding)


@pytest.mark.parametrize("restricted", [False, True])
@pytest.mark.parametrize("p", [1, 4])
def test_profile_derivatives_are_those_of_its_values(restricted, p):
    y, groups, covariates = designs.simulate(5, designs.SIZES["pairs of sizes"], p=p)
    strata = designs.strata(y, groups, covariates)
    ratios = np.array([0.0, 1e-3, 0.2, 1.0, 30.0])
    at, derived = PROFILES(strata, ratios, restricted)
    pairs = [
        (at.quadratic_1, derived.quadratic),
        (at.quadratic_2, derived.quadratic_1),
        (at.quadratic_3, derived.quadratic_2),
        (at.log_det_1, derived.log_det),
        (at.log_det_2, derived.log_det_1),
        (at.quadratic_1, derived.excess),
    ]
    for closed, automatic in pairs:
        np.testing.assert_allclose(closed, automatic, rtol=1e-11)  # cancellation of a few digits where terms are small


@pytest.mark.parametrize("restricted", [False, True])
@pytest.mark.parametrize("p", [1, 4])
def test_profile_is_the_spectral_one(restricted, p):
    y, groups, covariates = designs.simulate(5, designs.SIZES["pairs of sizes"], p=p)
    strata = designs.strata(y, groups, covariates)
    spectrum = dense.Spectrum.of(y, dense.design(len(y), covariates), groups)
    ratios = np.array([0.0, 1e-3, 0.2, 1.0, 30.0])
    at, _ = PROFILES(strata, ratios, restricted)
    n = spectrum.count(restricted)
    constant = 2 * n * np.log(strata.frame.scale)
    constant += spectrum.log_det_x + 2 * strata.frame.log_volume if restricted else 0
    f, slope = spectrum.profile(ratios, restricted)
    rounding = 1e-11  # eigenvalues of a 6 x 6 matrix of entries up to 9, projected off X
    np.testing.assert_allclose(n * np.log(at.quadratic) + at.log_det, f + constant, rtol=rounding)
    np.testing.assert_allclose(n * at.quadratic_1 / at.quadratic + at.log_det_1, slope, rtol=rounding, atol=rounding)
    np.testing.assert_allclose(at.quadratic - at.excess, spectrum.floor * strata.frame.scale**2, rtol=rounding)


@pytest.mark.parametrize("restricted", [False, True])
@pytest.mark.parametrize("p", [1, 4])
def test_the_spectral_oracle_is_the_dense_likelihood(restricted, p):
    y, groups, covariates = designs.simulate(6, designs.SIZES["unequal"], p=p)
    x = dense.design(len(y), covariates)
    spectrum = dense.Spectrum.of(y, x, groups)
    for ratio in (0.0, 0.4, 20.0):
        h = dense.covariance(1.0, ratio, groups)
        within = y @ dense.projection(x, h) @ y / spectrum.count(restricted)
        direct = (dense.restricted_log_likelihood if restricted else dense.log_likelihood)(y, x, within * h)
        assert spectrum.log_likelihood(ratio, restricted) == pytest.approx(direct, rel=1e-12)  # condition of V: 200
