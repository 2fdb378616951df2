"""The optax loop, its Newton transformation and the alternating steps: one answer from every one of them."""

from functools import partial

import dense
import designs
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxre
from jaxre import Status

pytestmark = pytest.mark.usefixtures("x64")

DERIVATIVES = jax.jit(jaxre.log_variance_derivatives, static_argnames="restricted")
ALTERNATING = jax.jit(jaxre.alternating, static_argnames=("steps", "restricted"))
STARTS = [jaxre.Components(within=w, between=b) for w, b in [(1.0, 1.0), (1e-3, 50.0), (30.0, 1e-4)]]


def data(p, ratio=4.0):
    return designs.simulate(22, designs.SIZES["unequal"], ratio=ratio, p=p)


def descend(optimizer, strata, params, steps, restricted):
    """The plain loop of the optax documentation, on log-variances."""
    state, path = optimizer.init(params), [params]
    for _ in range(steps):
        components = jaxre.Components(within=np.exp(params[0]), between=np.exp(params[1]))
        at = DERIVATIVES(components, strata, restricted=restricted)
        updates, state = optimizer.update(at.gradient, state, params, hessian=at.hessian)
        params = optax.apply_updates(params, updates)
        path.append(params)
    return np.array(path)


def root(strata, restricted):
    """Log-variances where the gradient is 0."""
    path = ALTERNATING(strata, STARTS[0], steps=400, restricted=restricted)
    start = jnp.log(jnp.stack([path.within[-1], path.between[-1]]))
    params = descend(jaxre.newton(), strata, start, 3, restricted)[-1]
    components = jaxre.Components(within=np.exp(params[0]), between=np.exp(params[1]))
    gradient = DERIVATIVES(components, strata, restricted=restricted).gradient
    np.testing.assert_allclose(gradient, [0, 0], atol=1e-13)  # two terms of order n / 2, in their last digits
    return params


@pytest.mark.parametrize("restricted", [False, True])
@pytest.mark.parametrize("p", [1, 3])
def test_newton_converges_quadratically_on_the_likelihood(restricted, p):
    strata = designs.strata(*data(p))
    best = root(strata, restricted)
    errors = np.linalg.norm(
        descend(jaxre.newton(), strata, jnp.asarray(best + [0.05, -0.2]), 6, restricted) - best, axis=1
    )
    assert errors[-1] < 1e-13  # the last digits of a log-variance of order 1
    squared = errors[errors > 1e-7]  # below, the square is rounding
    assert len(squared) >= 3
    assert (squared[1:] <= 3 * squared[:-1] ** 2).all()  # half the third derivative over the second, at most 2 here
    assert errors[len(squared)] <= 3 * squared[-1] ** 2 + 1e-13


@pytest.mark.parametrize("restricted", [False, True])
def test_newton_is_a_link_of_an_optax_chain(restricted):
    strata = designs.strata(*data(1))
    best = root(strata, restricted)
    half = optax.chain(jaxre.newton(), optax.scale(0.5))
    errors = np.linalg.norm(descend(half, strata, jnp.asarray(best + [0.01, -0.02]), 20, restricted) - best, axis=1)
    # half a Newton step halves the error, up to its square
    np.testing.assert_allclose(errors[1:] / errors[:-1], 0.5, atol=2 * errors[0])


@pytest.mark.parametrize(
    "hessian",
    [
        [[2.0, 0.5], [0.5, 1.0]],
        [[1.0, 2.0], [2.0, 1.0]],
        [[-1.0, 0.3], [0.3, 2.0]],
        [[-2.0, 0.3], [0.3, -1.0]],
        [[-3.0, 0.0], [0.0, -3.0]],
        [[1e8, 1.0], [1.0, -1e-3]],
    ],
)
def test_newton_step_solves_with_the_absolute_eigenvalues(hessian):
    hessian = np.array(hessian)
    values, vectors = np.linalg.eigh(hessian)
    for gradient in np.random.default_rng(0).normal(size=(20, 2)):
        step, _ = jaxre.newton().update(jnp.asarray(gradient), optax.EmptyState(), hessian=jnp.asarray(hessian))
        expected = -vectors @ ((vectors.T @ gradient) / np.abs(values))
        # |H| is built from its eigenvalues: eps times the condition of the last, 1e11
        np.testing.assert_allclose(step, expected, rtol=1e-14 * np.abs(values).max() / np.abs(values).min())
        assert gradient @ step < 0  # a direction of descent whatever the signs


def test_newton_needs_the_hessian():
    with pytest.raises(TypeError, match="hessian"):
        jaxre.newton().update(jnp.ones(2), optax.EmptyState())


