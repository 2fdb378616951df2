"""Rows with weights: the variance within groups of row i is within / w_i. Against dense matrices."""

import dataclasses

import dense
import designs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from slopes import slopes
from slow import but_for, slow

import jaxre
from jaxre.moments import moments_of
from jaxre.rows import HostRows

pytestmark = pytest.mark.usefixtures("x64")
SIZES = [4, 1, 6, 2, 5, 3]
DESIGNS = [(method, p) for method in ("reml", "ml", "anova") for p in (1, 3)]
COMPONENTS = jaxre.Components(within=0.7, between=1.9)


def data(p=1, seed=0, ratio=1.0):
    y, groups, x = designs.simulate(seed, SIZES, ratio, p=p)
    return y, groups, x, np.random.default_rng(seed).lognormal(0, 1, size=len(y))


def dense_of(y, groups, x, w):
    """Outcome, design matrix and dense V."""
    z = dense.indicators(groups)
    v = COMPONENTS.within * np.diag(1 / w) + COMPONENTS.between * z @ z.T
    return y, dense.design(len(y), x), v


def host(y, groups, x, w):
    table = y[:, None] if x is None else np.column_stack([x, y])
    extremes = table.min(axis=0), table.max(axis=0)
    return moments_of(HostRows(y, groups, x, np.bincount(groups), extremes, w))


@pytest.mark.parametrize("front", ["host", "traced"])
@pytest.mark.parametrize("p", [1, 3])
def test_likelihoods(front, p):
    y, groups, x, w = data(p)
    moments = host(y, groups, x, w) if front == "host" else jaxre.group_moments(y, groups, x, weights=w)
    assert jaxre.log_likelihood(COMPONENTS, moments) == pytest.approx(
        dense.log_likelihood(*dense_of(y, groups, x, w)), rel=1e-12
    )
    assert jaxre.restricted_log_likelihood(COMPONENTS, moments) == pytest.approx(
        dense.restricted_log_likelihood(*dense_of(y, groups, x, w)), rel=1e-12
    )
    assert moments.rows == len(y)
    np.testing.assert_allclose(moments.sizes, np.bincount(groups, weights=w), rtol=1e-14)


@pytest.mark.parametrize("p", [1, 3])
def test_host_and_traced_rows_agree(p):
    """Also when the host takes its rows in blocks."""
    y, groups, x, w = data(p)
    traced = jax.jit(lambda y, w: jaxre.group_moments(y, groups, x, weights=w))(y, w)
    for moments in (host(y, groups, x, w), traced):
        assert jaxre.reml(moments).log_likelihood == pytest.approx(float(jaxre.reml(traced).log_likelihood), rel=1e-12)
    table = y[:, None] if x is None else np.column_stack([x, y])
    blocked = HostRows(y, groups, x, np.bincount(groups), (table.min(axis=0), table.max(axis=0)), w)
    blocked.block = 5
    np.testing.assert_allclose(moments_of(blocked).within_cross, host(y, groups, x, w).within_cross, atol=1e-12)


@pytest.mark.parametrize("p", [1, 3])
@pytest.mark.parametrize("method", ["reml", "ml"])
def test_the_optimum_is_that_of_the_dense_likelihood(method, p):
    """No other point within a percent is better, of a likelihood that is flat to 1e-9 at 1e-5."""
    y, groups, x, w = data(p, seed=3, ratio=9.0)
    estimate = getattr(jaxre, method)(jaxre.group_moments(y, groups, x, weights=w))
    z, design = dense.indicators(groups), dense.design(len(y), x)
    likelihood = dense.restricted_log_likelihood if method == "reml" else dense.log_likelihood
    at = lambda within, between: likelihood(y, design, within * np.diag(1 / w) + between * z @ z.T)
    best = at(float(estimate.within), float(estimate.between))
    assert estimate.certified
    assert estimate.between > 0
    assert best == pytest.approx(float(estimate.log_likelihood), rel=1e-12)
    for a in (0.99, 1.0, 1.01):
        for b in (0.99, 1.0, 1.01):
            if (a, b) != (1.0, 1.0):
                assert at(a * float(estimate.within), b * float(estimate.between)) < best
    for step in (1e-5, -1e-5):
        assert at((1 + step) * float(estimate.within), float(estimate.between)) == pytest.approx(best, abs=1e-8)


