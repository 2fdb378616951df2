"""Information about the variance components against dense algebra and automatic differentiation."""

import dataclasses

import dense
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxre
from jaxre import Components

pytestmark = pytest.mark.usefixtures("x64")

SIZES = (4, 2, 3, 4, 3, 5)
GROUPS = np.repeat(np.arange(6), SIZES)


def data(p=3, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.normal(size=len(GROUPS)) + rng.normal(size=6)[GROUPS]
    return y, rng.normal(size=(len(GROUPS), p - 1)) if p > 1 else None


def dense_matrices(x, within, between):
    design = dense.design(len(GROUPS), x)
    shared = (GROUPS[:, None] == GROUPS).astype(float)
    inverse = np.linalg.inv(within * np.eye(len(GROUPS)) + between * shared)
    inner = inverse @ design
    return inverse, inverse - inner @ np.linalg.solve(design.T @ inner, inner.T), [np.eye(len(GROUPS)), shared]


@pytest.mark.parametrize("p", [1, 3])
@pytest.mark.parametrize("restricted", [True, False])
@pytest.mark.parametrize("between", [0.0, 0.6, 40.0])
def test_against_dense_algebra(p, restricted, between):
    """tr(P V_i P V_j) / 2, and y'P V_i P V_j P y less it; no cancellation beyond the condition of V, at most 300."""
    y, x = data(p)
    inverse, projected, parts = dense_matrices(x, 1.3, between)
    of = projected if restricted else inverse
    traces = np.array([[np.trace(of @ a @ of @ b) / 2 for a in parts] for b in parts])
    squares = np.array([[y @ projected @ a @ projected @ b @ projected @ y for a in parts] for b in parts])
    moments, at = jaxre.group_moments(y, GROUPS, x), Components(within=1.3, between=between)
    for kind, true in (("expected", traces), ("observed", squares - traces)):
        found = jaxre.information(moments, at, restricted=restricted, kind=kind)
        np.testing.assert_allclose(found.matrix, true, rtol=1e-11)
        inverse_of_it = np.linalg.inv(true)
        if (np.linalg.eigvalsh(true) > 0).all():
            np.testing.assert_allclose(found.covariance, inverse_of_it, rtol=1e-9)
            np.testing.assert_allclose(found.standard_error, np.sqrt(np.diag(inverse_of_it)), rtol=1e-9)
        else:
            assert np.isnan(found.covariance).all()


@pytest.mark.parametrize("restricted", [True, False])
def test_observed_is_minus_the_hessian_of_the_likelihood(restricted):
    y, x = data()
    moments = jaxre.group_moments(y, GROUPS, x)
    criterion = jaxre.restricted_log_likelihood if restricted else jaxre.log_likelihood
    value = lambda both: criterion(Components(within=both[0], between=both[1]), moments)
    found = jaxre.information(moments, Components(within=1.3, between=0.6), restricted=restricted)
    np.testing.assert_allclose(found.matrix, -jax.hessian(value)(jnp.array([1.3, 0.6])), rtol=1e-12)


def test_balanced_closed_form():
    """With J groups of k, the expected information of REML is diagonal in within and within + k between: the mean
    squares are independent, with variances 2 MS^2 / df."""
    rng, k, j = np.random.default_rng(1), 4, 7
    moments = jaxre.group_moments(rng.normal(size=k * j), np.repeat(np.arange(j), k))
    within, between = 2.0, 3.0
    found = jaxre.information(moments, Components(within=within, between=between), kind="expected")
    of_within = 2 * within**2 / (j * (k - 1))
    of_between = (2 * (within + k * between) ** 2 / (j - 1) + of_within) / k**2
    np.testing.assert_allclose(found.covariance[0, 0], of_within, rtol=1e-13)
    np.testing.assert_allclose(found.covariance[1, 1], of_between, rtol=1e-13)
    np.testing.assert_allclose(found.covariance[0, 1], -of_within / k, rtol=1e-13)
    np.testing.assert_allclose(
        found.log_standard_error, np.sqrt([of_within, of_between]) / [within, between], rtol=1e-13
    )


@pytest.mark.parametrize("exponent", [-249, 249])
def test_scaling_of_the_outcome(exponent):
    """Scaled by a power of two, everything is: to the last bit."""
    y, x = data()
    here = jaxre.information(jaxre.group_moments(y, GROUPS, x), Components(within=1.3, between=0.6))
    factor = 2.0**exponent
    at = Components(within=1.3 * factor**2, between=0.6 * factor**2)
    there = jaxre.information(jaxre.group_moments(y * factor, GROUPS, x), at)
    np.testing.assert_array_equal(there.standard_error / factor / factor, here.standard_error)


def test_degenerate_moments_and_wrong_words():
    y, _ = data(1)
    constant = jaxre.group_moments(0 * y, GROUPS)
    found = jaxre.information(constant, Components(within=1.0, between=1.0))
    assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(found))
    with pytest.raises(ValueError, match="'observed' or 'expected', got 'fisher'"):
        jaxre.information(constant, Components(within=1.0, between=1.0), kind="fisher")


def test_boundary_has_an_infinite_error_on_the_log_scale():
    y, _ = data(1)
    found = jaxre.information(
        jaxre.group_moments(y, GROUPS), Components(within=1.3, between=jnp.zeros(())), kind="expected"
    )
    assert np.isfinite(found.standard_error).all()
    assert np.isinf(found.log_standard_error[1])


def test_batched_as_alone():
    outcomes = np.random.default_rng(2).normal(size=(5, len(GROUPS))) + np.repeat(np.eye(6)[0] * 2, SIZES)

    def about(y):
        moments = jaxre.group_moments(y, GROUPS)
        return jaxre.information(moments, jaxre.reml(moments), kind="expected")

    together = jax.jit(jax.vmap(about))(outcomes)
    for i, y in enumerate(outcomes):
        alone = dataclasses.asdict(about(y))
        for name, value in alone.items():
            np.testing.assert_allclose(getattr(together, name)[i], value, rtol=1e-12)
