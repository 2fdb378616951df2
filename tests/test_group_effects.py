"""Group effects and their errors against dense algebra, closed forms, 25-digit predictions and simulation."""

import dense
import designs
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from nearly import approx, same_in_a_batch
from reference import EVERYDAY, IDENTIFIED, table
from slow import but_for, slow

import jaxre
from jaxre import Components
from jaxre.group_effects import expected_ranks, group_effects
from jaxre.stacking import padded

pytestmark = pytest.mark.usefixtures("x64")

METHODS = ("reml", "ml", "anova")
PREDICTED = [case for case in IDENTIFIED if case["n"] < 2000 and case["groups"] <= 31 and case["reml"].get("blup")]
ILL_CONDITIONED = {"n19_near_collinear_1e-7": 1e-8, "n23_cov_offset_1e6": 1e-10}  # as in test_reference.py
MOST = 8  # groups of a design here; all share a program
EFFECTS = jax.jit(group_effects, static_argnames=("method", "level"))


def henderson(x, groups, within, between):
    """Covariance of the errors of (beta, a): within times the inverse of Henderson's equations."""
    w = np.column_stack([x, dense.indicators(groups)])
    equations, p = w.T @ w, x.shape[1]
    equations[p:, p:] += np.eye(w.shape[1] - p) * within / between
    return within * np.linalg.inv(equations)


def components_covariance(x, groups, within, between, method):
    """Covariance of the estimates of (within, between): inverse information, or that of the quadratic forms."""
    v = dense.covariance(within, between, groups)
    parts = [np.eye(len(groups)), dense.covariance(0, 1, groups)]
    if method != "anova":
        of = dense.projection(x, v) if method == "reml" else np.linalg.inv(v)
        return np.linalg.inv([[np.trace(of @ a @ of @ b) / 2 for a in parts] for b in parts])
    z, n = dense.indicators(groups), len(groups)
    both = np.column_stack([x, z])
    off_x, off_both = (np.eye(n) - t @ np.linalg.pinv(t) for t in (x, both))
    rank = np.linalg.matrix_rank(both)
    of_within = off_both / (n - rank)
    of_between = (off_x - off_both - (rank - x.shape[1]) * of_within) / np.trace(z.T @ off_x @ z)
    return np.array([[2 * np.trace(a @ v @ b @ v) for a in (of_within, of_between)] for b in (of_within, of_between)])


def estimation_error(x, groups, within, between, method):
    """2 g3 - b' grad g1 by its definition: the derivatives of between z_j' V^-1, their covariance matrix, and dense
    finite differences of nothing."""
    v, z = dense.covariance(within, between, groups), dense.indicators(groups)
    inverse, shared = np.linalg.inv(v), z @ z.T
    covariance = components_covariance(x, groups, within, between, method)
    slopes = -between * z.T @ inverse @ inverse, z.T @ inverse - between * z.T @ inverse @ shared @ inverse
    g3 = sum(covariance[i, j] * np.diag(slopes[i] @ v @ slopes[j].T) for i in (0, 1) for j in (0, 1))
    if method != "ml":
        return 2 * g3
    of_beta = np.linalg.inv(x.T @ inverse @ x)
    traces = [-np.trace(of_beta @ x.T @ inverse @ part @ inverse @ x) for part in (np.eye(len(v)), shared)]
    bias, n = covariance @ traces / 2, np.bincount(groups)
    total = within + n * between
    return 2 * g3 - bias[0] * between**2 * n / total**2 - bias[1] * (within / total) ** 2