@pytest.mark.parametrize("p", [1, 2])
def test_henderson_3_and_blup(p):
    """Transformed to equal variances by the roots of the weights, the model is an ordinary one."""
    y, groups, x, w = data(p)
    moments = jaxre.group_moments(y, groups, x, weights=w)
    root = np.sqrt(w)
    design, z = dense.design(len(y), x) * root[:, None], dense.indicators(groups) * root[:, None]
    rss = lambda matrix: float(((y * root - matrix @ np.linalg.lstsq(matrix, y * root)[0]) ** 2).sum())
    whole = np.column_stack([design, z])
    rank = np.linalg.matrix_rank(whole)
    within = rss(whole) / (len(y) - rank)
    p0 = np.eye(len(y)) - design @ np.linalg.pinv(design)
    between = (rss(design) - rss(whole) - (rank - p) * within) / np.trace(z.T @ p0 @ z)
    estimate = jaxre.anova(moments)
    assert estimate.within == pytest.approx(within, rel=1e-10)
    assert estimate.between_untruncated == pytest.approx(between, rel=1e-10)
    _, matrix, v = dense_of(y, groups, x, w)
    beta = dense.gls(y, matrix, v)[0]
    effects = COMPONENTS.between * dense.indicators(groups).T @ np.linalg.solve(v, y - matrix @ beta)
    np.testing.assert_allclose(jaxre.blup(moments, COMPONENTS).effect, effects, rtol=1e-10)


def test_equal_weights_only_scale_within():
    y, groups, x, _ = data(2)
    plain = jaxre.reml(jaxre.group_moments(y, groups, x))
    heavy = jaxre.reml(jaxre.group_moments(y, groups, x, weights=np.full(len(y), 4.0)))
    assert heavy.within == pytest.approx(4 * float(plain.within), rel=1e-13)
    assert heavy.between == pytest.approx(float(plain.between), rel=1e-12)
    assert heavy.log_likelihood == pytest.approx(float(plain.log_likelihood), rel=1e-13)
    np.testing.assert_allclose(heavy.beta_cov, plain.beta_cov, rtol=1e-12)


def test_criteria_count_the_weights():
    """The conditional AIC of equal weights is that without."""
    y, groups, x, _ = data()
    plain, heavy = (jaxre.group_moments(y, groups, x, weights=w) for w in (None, np.full(len(y), 4.0)))
    a, b = (jaxre.criteria(moments, jaxre.reml(moments)) for moments in (plain, heavy))
    assert a.conditional_aic == pytest.approx(float(b.conditional_aic), rel=1e-12)
    assert a.aic == pytest.approx(float(b.aic), rel=1e-12)


def test_derivatives_with_respect_to_weights():
    """Against central differences, whose truncation and rounding leave 1e-6."""
    y, groups, x, w = data(2)

    def numbers(w):
        estimate = jaxre.reml(jaxre.group_moments(y, groups, x, weights=w))
        return jnp.stack([estimate.within, estimate.between, estimate.log_likelihood, *estimate.beta])

    found = slopes(numbers, w, np.random.default_rng(1).normal(size=len(w)))
    np.testing.assert_allclose(found.forward, found.difference, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(found.reverse, found.forward, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf, 1e-101, 1e101])
def test_a_weight_that_is_none(bad):
    y, groups, x, w = data()
    w[3] = bad
    traced = jax.jit(lambda w: jaxre.group_moments(y, groups, x, weights=w))
    for moments in (jaxre.group_moments(y, groups, x, weights=w), traced(w)):
        estimate = jaxre.reml(moments)
        assert estimate.status == jaxre.Status.INVALID
        assert np.isnan(estimate.between)


@pytest.mark.parametrize("size", [2.0**-332, 2.0**332], ids=["1e-100", "1e100"])
def test_equal_weights_of_any_size_in_range_only_scale_within(size):
    y, groups, x, _ = data()
    plain, heavy = jaxre.fit(y, groups, x), jaxre.fit(y, groups, x, weights=np.full(len(y), size))
    assert heavy.between == pytest.approx(plain.between, rel=1e-13)  # another way through the rows, to rounding
    assert heavy.within / size == pytest.approx(plain.within, rel=1e-13)
    np.testing.assert_allclose(heavy.beta_se, plain.beta_se, rtol=1e-13)


def test_misuse():
    y, groups, _, w = data()
    with pytest.raises(ValueError, match="values and weights must have one length"):
        jaxre.group_moments(y, groups, weights=w[1:])
    with pytest.raises(TypeError, match="weights"):
        jaxre.group_moments(y, groups, weights=w + 1j)