@pytest.mark.parametrize(
    ("optimizer", "fewest", "most"),
    [
        pytest.param(None, 1, 10, id="default"),
        pytest.param(optax.lbfgs(), 1, 1000, id="L-BFGS"),
        pytest.param(optax.adam(0.1), 1, 1000, id="Adam", marks=pytest.mark.slow),
        pytest.param(
            optax.chain(jaxre.newton(), optax.scale(0.5)), 2, 100, id="half of Newton", marks=pytest.mark.slow
        ),
        # it does not move, so that after 1,000 steps the alternating ones take over and end on the score
        pytest.param(optax.sgd(1e-12), 1001, 2000, id="hopeless"),
    ],
)
def test_any_optimizer_reaches_the_same_answer(optimizer, fewest, most):
    datasets = [designs.simulate(seed, designs.SIZES["unequal"], ratio=ratio) for seed, ratio in [(3, 0.5), (2, 9.0)]]
    datasets.append(designs.simulate(12, designs.SIZES["one giant"], ratio=1.0))
    strata = designs.stack([designs.strata(*dataset) for dataset in datasets])
    found = jax.jit(jax.vmap(partial(jaxre.reml, optimizer=optimizer)))(strata)
    assert (found.steps >= fewest).all()
    assert (found.steps <= most).all()
    assert (found.status == Status.INTERIOR).all()
    assert found.certified.all()
    for i, (y, groups, _) in enumerate(datasets):
        exact = float(dense.precise_ratio(y, groups, found.ratio[i], restricted=True))
        # the loop ends where Newton's next error is below eps, whoever proposed the way
        np.testing.assert_allclose(found.ratio[i], exact, rtol=1e-12)


@pytest.mark.parametrize("restricted", [False, True])
@pytest.mark.parametrize("p", [1, 3])
@pytest.mark.parametrize("start", STARTS)
def test_alternating_never_lowers_the_likelihood(restricted, p, start):
    strata = designs.strata(*data(p))
    path = ALTERNATING(strata, start, steps=400, restricted=restricted)
    values = np.asarray(path.log_likelihood)
    rounding = 1e-14 * np.abs(values).max()  # a few ulps, at the end where nothing moves any more
    assert (np.diff(values) >= -rounding).all()
    assert values[-1] > values[0]


@pytest.mark.parametrize("restricted", [False, True])
@pytest.mark.parametrize("p", [1, 3])
def test_alternating_converges_to_the_estimate(restricted, p):
    strata = designs.strata(*data(p))
    path = ALTERNATING(strata, STARTS[0], steps=400, restricted=restricted)
    best = np.exp(root(strata, restricted))
    rounding = 1e-12  # linear convergence: 400 steps are more than enough, and a root of the score is left
    np.testing.assert_allclose([path.within[-1], path.between[-1]], best, rtol=rounding)


@pytest.mark.parametrize("restricted", [False, True])
@pytest.mark.parametrize("p", [1, 3])
def test_an_alternating_step_is_the_dense_formula(restricted, p):
    """within = r' H^-1 r / N, then between times sqrt(r' V^-1 ZZ' V^-1 r / tr(A ZZ')), A = V^-1 or P."""
    y, groups, covariates = data(p)
    path = ALTERNATING(
        designs.strata(y, groups, covariates),
        jaxre.Components(within=0.7, between=1.4),
        steps=400,
        restricted=restricted,
    )
    x, z = dense.design(len(y), covariates), dense.indicators(groups)
    ratio = 2.0
    for step in range(1, 4):
        h = dense.covariance(1.0, ratio, groups)
        within = y @ dense.projection(x, h) @ y / (len(y) - p if restricted else len(y))
        v = within * h
        projection = dense.projection(x, v)
        weighted = z.T @ projection @ y  # Z' V^-1 (y - X beta)
        trace = np.trace(z.T @ (projection if restricted else np.linalg.inv(v)) @ z)
        between = ratio * within * np.sqrt(weighted @ weighted / trace)
        rounding = 1e-12  # three dense inverses of condition 20
        np.testing.assert_allclose(path.within[step], within, rtol=rounding)
        np.testing.assert_allclose(path.between[step], between, rtol=rounding)
        v = dense.covariance(within, between, groups)
        direct = (dense.restricted_log_likelihood if restricted else dense.log_likelihood)(y, x, v)
        np.testing.assert_allclose(path.log_likelihood[step], direct, rtol=rounding)
        ratio = between / within


def test_alternating_only_approaches_the_boundary():
    y, groups, _ = designs.simulate(1, designs.SIZES["balanced"], ratio=0.0)
    ssw, means = (dense.centre(y, groups) ** 2).sum(), y.reshape(6, 5).mean(axis=1)
    assert 5 * means.var(ddof=1) < ssw / 24  # F < 1: the analysis of variance is negative, the estimate 0
    path = ALTERNATING(designs.strata(y, groups), STARTS[0], steps=400, restricted=True)
    assert (np.diff(path.between) < 0).all()
    assert 0 < path.between[-1] < 1e-3