@pytest.mark.parametrize(
    "case",
    but_for(PREDICTED, [case for case in EVERYDAY if len(case["coefficients"]) == 1]),
    ids=lambda case: case["id"],
)
def test_predictions_of_the_reference_set(case):
    """To 1e-12 of the largest effect, as the fits themselves; zeros exactly. Each method for every other case."""
    method = ("reml", "ml")[PREDICTED.index(case) % 2]
    truth = np.array(case[method]["blup"], float)
    fit = jaxre.fit(*table(case["id"]), method=method)
    found = fit.group_effects()
    close = ILL_CONDITIONED.get(case["id"], 1e-12)
    np.testing.assert_allclose(found.effect, truth, rtol=0, atol=close * abs(truth).max())
    np.testing.assert_allclose(np.sqrt(found.effect_variance), fit.blup_se, rtol=1e-3 if fit.ratio > 1e9 else 1e-12)
    assert np.isfinite(found.effect_mse).all()
    assert (found.effect_mse > 0).all()


@pytest.mark.parametrize(
    ("name", "p"),
    [("one giant", 1), ("unequal", 3), ("three groups", 1), slow("one giant", 3), slow("unequal", 1)],
)
def test_errors_against_dense_algebra(name, p):
    """g1 + g2 from the inverse of Henderson's equations, and what estimated variances add from its definition; dense
    solves of condition up to 1e3."""
    y, groups, covariates = designs.simulate(11, designs.SIZES[name], p=p)
    within, between = 0.8, 1.7
    x, counts = dense.design(len(y), covariates), np.bincount(groups)
    moments = designs.moments(y, groups, covariates)
    errors, z = henderson(x, groups, within, between), np.eye(len(counts))
    averages = np.array([x[groups == j].mean(axis=0) for j in range(len(counts))])
    of_mean = np.column_stack([averages, z])
    effect, variance = dense.blup(y, x, groups, within, between)
    beta, _ = dense.gls(y, x, dense.covariance(within, between, groups))
    close = {"rtol": 1e-11, "atol": 1e-12}
    v = dense.covariance(within, between, groups)
    spread = between**2 * np.diag(dense.indicators(groups).T @ dense.projection(x, v) @ dense.indicators(groups))
    for method in METHODS:
        found = EFFECTS(padded(moments, MOST), Components(within=within, between=between), method=method)
        found = jax.tree.map(lambda column: column[: len(counts)], found)  # the others are empty
        np.testing.assert_allclose(found.effect, effect, **close)
        np.testing.assert_allclose(found.mean, averages @ beta + effect, **close)
        np.testing.assert_allclose(found.conditional_variance, between * within / (within + counts * between), **close)
        np.testing.assert_allclose(found.effect_variance, variance, **close)
        np.testing.assert_allclose(found.mean_variance, np.diag(of_mean @ errors @ of_mean.T), **close)
        more = estimation_error(x, groups, within, between, method)
        np.testing.assert_allclose(found.effect_mse - found.effect_variance, more, rtol=1e-9)
        np.testing.assert_allclose(found.mean_mse - found.mean_variance, more, rtol=1e-9)
        np.testing.assert_allclose(found.standardised, effect / np.sqrt(spread), rtol=1e-9)


@pytest.mark.parametrize("ratio", [0.0, 0.1, 2.0, 1e3])
def test_balanced_closed_forms(ratio):
    """The ratio is (F - 1) / k, so Var(ratio) = (ratio + 1/k)^2 (2 / df1 + 2 / df2), with J in the place of J - 1 for
    maximum likelihood, whose bias adds g2 of the mean once more."""
    k, j, within = 4, 7, 2.0
    y, groups, _ = designs.simulate(12, [k] * j)
    moments, at = designs.moments(y, groups), Components(within=within, between=ratio * within)
    rest = 1 / (1 + ratio * k)
    for method, df in (("reml", j - 1), ("anova", j - 1), ("ml", j)):
        found = EFFECTS(moments, at, method=method)
        g3 = within * rest / k * (2 / df + 2 / (j * (k - 1)))
        more = 2 * g3 + (within * rest / k / j if method == "ml" else 0)
        np.testing.assert_allclose(found.mean_variance, ratio * within * rest + within * rest / k / j, rtol=1e-14)
        np.testing.assert_allclose(found.mean_mse, found.mean_variance + more, rtol=1e-13)
        np.testing.assert_allclose(found.effect_mse, found.effect_variance + more, rtol=1e-13)