def test_known_within():
    """The likelihood of rows whose variance is known is the ordinary one there, and its optimum that over between."""
    y, groups, x, w = data(2)
    moments = jaxre.group_moments(y, groups, x, weights=w, within=COMPONENTS.within)
    for likelihood, oracle in (
        (jaxre.log_likelihood, dense.log_likelihood),
        (jaxre.restricted_log_likelihood, dense.restricted_log_likelihood),
    ):
        assert likelihood(COMPONENTS, moments) == pytest.approx(oracle(*dense_of(y, groups, x, w)), rel=1e-12)
    estimate = jaxre.reml(moments)
    assert estimate.within == pytest.approx(COMPONENTS.within, rel=1e-15)
    at = lambda between: float(
        jaxre.restricted_log_likelihood(jaxre.Components(within=COMPONENTS.within, between=between), moments)
    )
    best = at(float(estimate.between))
    assert best == pytest.approx(float(estimate.log_likelihood), rel=1e-12)
    assert all(at(float(estimate.between) * factor) < best for factor in (0.97, 1.03))
    for wrong in (0.0, -1.0, np.nan):
        bad = jaxre.reml(jaxre.group_moments(y, groups, within=wrong))
        assert bad.status == jaxre.Status.INVALID
    with pytest.raises(ValueError, match="got a known one"):
        jaxre.criteria(moments, estimate)
    assert dataclasses.is_dataclass(moments.frame.known)


@pytest.mark.parametrize(("method", "p"), but_for(DESIGNS, [("reml", 3), ("ml", 1), ("anova", 3)]))
def test_fit(method, p):
    """That of the pure functions, with labels in any order and a row whose weight is missing."""
    y, groups, x, w = data(p, seed=3, ratio=9.0)
    names = np.array(["e", "b", "d", "a", "f", "c"])[groups]
    more = (np.append(y, 99.0), np.append(names, "a"), None if x is None else np.vstack([x, x[:1]]))
    fit = jaxre.fit(*more, weights=np.append(w, np.nan), method=method)
    estimate = getattr(jaxre, method)(jaxre.group_moments(y, groups, x, weights=w))
    for name in ("between", "within", "icc", "log_likelihood", "beta", "beta_se"):
        np.testing.assert_allclose(getattr(fit, name), getattr(estimate, name), rtol=1e-11, err_msg=name)
    assert fit.dropped == 1
    assert fit.certified
    np.testing.assert_array_equal(fit.sizes, SIZES)
    _, design, _ = dense_of(y, groups, x, w)
    z = dense.indicators(groups)
    v = fit.within * np.diag(1 / w) + fit.between * z @ z.T
    effects = fit.between * z.T @ np.linalg.solve(v, y - design @ dense.gls(y, design, v)[0])
    np.testing.assert_allclose(fit.blup, effects, rtol=1e-9)


def test_weights_in_the_summary_and_the_tables():
    y, groups, x, w = data(2, seed=3, ratio=9.0)
    fit = jaxre.fit(y, groups, x, weights=w)
    assert "21 weighted observations in 6 groups of 1 to 6" in str(fit)
    np.testing.assert_array_equal(fit.augment()["weight"], w)
    assert "weight" not in jaxre.fit(y, groups, x).augment()


@pytest.mark.parametrize("p", [1, 3])
def test_residuals_and_leverage(p):
    """r = y - X beta with variance V - X C X', e = D P y with variance D P D for D = within / w; leverage I - D P."""
    y, groups, x, w = data(p, seed=3, ratio=9.0)
    fit = jaxre.fit(y, groups, x, weights=w)
    found, design, z = fit.residuals(), dense.design(len(y), x), dense.indicators(groups)
    d = fit.within * np.diag(1 / w)
    v = d + fit.between * z @ z.T
    projection = dense.projection(design, v)
    beta, cov = dense.gls(y, design, v)
    marginal, conditional = y - design @ beta, d @ projection @ y
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)
    close(found.marginal, marginal)
    close(found.conditional, conditional)
    close(found.marginal_standardised, marginal / np.sqrt(np.diag(v - design @ cov @ design.T)))
    close(found.conditional_standardised, conditional / np.sqrt(np.diag(d @ projection @ d)))
    close(found.leverage, 1 - np.diag(d @ projection))
    close(found.fixed_leverage, np.diag(design @ cov @ design.T @ np.linalg.inv(v)))
    close(found.leverage.sum(), fit.criteria().effective_parameters)
    with pytest.raises(ValueError, match="weights must be those of the moments, which have some"):
        jaxre.residuals(fit.moments, fit.components, y, groups, x)


