"""Derivatives through a fit: forward mode = reverse mode = finite differences = closed forms."""

import functools

import designs
import jax
import jax.numpy as jnp
import numpy as np
import precise
import pytest
from slopes import slopes
from slow import slow

import jaxre
from jaxre import Status

pytestmark = pytest.mark.usefixtures("x64")

ESTIMATORS = {"anova": jaxre.anova, "ml": jaxre.ml, "reml": jaxre.reml}
SIZES = [1, 3, 2, 4, 2]
Y, GROUPS, X = designs.simulate(71, SIZES, ratio=4.0, p=2)
BALANCED = designs.labels([3] * 4)


def outputs(estimate):
    """Every kind of number of an estimate, as one vector; and again, to come along with its derivative."""
    scalars = [estimate.between, estimate.within, estimate.icc, estimate.log_likelihood]
    numbers = jnp.concatenate([jnp.stack(scalars), estimate.beta, estimate.beta_se])
    return numbers, (numbers, estimate.status)


def of_values(y):
    """From an outcome to a REML estimate; two groups are only padding."""
    return outputs(jaxre.reml(jaxre.group_moments(y, GROUPS, num_groups=7)))


def of_rows(method):
    """From outcome and covariate, one after the other in a vector, to what `precise.jacobian` has of an estimate."""

    def numbers(v):
        moments = jaxre.group_moments(v[:12], GROUPS, v[12:, None], num_groups=7)
        estimate = ESTIMATORS[method](moments)
        scalars = [getattr(estimate, name) for name in ("between", "within", "ratio", "icc", "log_likelihood")]
        effects = jaxre.blup(moments, jaxre.Components(within=estimate.within, between=estimate.between)).effect[:5]
        numbers = jnp.concatenate([jnp.stack(scalars), estimate.beta, estimate.beta_se, effects])
        return numbers, (numbers, estimate.status)

    return numbers


def reverse_mode(function):
    """The Jacobian, the outputs and the status from one compilation."""
    jacobian = jax.jit(jax.jacrev(function, has_aux=True))

    def evaluate(at):
        slopes, (numbers, status) = jacobian(at)
        return np.asarray(slopes), np.asarray(numbers), status

    return evaluate


@functools.cache
def balanced(method):
    return reverse_mode(lambda y: outputs(ESTIMATORS[method](jaxre.group_moments(y, BALANCED, num_groups=4))))


def finite_differences(function, at):
    """Jacobian by central differences at h and 2 h, extrapolated: an error of h^4 and of eps / h, both near 1e-11."""
    h, columns = 2.0**-12, []
    for direction in np.eye(len(at)):
        near, far = (
            (function(at + k * h * direction) - function(at - k * h * direction)) / (2 * k * h) for k in (1, 2)
        )
        columns.append((4 * near - far) / 3)
    return np.stack(columns, axis=-1)


def assert_jacobian(found, expected, rtol):
    scale = np.abs(expected).max(axis=-1, keepdims=True)  # of each row: entries of a gradient may be small
    np.testing.assert_allclose(found / scale, expected / scale, atol=rtol)


@pytest.mark.parametrize("method", ["reml", slow("ml"), slow("anova")])
def test_derivatives_in_values_and_covariates_three_ways(method):
    """Reverse mode, forward mode, and differences of a dense fit in 280 bits: 1e-12 is what a double leaves of a dozen
    rows, and 1e-11 of their derivatives, which cancel a digit."""
    y = Y + GROUPS  # of Y alone the best optimum of ML is at 0
    function, rows = of_rows(method), np.append(y, X[:, 0])
    reverse, numbers, status = reverse_mode(function)(rows)
    assert status == Status.INTERIOR
    expected, columns = precise.jacobian(y, X, GROUPS, method, float(numbers[2]))
    np.testing.assert_allclose(numbers, expected, rtol=1e-12)
    assert_jacobian(reverse, np.transpose(columns), 1e-11)
    if method == "reml":
        direction = np.random.default_rng(0).normal(size=len(rows))
        forward = jax.jit(lambda v, d: jax.jvp(lambda v: function(v)[0], (v,), (d,))[1])(rows, direction)
        assert_jacobian(forward[:, None], (reverse @ direction)[:, None], 1e-12)  # the same products in another order


