"""Predictions of groups and observations against dense algebra, simulation, and wrong labels."""

import dense
import designs
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from nearly import approx, same_in_a_batch
from slow import slow

import jaxre
from jaxre import Components
from jaxre.distributions import t_quantile
from jaxre.group_effects import group_effects
from jaxre.prediction import predictions

pytestmark = pytest.mark.usefixtures("x64")

PREDICTIONS = jax.jit(predictions, static_argnames=("method", "level"))


def variance_and_slopes(x, groups, rows, places, within, between, more):
    """Variance of the error of every prediction from Henderson's equations, and its derivatives in the components by
    central differences (good to 1e-9)."""

    def variance(within, between):
        v, z = dense.covariance(within, between, groups), dense.indicators(groups)
        inverse = np.linalg.inv(v)
        of_beta = np.linalg.inv(x.T @ inverse @ x)
        found = []
        for row, place in zip(rows, places, strict=True):
            covariance = between * z[:, place] if place >= 0 else np.zeros(len(v))
            known = between - covariance @ inverse @ covariance
            d = row - x.T @ inverse @ covariance
            found.append(known + d @ of_beta @ d + more * within)
        return np.array(found)

    h = 1e-5
    slopes = (
        (variance(within + h, between) - variance(within - h, between)) / (2 * h),
        (variance(within, between + h) - variance(within, between - h)) / (2 * h),
    )
    return variance(within, between), slopes