def test_variances_keep_their_digits_at_a_huge_ratio():
    """An ICC of 1 - 1e-12: the errors are within / n_j, 1e-12 of between, to a few units in the last place."""
    y, groups, _ = designs.simulate(13, designs.SIZES["unequal"])
    found = EFFECTS(designs.moments(y, groups), Components(within=1.0, between=1e12))
    with mpmath.workdps(40):
        sizes = [mpmath.mpf(k) for k in designs.SIZES["unequal"]]
        weights = [k / (1 + mpmath.mpf(10) ** 12 * k) for k in sizes]
        known = [mpmath.mpf(10) ** 12 / (1 + mpmath.mpf(10) ** 12 * k) for k in sizes]
        mean = [a + (1 / (1 + mpmath.mpf(10) ** 12 * k)) ** 2 / sum(weights) for a, k in zip(known, sizes, strict=True)]
    np.testing.assert_allclose(found.conditional_variance, np.array(known, float), rtol=1e-15)
    np.testing.assert_allclose(found.mean_variance, np.array(mean, float), rtol=1e-15)


def test_boundary():
    """All effects are 0 and all means the mean, ranks are tied, and the intervals have a width."""
    y, groups, _ = designs.simulate(14, designs.SIZES["unequal"])
    moments = designs.moments(y, groups)
    found = EFFECTS(moments, Components(within=1.0, between=0.0))
    for zero in (found.effect, found.shrinkage, found.conditional_variance, found.effect_variance):
        np.testing.assert_array_equal(zero, np.zeros(6))
    np.testing.assert_allclose(found.mean, np.full(6, y.mean()), rtol=1e-15)
    np.testing.assert_array_equal(found.rank, np.full(6, 3.5))
    np.testing.assert_array_equal(expected_ranks(found), np.full(6, 3.5))
    assert (found.effect_low < 0).all()
    assert (found.effect_high > 0).all()
    # standardised keeps its limit
    near = EFFECTS(moments, Components(within=1.0, between=1e-9))
    np.testing.assert_allclose(found.standardised, near.standardised, rtol=1e-7)


def test_standardised_effects_have_unit_variance():
    """Over samples, at the true components: sum of squares over 4,000 draws, to 4 Monte-Carlo errors."""
    sizes = designs.SIZES["unequal"]
    groups = designs.labels(sizes)

    def one(key):
        of_group, of_row = jax.random.split(key)
        y = jnp.sqrt(0.5) * jax.random.normal(of_group, (6,))[groups] + jax.random.normal(of_row, groups.shape)
        return group_effects(jaxre.group_moments(y, groups), Components(within=1.0, between=0.5)).standardised

    draws = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 4000))
    np.testing.assert_allclose((draws**2).mean(axis=0), np.ones(6), atol=4 * np.sqrt(2 / 4000))


def test_mean_squared_error_by_simulation():
    """The prediction at estimated components about that at the true ones, whose mean square g3 approximates to
    O(1 / J) of itself, and the average of the estimated mean squared error about the true one. 60 groups of 4, 2,000
    draws: 4 Monte-Carlo errors are 5 % of either, and 1 / J is 2 %."""
    groups, within, between = np.repeat(np.arange(60), 4), 1.0, 0.4
    at = Components(within=within, between=between)

    def one(key):
        of_group, of_row = jax.random.split(key)
        a = jnp.sqrt(between) * jax.random.normal(of_group, (60,))
        moments = jaxre.group_moments(a[groups] + jax.random.normal(of_row, (240,)), groups)
        found = group_effects(moments, jaxre.reml(moments))
        known = group_effects(moments, at)
        return (
            ((found.mean - known.mean) ** 2).mean(),
            (known.mean_mse - known.mean_variance).mean() / 2,
            ((found.mean - a) ** 2).mean(),
            found.mean_mse.mean(),
        )

    run = jax.jit(lambda keys: jax.lax.map(jax.vmap(one), keys.reshape(20, 100)))
    of_estimates, g3, error, estimated = (x.mean() for x in run(jax.random.split(jax.random.key(3), 2000)))
    assert of_estimates == approx(g3, rel=0.07)
    assert estimated == approx(error, rel=0.02)