@pytest.mark.slow
def test_second_derivatives_are_differences_of_the_first():
    """One rule serves both orders: the implicit derivative is itself differentiable."""

    def gradient(y):
        slopes = jax.jacrev(lambda y: of_values(y)[0][jnp.array([0, 3])])(y)  # of between and of the criterion
        return slopes, slopes

    evaluate = jax.jit(jax.jacfwd(gradient, has_aux=True))
    hessian = np.asarray(evaluate(Y)[0])
    expected = finite_differences(lambda y: np.asarray(evaluate(y)[1]), Y)
    scale = np.abs(expected).max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(hessian / scale, expected / scale, atol=1e-8)  # 1e-11, times fourth derivatives
    np.testing.assert_allclose(hessian / scale, np.swapaxes(hessian, 1, 2) / scale, atol=1e-12)  # symmetric


def test_second_derivatives_in_values_covariates_and_weights():
    """Of gradients through moments with covariates and weights; differences leave half the digits."""

    def gradient(at):
        def number(at):
            y, x, w = at
            estimate = jaxre.reml(jaxre.group_moments(y, GROUPS, x[:, None], num_groups=7, weights=w))
            return estimate.log_likelihood + estimate.between

        return jnp.concatenate(jax.grad(number)(at))

    rng = np.random.default_rng(2)
    at = Y, X[:, 0], rng.uniform(0.5, 2.0, size=len(Y))
    found = slopes(gradient, at, tuple(rng.normal(size=len(Y)) for _ in range(3)))
    scale = abs(found.difference).max()
    np.testing.assert_allclose(found.forward, found.difference, rtol=0, atol=1e-7 * scale)
    np.testing.assert_allclose(found.reverse, found.forward, rtol=0, atol=1e-11 * scale)


def sums_of_squares(y):
    """within and between mean squares of four groups of three, and their gradients."""
    means = y.reshape(4, 3).mean(axis=1)[BALANCED]
    return (
        ((y - means) ** 2).sum() / 8,
        ((means - y.mean()) ** 2).sum() / 3,
        2 * (y - means) / 8,
        2 * (means - y.mean()) / 3,
    )


@pytest.mark.parametrize("method", ["anova", "ml", "reml"])
def test_balanced_interior_gradients_have_closed_forms(method):
    y = designs.simulate(72, [3] * 4, ratio=9.0)[0]
    inside, outside, d_inside, d_outside = sums_of_squares(y)
    if method == "ml":  # which divides by the number of groups
        outside, d_outside = 0.75 * outside, 0.75 * d_outside
    jacobian, numbers, status = balanced(method)(y)
    between, d_between = (outside - inside) / 3, (d_outside - d_inside) / 3
    assert status == Status.INTERIOR
    np.testing.assert_allclose(numbers[0], between, rtol=1e-13)  # 12 terms, here and below
    expected = {
        0: d_between,
        1: d_inside,
        2: (d_between * inside - between * d_inside) / (between + inside) ** 2,
        4: np.full(12, 1 / 12),
        5: d_outside / 12 / (2 * np.sqrt(outside / 12)),
    }
    if method != "anova":  # at an optimum only the data move the criterion: the gradient of -(y' P y) / 2 is -P y
        means = y.reshape(4, 3).mean(axis=1)[BALANCED]
        expected[3] = -((y - means) / inside + (means - y.mean()) / outside)
    for i, row in expected.items():
        np.testing.assert_allclose(jacobian[i], row, rtol=0, atol=1e-13 * np.abs(row).max())