@pytest.mark.parametrize(
    ("name", "p"), [("unequal", 3), ("pairs of sizes", 1), slow("unequal", 1), slow("pairs of sizes", 3)]
)
def test_against_dense_algebra(name, p):
    y, groups, covariates = designs.simulate(51, designs.SIZES[name], p=p)
    within, between, rng = 0.8, 1.7, np.random.default_rng(1)
    x, moments = dense.design(len(y), covariates), designs.moments(y, groups, covariates)
    at, places = Components(within=within, between=between), np.array([0, 3, -1, 5, 0])
    asked = None if p == 1 else rng.normal(size=(5, p - 1))
    rows = dense.design(5, asked)
    beta, _ = dense.gls(y, x, dense.covariance(within, between, groups))
    effect, _ = dense.blup(y, x, groups, within, between)
    information = jaxre.information(moments, at, kind="expected").covariance
    found = PREDICTIONS(moments, at, places, asked, level=0.9)
    np.testing.assert_allclose(found.value, rows @ beta + np.where(places < 0, 0, effect[places]), rtol=1e-12)
    added = np.append(np.asarray(group_effects(moments, at).mean_mse - group_effects(moments, at).mean_variance), 0)
    for more, names in (
        (0, ("mean_mse", "mean_df", "mean_low", "mean_high")),
        (1, ("observation_mse", "observation_df", "low", "high")),
    ):
        mse, df, low, high = (np.asarray(getattr(found, name)) for name in names)
        variance, (of_within, of_between) = variance_and_slopes(x, groups, rows, places, within, between, more)
        np.testing.assert_allclose(mse, variance + added[places], rtol=1e-10)  # a new group has none added
        slopes = np.array([of_within, of_between])
        spread = np.einsum("im,ij,jm->m", slopes, np.asarray(information), slopes)
        expected = 2 * mse**2 / spread
        assert (expected > (len(designs.SIZES[name]) - p + 2) / 2).all()  # none is held at r / 2
        np.testing.assert_allclose(df, expected, rtol=1e-7)
        half = np.asarray(t_quantile(0.9, df)) * np.sqrt(mse)
        np.testing.assert_allclose(low, found.value - half, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(high, found.value + half, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", ["reml", slow("ml"), slow("anova")])
def test_a_known_group_at_its_own_average_is_its_mean(method):
    """Two ways to one number: differences of numbers near 10 are good to 1e-14."""
    y, groups, covariates = designs.simulate(52, designs.SIZES["unequal"], p=3)
    moments, at = designs.moments(y, groups, covariates), Components(within=0.8, between=1.7)
    averages = np.array([covariates[groups == j].mean(axis=0) for j in range(6)])
    found = PREDICTIONS(moments, at, np.arange(6), averages, method=method)
    of_groups = group_effects(moments, at, method=method)
    np.testing.assert_allclose(found.value, of_groups.mean, rtol=1e-12)
    np.testing.assert_allclose(found.mean_mse, of_groups.mean_mse, rtol=1e-12)
    np.testing.assert_allclose(found.mean_df, of_groups.mean_df, rtol=1e-11)
    np.testing.assert_allclose(found.mean_low, of_groups.mean_low, rtol=1e-9)


@pytest.mark.slow
def test_coverage_of_new_and_known_groups():
    """2,000 datasets of sizes 5, 2, 7, 5, 7, 9 and ratio 1/2, REML: observations of known and of a new group within
    4 Monte-Carlo errors and 0.01 of the nominal 95 %, means from 0.93 to 0.98."""
    sizes = designs.SIZES["unequal"]
    groups, places = designs.labels(sizes), np.array([0, 1, 2, 3, 4, 5, -1])

    def one(key):
        keys = jax.random.split(key, 3)
        a = jnp.sqrt(0.5) * jax.random.normal(keys[0], (7,))
        moments = jaxre.group_moments(a[groups] + jax.random.normal(keys[1], groups.shape), groups)
        found = predictions(moments, jaxre.reml(moments), places)
        new = a + jax.random.normal(keys[2], (7,))
        return (found.mean_low <= a) & (a <= found.mean_high), (found.low <= new) & (new <= found.high)

    run = jax.jit(lambda keys: jax.lax.map(jax.vmap(one), keys.reshape(20, 100)))
    means, observations = (
        np.asarray(x).reshape(2000, 7).mean(axis=0) for x in run(jax.random.split(jax.random.key(4), 2000))
    )
    error = 4 * np.sqrt(0.95 * 0.05 / 2000)
    assert observations[:6].mean() == approx(0.95, abs=0.01 + error)
    assert observations[6] == approx(0.95, abs=0.01 + error)
    assert 0.93 < means[:6].mean() < 0.98
    assert 0.93 - error < means[6] < 0.98


def test_boundary_and_empty_places():
    y, groups, _ = designs.simulate(53, designs.SIZES["unequal"])
    moments, at = designs.moments(y, groups), Components(within=1.0, between=0.0)
    found = PREDICTIONS(moments, at, np.array([0, -1, 6, -2]))
    np.testing.assert_allclose(found.value[:2], [y.mean()] * 2, rtol=1e-14)
    assert found.mean_mse[1] == approx(1 / len(y), rel=1e-13)  # nothing but the mean is unknown
    assert found.mean_df[1] == 2.5  # held at r / 2
    assert all(np.isnan(leaf[2:]).all() for leaf in jax.tree.leaves(found))
    assert all(np.isfinite(leaf[:2]).all() for leaf in jax.tree.leaves(found))


def small(labels="aabbcc"):
    return jaxre.fit([3.0, 5.0, 11.0, 9.0, 7.0, 6.0], list(labels))


def test_labels():
    fit = small()
    found = fit.predict(["c", "z", "a", "z"], allow_new=True)
    expected = predictions(fit.moments, fit.components, np.array([2, -1, 0, -1]))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert isinstance(a, np.ndarray)
        np.testing.assert_allclose(a, b, rtol=1e-12)  # compiled as a whole or not
    numbered = small(np.repeat([10, 20, 30], 2).tolist()).predict(np.array([30, 10]))
    np.testing.assert_array_equal(numbered.value, found.value[np.array([0, 2])])


def test_unknown_labels_are_named():
    fit = small()
    with pytest.raises(ValueError, match="the 3 known groups, got 'x', 'y'; pass allow_new=True"):
        fit.predict(["a", "x", "y", "x"])
    with pytest.raises(ValueError, match="'g4' and 3 more"):
        fit.predict([f"g{i}" for i in range(8)])
    with pytest.raises(ValueError, match=r"no missing labels, got 1.*allow_new=True"):
        fit.predict(["a", None])
    new, missing = (fit.predict(["a", label], allow_new=True) for label in ("new", None))
    np.testing.assert_array_equal(missing.high, new.high)
    with pytest.raises(ValueError, match="weights"):
        fit.predict(["a"], weights=[np.nan])
    with pytest.raises(ValueError, match="nothing to predict"):
        fit.predict([])
    with pytest.raises(ValueError, match=r"groups and covariates must have one length, got 2 and 1 rows"):
        fit.predict(["a", "b"], np.zeros((1, 0)))


def test_covariates_of_new_rows_are_coded_as_those_of_the_fit():
    """Text by the levels of the fit, whatever levels the new rows show; columns by name, in any order."""
    rng = np.random.default_rng(1)
    table = pd.DataFrame({"dose": rng.normal(size=18), "kind": np.tile(["low", "mid", "top"], 6)})
    groups = np.repeat(np.arange(6), 3)
    fit = jaxre.fit(rng.normal(size=18) + groups, groups, table)
    assert fit.coefficients == ("(Intercept)", "dose", "kindmid", "kindtop")
    new = pd.DataFrame({"unused": [0, 0], "kind": ["top", "low"], "dose": [0.5, -1.0]})
    by_hand = np.array([[0.5, 0.0, 1.0], [-1.0, 0.0, 0.0]])
    found = fit.predict([2, 9], new, allow_new=True)
    np.testing.assert_array_equal(found.value, fit.predict([2, 9], by_hand, allow_new=True).value)
    beta, effect = fit.beta, fit.blup[2]
    expected = [beta[0] + 0.5 * beta[1] + beta[3] + effect, beta[0] - beta[1]]
    np.testing.assert_allclose(found.value, expected, rtol=1e-12)
    with pytest.raises(ValueError, match="column 'kind' must hold levels of the fit, 'low', 'mid', 'top', got 'all'"):
        fit.predict([0], pd.DataFrame({"kind": ["all"], "dose": [0.0]}))
    with pytest.raises(ValueError, match="must have the columns kind, dose, got dose: kind missing"):
        fit.predict([0], pd.DataFrame({"dose": [0.0]}))
    with pytest.raises(ValueError, match="no missing values, got 1"):
        fit.predict([0], pd.DataFrame({"kind": ["low"], "dose": [np.nan]}))
    with pytest.raises(ValueError, match=r"shape \(m, 3\), the columns dose, kindmid, kindtop, got \(1, 2\)"):
        fit.predict([0], np.zeros((1, 2)))
    with pytest.raises(ValueError, match="must have the columns dose, kindmid, kindtop, got None"):
        fit.predict([0])


def test_wrong_shapes():
    fit = small()
    moments, estimate = fit.moments, fit.components
    with pytest.raises(ValueError, match=r"no columns, or be None, got \(2, 1\)"):
        predictions(moments, estimate, [0, 1], np.ones((2, 1)))
    with pytest.raises(ValueError, match=r"integers of shape \(m,\), got float64"):
        predictions(moments, estimate, [0.5])
    with pytest.raises(ValueError, match="between 0 and 1"):
        predictions(moments, estimate, [0], level=1.0)
    y, groups, covariates = designs.simulate(54, [3, 4, 5], p=3)
    other = designs.moments(y, groups, covariates)
    with pytest.raises(ValueError, match=r"shape \(1, 2\), a row for each prediction, got None"):
        predictions(other, Components(within=1.0, between=1.0), [0])
    constant = jaxre.group_moments(np.ones(6), [0, 0, 1, 1, 2, 2])
    found = predictions(constant, Components(within=1.0, between=0.5), [0, -1])
    assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(found))


def test_batched_as_alone_and_in_single_precision():
    y, groups, _ = designs.simulate(55, designs.SIZES["unequal"])
    outcomes = y + np.random.default_rng(0).normal(size=(4, len(y)))

    def one(y, between):
        moments = jaxre.group_moments(y, groups)
        return predictions(moments, Components(within=1.0, between=between), np.array([0, 4, -1]))

    same_in_a_batch(one, outcomes, np.array([0.0, 0.3, 2.0, 40.0]), rtol=1e-9)
    at = Components(within=1.0, between=0.5)
    with jax.enable_x64(False):
        single = predictions(jaxre.group_moments(y.astype(np.float32), groups), at, [0, -1])
    double = predictions(designs.moments(y, groups), at, [0, -1])
    for a, b in zip(jax.tree.leaves(single), jax.tree.leaves(double), strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=1e-3)  # of t quantiles; eps is 1e-7
