"""Datasets drawn through their sufficient statistics, against closed forms and against datasets drawn row by row."""

import functools

import designs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samples import LIMIT, distance, distance_from
from slow import slow

import jaxre
from jaxre import Components, Status
from jaxre.draws import draw
from jaxre.variates import normals_and_chi_squares

KEY = jax.random.key(20240607)
MANY = 20_000
SIZES = designs.SIZES["unequal"]
MODEL = Components(within=2.0, between=3.0)


@functools.cache
def dyestuff():
    columns = jaxre.datasets.load("dyestuff").columns
    return designs.moments(columns["Yield"] * 1.0, np.unique(columns["Batch"], return_inverse=True)[1])


@functools.cache
def unequal(p=1):
    return designs.simulate(1, SIZES, p=p)


def chi_square(key, freedom, most):
    return normals_and_chi_squares(key, 0, [(freedom, most)], np.float64)[1][0]


@pytest.mark.parametrize("most", ["exact", "some", None])
@pytest.mark.parametrize("freedom", [1, 2, 5, 24, 65])
def test_a_chi_square_has_its_distribution(x64, freedom, most):
    """As a product of as many uniforms as needed, of more, and by rejection."""
    most = {"exact": freedom, "some": 65, None: None}[most]
    keys = jax.random.split(jax.random.key(freedom), MANY)
    drawn = jax.jit(jax.vmap(lambda key: chi_square(key, jnp.float64(freedom), most)))(keys)
    cdf = lambda x: jax.scipy.stats.chi2.cdf(x, freedom)
    assert distance_from(drawn, cdf) < LIMIT / np.sqrt(MANY)


@pytest.mark.parametrize("most", [5, None])
def test_chi_squares_of_several_degrees_are_independent(x64, most):
    """Mean k and variance 2 k, no correlation; exactly 0 on none."""
    freedom = jnp.array([0.0, 1.0, 4.0, 5.0])
    one = jax.jit(jax.vmap(lambda key: chi_square(key, freedom, most)))
    drawn = np.asarray(one(jax.random.split(KEY, MANY)))
    assert (drawn[:, 0] == 0).all()
    k = np.array([1.0, 4.0, 5.0])
    assert (abs(drawn[:, 1:].mean(axis=0) - k) < 5 * np.sqrt(2 * k / MANY)).all()
    fourth = 12 * k * (k + 4) - (2 * k) ** 2  # variance of the squared deviation
    assert (abs(drawn[:, 1:].var(axis=0) - 2 * k) < 5 * np.sqrt(fourth / MANY)).all()
    assert abs(np.corrcoef(drawn[:, 1:].T) - np.eye(3)).max() < 5 / np.sqrt(MANY)


def test_drawn_strata_have_the_moments_of_the_model(x64):
    """Six groups of 5: mean N(0, v / 6), scatter v chi2 on 5, squares within chi2 on 24; in the user's units."""
    strata = jaxre.stratify(dyestuff())
    drawn = jax.jit(jax.vmap(lambda key: draw(key, strata, MODEL)))(jax.random.split(KEY, MANY))
    scale, v = float(strata.frame.scale), MODEL.between + MODEL.within / 5
    mean, scatter = drawn.means[:, 0, 1] / scale, drawn.scatter[:, 0, 1, 1] / scale**2
    within = drawn.within_cross[:, 1, 1] / scale**2
    for number, expected, variance in [
        (mean, 0, v / 6),
        (mean**2, v / 6, 2 * (v / 6) ** 2),
        (scatter, 5 * v, 10 * v**2),
        (within, 24 * MODEL.within, 48 * MODEL.within**2),
        (mean * (scatter - 5 * v), 0, v / 6 * 10 * v**2),
        (mean * (within - 48), 0, v / 6 * 48 * 4),
        ((scatter - 5 * v) * (within - 48), 0, 10 * v**2 * 48 * 4),
    ]:
        assert abs(number.mean() - expected) < 5 * np.sqrt(variance / MANY)
    np.testing.assert_array_equal(drawn.means[:, :, 0], 1)
    np.testing.assert_allclose(drawn.frame.origin[0], 1527.5, rtol=1e-15)  # balanced: the grand mean


def fitted(moments):
    """Numbers that together depend on every statistic that is drawn."""
    estimate = jaxre.anova(moments)
    t = (estimate.beta - jnp.arange(len(estimate.beta))) / estimate.beta_se
    numbers = estimate.between_untruncated, estimate.within, estimate.log_likelihood
    return jnp.concatenate([jnp.stack(numbers), t])


@functools.cache
def from_rows(p):
    """The same from datasets of which every row is drawn."""
    _, groups, x = unequal(p)
    table = np.column_stack([np.ones(len(groups))] + ([] if x is None else [x]))

    def one(key):
        of_groups, of_rows = jax.random.split(key)
        effects = np.sqrt(MODEL.between) * jax.random.normal(of_groups, (len(SIZES),))
        errors = np.sqrt(MODEL.within) * jax.random.normal(of_rows, (len(groups),))
        y = table @ np.arange(p) + effects[groups] + errors
        return fitted(jaxre.group_moments(y, groups, x, num_groups=len(SIZES)))

    return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), MANY)))


@pytest.mark.parametrize(("p", "kind"), [(1, "groups"), slow(3, "groups"), (3, "strata")])
def test_estimates_of_drawn_moments_are_distributed_as_those_of_drawn_rows(x64, p, kind):
    moments = designs.moments(*unequal(p))
    moments = jaxre.stratify(moments) if kind == "strata" else moments
    one = lambda key: fitted(draw(key, moments, MODEL, np.arange(p)))
    ours = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(KEY, MANY)))
    for a, b in zip(ours.T, from_rows(p).T, strict=True):
        assert distance(a, b) < LIMIT * np.sqrt(2 / MANY)