@pytest.mark.parametrize("method", ["anova", "ml", "reml"])
def test_on_the_boundary_between_does_not_move_and_the_rest_does(method):
    y = designs.simulate(73, [3] * 4, ratio=0.0)[0]
    y = y - 0.9 * (y.reshape(4, 3).mean(axis=1)[BALANCED] - y.mean())  # F well below 1
    jacobian, found, status = balanced(method)(y)
    assert status == (Status.NEGATIVE if method == "anova" else Status.BOUNDARY)
    assert found[0] == 0
    assert np.isfinite(jacobian).all()
    np.testing.assert_array_equal(jacobian[[0, 2]], np.zeros((2, 12)))  # between and the ICC
    total = y - y.mean()
    within = sums_of_squares(y)[2] if method == "anova" else 2 * total / {"ml": 12, "reml": 11}[method]
    np.testing.assert_allclose(jacobian[1], within, rtol=0, atol=1e-13 * np.abs(within).max())  # 12 terms
    np.testing.assert_allclose(jacobian[4], np.full(12, 1 / 12), rtol=1e-13)  # beta is the grand mean
    if method != "anova":
        criterion = -total / float(found[1])
        np.testing.assert_allclose(jacobian[3], criterion, rtol=0, atol=1e-13 * np.abs(criterion).max())


@pytest.mark.parametrize("bad", [slow(np.repeat([1.0, 2, 3], 4)), np.full(12, 2.0)], ids=["unbounded", "constant"])
def test_a_failed_member_of_a_batch_leaves_derivatives_of_the_others(bad):
    groups, x = np.repeat([0, 1, 2], 4), np.arange(12) % 5
    good = designs.simulate(5, [4, 4, 4], ratio=4.0)[0]

    def loss(slope, batch):
        fits = jax.vmap(lambda y: jaxre.reml(jaxre.group_moments(y - slope * x, groups)))(batch)
        return jnp.where(fits.status < Status.UNBOUNDED, fits.icc, 0).sum()

    reverse, forward = jax.jit(jax.grad(loss)), jax.jit(lambda s, batch: jax.jvp(loss, (s, batch), (1.0, 0 * batch))[1])
    both, alone = jnp.stack([jnp.asarray(good), jnp.asarray(bad)]), jnp.asarray(good)[None]
    expected = reverse(0.0, alone)
    np.testing.assert_allclose(reverse(0.0, both), expected, rtol=1e-12)
    np.testing.assert_allclose(forward(0.0, both), expected, rtol=1e-12)


def test_rows_that_are_no_rows_leave_derivatives_of_the_others():
    """NaN and infinity among the values and the covariates, labels out of range, weights of 0: each in a dataset of its
    own, the last of which is as it should be."""
    y, x, w, labels = (np.tile(row, (6, 1)) for row in (Y, X[:, 0], np.linspace(0.5, 2, 12), GROUPS))
    y[0, 3], y[1, 4], x[2, 5], w[3, 6], labels[4, 7] = np.nan, np.inf, np.nan, 0.0, 9

    def loss(shared, y, x, w, labels):
        a, b, c = shared[:, None] * np.arange(12)

        def one(y, x, w, labels):
            return jaxre.reml(jaxre.group_moments(y + a, labels, (x + b)[:, None], num_groups=5, weights=w + c))

        fits = jax.vmap(one)(y, x, w, labels)
        return jnp.where(fits.status < Status.UNBOUNDED, fits.between + fits.beta[:, 1], 0).sum(), fits.status

    gradient = jax.jit(jax.grad(loss, has_aux=True))
    (found, status), (expected, _) = (gradient(jnp.zeros(3), y[k:], x[k:], w[k:], labels[k:]) for k in (0, 5))
    assert status[:5].tolist() == [Status.INVALID] * 5
    np.testing.assert_allclose(found, expected, rtol=1e-12)  # the same sums in a batch of another width


@pytest.mark.parametrize("df", ["satterthwaite", slow("kenward-roger")])
def test_tests_of_coefficients_have_derivatives(df):
    def numbers(y):
        moments = jaxre.group_moments(y, GROUPS, X)
        found = jaxre.coefficient_tests(moments, jaxre.reml(moments), df=df)
        return jnp.stack([found.standard_error[1], found.p_value[1], found.low[1], found.df[1]])

    found = slopes(numbers, Y, np.random.default_rng(1).normal(size=len(Y)))
    np.testing.assert_allclose(
        found.forward, found.difference, rtol=1e-6, atol=1e-8
    )  # differences lose half the digits
    np.testing.assert_allclose(found.reverse, found.forward, rtol=1e-9, atol=1e-12)