@pytest.mark.parametrize("p", [slow(1), 2])
def test_influence_is_a_refit(p):
    y, groups, x, w = data(p, seed=3, ratio=9.0)
    fit = jaxre.fit(y, groups, x, weights=w)
    found = fit.influence()
    for j in range(len(SIZES)):
        keep = groups != j
        refit = jaxre.fit(y[keep], groups[keep], None if x is None else x[keep], weights=w[keep])
        for name in ("within", "between", "log_likelihood", "beta"):
            np.testing.assert_allclose(getattr(found.estimate, name)[j], getattr(refit, name), rtol=1e-8, atol=1e-12)
        change = fit.beta - refit.beta
        assert found.cook[j] == pytest.approx(change @ np.linalg.solve(fit.beta_cov, change) / (1 + p - 1), rel=1e-7)


def test_prediction_of_an_observation_with_a_weight():
    """Its variance beyond that of the mean is within / weight, whatever the group."""
    y, groups, x, w = data(2, seed=3, ratio=9.0)
    fit = jaxre.fit(y, groups, x, weights=w)
    found = fit.predict([0, 3, 9], x[:3], weights=[0.5, 1.0, 8.0], allow_new=True)
    np.testing.assert_allclose(found.observation_mse - found.mean_mse, fit.within / np.array([0.5, 1, 8]), rtol=1e-9)
    plain = fit.predict([0, 3, 9], x[:3], allow_new=True)
    np.testing.assert_allclose(plain.observation_mse - plain.mean_mse, fit.within, rtol=1e-9)
    np.testing.assert_array_equal(plain.mean_low, found.mean_low)
    with pytest.raises(ValueError, match=r"weights must be positive, got 0 in row 1"):
        fit.predict([0, 3], x[:2], weights=[1, 0])


@pytest.mark.slow
def test_equal_weights_leave_inference_alone():
    """Tests, intervals and checks do not depend on the unit of within."""
    y, groups, x, _ = data(2, seed=3, ratio=9.0)
    plain, heavy = (jaxre.fit(y, groups, x, weights=w) for w in (None, np.full(len(y), 4.0)))
    np.testing.assert_allclose(plain.coefficient_tests().p_value, heavy.coefficient_tests().p_value, rtol=1e-9)
    assert plain.f_test().p_value == pytest.approx(heavy.f_test().p_value, rel=1e-9)
    assert plain.exact_interval().ratio_high == pytest.approx(4 * heavy.exact_interval().ratio_high, rel=1e-9)
    assert plain.profile_interval("between").high == pytest.approx(heavy.profile_interval("between").high, rel=1e-7)
    assert plain.criteria().r2_marginal > 0
    np.testing.assert_allclose(plain.group_effects().mean_mse, heavy.group_effects().mean_mse, rtol=1e-8)
    conditional = plain.normality_check(), heavy.normality_check()
    assert conditional[0].p_value == pytest.approx(conditional[1].p_value, rel=1e-7)


def test_homogeneity_of_weighted_rows():
    """Rows that are noisier by what their weights say are not found to be unequal."""
    rng = np.random.default_rng(5)
    groups = np.repeat(np.arange(30), 20)
    w = np.where(groups % 2, 25.0, 1.0)
    y = rng.normal(size=30)[groups] + rng.normal(size=600) / np.sqrt(w)
    assert jaxre.fit(y, groups, weights=w).homogeneity_check().p_value > 0.05
    assert jaxre.fit(y, groups).homogeneity_check().p_value < 1e-10


def test_misuse_of_fit():
    y, groups, x, w = data(2)
    for weights, match in (
        (w[1:], r"weights must have shape \(21,\) like values, got \(20,\)"),
        (np.where(w == w[4], 0, w), "weights must be positive, got 0 in row 4"),
        (
            np.where(w == w[4], 1e101, w),
            r"weights must lie between .* got 1e\+101 in row 4 .*; divide",
        ),
        (np.where(w == w[4], -2, w), "weights must be positive, got -2 in row 4"),
        (np.where(w == w[4], np.inf, w), "weights"),
    ):
        with pytest.raises(ValueError, match=match):
            jaxre.fit(y, groups, x, weights=weights)
    with pytest.raises(ValueError, match="weights"):
        jaxre.fit(y, groups, weights=np.where(w == w[4], np.nan, w), missing="raise")
    small, large = (jaxre.fit(y, groups, c, weights=v, method="ml") for c, v in ((None, w), (x, None)))
    with pytest.raises(ValueError, match="same rows"):
        jaxre.compare(small, large)
    assert jaxre.compare(small, jaxre.fit(y, groups, x, weights=w, method="ml")).df == 1