def test_expected_ranks_by_brute_force():
    y, groups, _ = designs.simulate(15, designs.SIZES["unequal"])
    found = EFFECTS(designs.moments(y, groups), Components(within=1.0, between=0.5))
    draws = np.random.default_rng(0).normal(found.effect, np.sqrt(found.conditional_variance), (100_000, 6))
    ranks = draws.argsort(axis=1).argsort(axis=1) + 1
    # ranks of six have a standard deviation below 1.8
    np.testing.assert_allclose(expected_ranks(found), ranks.mean(axis=0), atol=4 * 1.8 / np.sqrt(100_000))
    assert expected_ranks(found).sum() == approx(21, rel=1e-14)
    np.testing.assert_array_equal(found.rank, np.argsort(np.argsort(found.effect)) + 1)


def test_empty_groups_are_like_new_ones():
    y, groups, _ = designs.simulate(16, [3, 4, 2])
    padded = jax.jit(lambda y: group_effects(jaxre.group_moments(y, groups, num_groups=5), at))
    at = Components(within=1.0, between=0.5)
    found, without = padded(y), EFFECTS(designs.moments(y, groups), at)
    for name in ("effect", "mean", "rank", "effect_mse", "mean_low", "standardised"):
        np.testing.assert_allclose(getattr(found, name)[:3], getattr(without, name), rtol=1e-13, err_msg=name)
    assert np.isnan(found.rank[3:]).all()
    assert np.isnan(expected_ranks(found)[3:]).all()
    np.testing.assert_allclose(expected_ranks(found)[:3], expected_ranks(without), rtol=1e-13)
    np.testing.assert_array_equal(found.conditional_variance[3:], [0.5, 0.5])


def test_degenerate_input():
    at = Components(within=1.0, between=0.5)
    constant = jaxre.group_moments(np.ones(6), [0, 0, 1, 1, 2, 2])
    assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(group_effects(constant, at)))
    good = jaxre.group_moments([3.0, 5.0, 11.0, 9.0, 7.0, 6.0], [0, 0, 1, 1, 2, 2])
    unknown = Components(within=np.nan, between=np.nan)
    assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(group_effects(good, unknown)))
    with pytest.raises(TypeError, match="by group, of group_moments, got Strata"):
        group_effects(jaxre.stratify(good), at)
    with pytest.raises(ValueError, match="'reml', 'ml', 'anova', got 'bayes'"):
        group_effects(good, at, method="bayes")
    with pytest.raises(ValueError, match=r"between 0 and 1, such as 0[.]95, got 95"):
        group_effects(good, at, level=95)


@pytest.mark.parametrize("method", but_for(METHODS, ("ml",)))
def test_batched_as_alone(method):
    y, groups, covariates = designs.simulate(17, designs.SIZES["unequal"], p=2)
    outcomes = y + np.random.default_rng(0).normal(size=(4, len(y)))

    def one(y, between):
        moments = jaxre.group_moments(y, groups, covariates)
        return group_effects(moments, Components(within=1.0, between=between), method=method)

    same_in_a_batch(one, outcomes, np.array([0.0, 0.3, 2.0, 40.0]), rtol=1e-10)


def test_single_precision():
    y, groups, _ = designs.simulate(18, designs.SIZES["unequal"])
    at = Components(within=np.float32(1.0), between=np.float32(0.5))
    double = EFFECTS(designs.moments(y, groups), Components(within=1.0, between=0.5))
    with jax.enable_x64(False):
        single = group_effects(jaxre.group_moments(y.astype(np.float32), groups), at)
    for a, b in zip(jax.tree.leaves(single), jax.tree.leaves(double), strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)  # of t quantiles; eps is 1e-7