def test_strata_of_many_groups_with_covariates_have_the_scatter_of_the_model(x64):
    """Nine groups of 4 and 2 of 7, two covariates: what a stratum with as many groups as columns leaves is 0."""
    y, groups, x = designs.simulate(3, [4] * 9 + [7] * 2, p=3)
    strata = jaxre.stratify(designs.moments(y, groups, x))
    drawn = jax.jit(jax.vmap(lambda key: draw(key, strata, MODEL)))(jax.random.split(KEY, MANY))
    v = (MODEL.between + MODEL.within / np.array([4, 7])) * float(strata.frame.scale) ** 2
    scatter = np.asarray(drawn.scatter)
    for i in range(2):
        products = scatter[:, i, 1:3, 3]
        expected = v[i] * strata.scatter[i, 1:3, 1:3]
        error = np.sqrt((np.outer(np.diag(expected), np.diag(expected)) + expected**2) / MANY)
        assert (abs(np.cov(products.T) - expected) < 5 * error).all()
        freedom = strata.counts[i] - 1
        assert abs(scatter[:, i, 3, 3].mean() / v[i] - freedom) < 5 * np.sqrt(2 * freedom / MANY)
    # on two groups the scatter is that of one contrast: products and squares are bound to each other
    one = strata.scatter[1, 1:3, 1:3]
    np.testing.assert_allclose(scatter[:, 1, 1, 3] ** 2, one[0, 0] * scatter[:, 1, 3, 3], rtol=1e-12)


def test_nothing_is_lost_to_a_large_mean(x64):
    """The same draws about 3 and about 1e12, where the data have 4 digits left."""
    y, groups, _ = unequal()
    near, far = designs.moments(y, groups), designs.moments(np.round(y, 3) + 1e12, groups)
    a, b = (draw(KEY, moments, MODEL, [centre]) for moments, centre in [(near, 3.0), (far, 1e12)])
    unit = float(near.frame.scale / far.frame.scale)  # powers of two
    np.testing.assert_array_equal(a.means[:, 1], b.means[:, 1] * unit)
    np.testing.assert_array_equal(a.within_cross, b.within_cross * unit**2)
    assert b.frame.origin[0] == 1e12


def test_draws_inside_jit_and_with_a_traced_design(x64):
    """Concrete sizes: the same numbers in and out of jit. Traced ones: others, of the same distribution."""
    moments = designs.moments(*unequal())
    outside, inside = draw(KEY, moments, MODEL), jax.jit(lambda key: draw(key, moments, MODEL))(KEY)
    for a, b in zip(jax.tree.leaves(outside), jax.tree.leaves(inside), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13)
    traced = jax.jit(jax.vmap(lambda key, moments: draw(key, moments, MODEL), (0, None)))
    within = traced(jax.random.split(KEY, MANY), moments).within_cross[:, 1, 1] / moments.frame.scale**2
    freedom = len(unequal()[1]) - len(SIZES)
    assert abs(within.mean() - 2 * freedom) < 5 * 2 * np.sqrt(2 * freedom / MANY)


def test_an_empty_group_stays_empty(x64):
    y, groups, _ = unequal()
    moments = jaxre.group_moments(y, groups, num_groups=len(SIZES) + 2)
    drawn = jax.jit(lambda key: draw(key, moments, MODEL))(KEY)
    np.testing.assert_array_equal(drawn.means[-2:], 0)
    assert jax.jit(jaxre.anova)(drawn).status in (Status.INTERIOR, Status.NEGATIVE)


@pytest.mark.parametrize(("within", "between"), [(-1.0, 1.0), (1.0, -1.0), (np.nan, 1.0)])
def test_impossible_variances_are_a_status(x64, within, between):
    drawn = jax.jit(lambda model: draw(KEY, dyestuff(), model))(
        Components(within=jnp.float64(within), between=jnp.float64(between))
    )
    assert drawn.status == Status.INVALID
    assert np.isnan(drawn.means[:, 1]).all()


def test_degenerate_moments_keep_their_status(x64):
    moments = jaxre.group_moments([1.0, 1.0, 1.0, 1.0], [0, 0, 1, 1])
    drawn = draw(KEY, moments, MODEL)
    assert drawn.status == Status.CONSTANT_OUTCOME
    assert np.isnan(jax.jit(jaxre.anova)(drawn).within)
    with pytest.raises(TypeError, match="call group_moments first"):
        draw(KEY, np.ones(3), MODEL)


def test_draws_follow_single_precision():
    moments = jaxre.group_moments(np.float32(unequal()[0]), unequal()[1])
    drawn = jax.jit(lambda key: draw(key, moments, MODEL))(KEY)
    assert {leaf.dtype for leaf in jax.tree.leaves(drawn)} == {np.dtype("float32"), np.dtype("int32")}
    assert jax.jit(jaxre.anova)(drawn).within > 0


def test_what_is_drawn_together_is_independent(x64):
    """Normal numbers and chi-squares of few and of very many degrees of freedom: correlations within 4.5 errors."""
    wanted = [(jnp.array([3.0, 4.0]), 5), (jnp.float64(9.0), None), (jnp.float64(2.0), 2)]

    def one(key):
        normals, found = normals_and_chi_squares(key, 2, wanted, np.float64)
        return jnp.concatenate([normals, *map(jnp.atleast_1d, found)])

    drawn = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(5), 20_000)))
    assert distance_from(drawn[:, 0], jax.scipy.stats.norm.cdf) < LIMIT / np.sqrt(20_000)
    correlation = np.corrcoef(drawn.T) - np.eye(6)
    assert abs(correlation).max() < 4.5 / np.sqrt(20_000)
