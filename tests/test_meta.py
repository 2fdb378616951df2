"""Meta-analysis: published numbers, definitions in dense matrices, and a grid for the proof."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pandas
import pytest
from scipy.stats import chi2
from slopes import slopes
from slow import but_for, slow

import jaxre
from jaxre.meta import METHODS, study_moments

# tpos, tneg, cpos, cneg, and the absolute latitude of each trial of the vaccine BCG
BCG = np.array(
    [
        [4, 119, 11, 128, 44],
        [6, 300, 29, 274, 55],
        [3, 228, 11, 209, 42],
        [62, 13536, 248, 12619, 52],
        [33, 5036, 47, 5761, 13],
        [180, 1361, 372, 1079, 44],
        [8, 2537, 10, 619, 19],
        [505, 87886, 499, 87892, 13],
        [29, 7470, 45, 7232, 27],
        [17, 1699, 65, 1600, 42],
        [186, 50448, 141, 27197, 18],
        [5, 2493, 3, 2338, 33],
        [27, 16886, 29, 17825, 33],
    ],
    float,
)


def log_risk_ratios():
    a, b, c, d, _ = BCG.T
    return np.log(a / (a + b)) - np.log(c / (c + d)), 1 / a - 1 / (a + b) + 1 / c - 1 / (c + d)


@pytest.mark.parametrize(
    ("method", "tau2"),
    [
        ("reml", 0.313243258),
        ("ml", 0.280028137),
        ("dl", 0.308760263),
        ("he", 0.328563858),
        ("pm", 0.318068452),
    ],
)
def test_bcg(method, tau2):
    """Published to nine decimals."""
    fit = jaxre.fit_meta(*log_risk_ratios(), method=method)
    assert fit.tau2 == pytest.approx(tau2, abs=5e-10)
    assert fit.q == pytest.approx(152.233008, abs=5e-7)
    assert 100 * fit.i2_of_q == pytest.approx(92.1173, abs=5e-5)
    assert (fit.tau2_low, fit.tau2_high) == pytest.approx((0.119718, 1.111479), abs=5e-7)
    assert fit.certified
    assert fit.q_p_value == pytest.approx(chi2.sf(fit.q, 12), rel=1e-10)


def test_bcg_by_reml():
    fit, knapp = (jaxre.fit_meta(*log_risk_ratios(), test=test) for test in ("normal", "knapp-hartung"))
    assert fit.beta[0] == pytest.approx(-0.714532342, abs=5e-10)
    assert fit.beta_se[0] == pytest.approx(0.179781516, abs=5e-10)
    assert fit.tau2_se == pytest.approx(0.16642575, abs=5e-9)
    assert 100 * fit.i2 == pytest.approx(92.2214, abs=5e-5)
    assert knapp.beta_se[0] == pytest.approx(0.180791744, abs=5e-10)
    assert (fit.prediction_low, fit.prediction_high) == pytest.approx((-1.866692, 0.437628), abs=5e-7)
    assert (knapp.prediction_low, knapp.prediction_high) == pytest.approx((-1.996017, 0.566952), abs=5e-7)
    assert knapp.df == 12
    assert fit.df == np.inf


def test_meta_regression_on_latitude():
    """Published to four decimals, from an iteration that ends at changes of 1e-5: tau2 0.0764 (0.0591), coefficients
    0.2515 (0.2491) and -0.0291 (0.0072)."""
    fit = jaxre.fit_meta(*log_risk_ratios(), pandas.DataFrame({"latitude": BCG[:, 4]}))
    assert (fit.tau2, fit.tau2_se) == pytest.approx((0.0764, 0.0591), abs=6e-5)
    np.testing.assert_allclose(fit.beta, [0.2515, -0.0291], atol=5e-5)
    np.testing.assert_allclose(fit.beta_se, [0.2491, 0.0072], atol=5e-5)
    assert fit.coefficients == ("(Intercept)", "latitude")
    assert "Random-effects meta-regression by REML" in str(fit)
    assert "Residual heterogeneity" in str(fit)


class Dense:
    """The definitions, in dense matrices."""

    def __init__(self, y, v, x=None):
        self.y, self.v = y, v
        self.x = np.ones((len(y), 1)) if x is None else np.column_stack([np.ones(len(y)), x])

    def gls(self, tau2):
        w = 1 / (self.v + tau2)
        cov = np.linalg.inv((self.x.T * w) @ self.x)
        beta = cov @ (self.x.T * w) @ self.y
        return beta, cov, (w * (self.y - self.x @ beta) ** 2).sum(), w

    def minus_2_log_likelihood(self, tau2, restricted):
        _, cov, q, w = self.gls(tau2)
        n = len(self.y) - (self.x.shape[1] if restricted else 0)
        return n * np.log(2 * np.pi) - np.log(w).sum() + q - (np.linalg.slogdet(cov)[1] if restricted else 0)

    def projection(self, tau2):
        _, cov, _, w = self.gls(tau2)
        return np.diag(w) - (w[:, None] * self.x) @ cov @ (self.x.T * w)


def drawn(seed, k, p=1, tau2=0.3):
    rng = np.random.default_rng(seed)
    v = rng.lognormal(-1, 1, size=k)
    x = rng.normal(size=(k, p - 1)) if p > 1 else None
    return np.sqrt(v + tau2) * rng.normal(size=k) + 1, v, x


@pytest.mark.parametrize("method", but_for(METHODS, ("reml", "pm")))
@pytest.mark.parametrize(("k", "p", "seed"), [(16, 3, 1), slow(9, 1, 0)])
def test_definitions(method, k, p, seed):
    """Each number from its definition; 1e-9 is what the inverse of a dense matrix leaves."""
    y, v, x = drawn(seed, k, p)
    fit, dense = jaxre.fit_meta(y, v, x, method=method, level=0.9), Dense(y, v, x)
    beta, cov, q, w = dense.gls(fit.tau2)
    np.testing.assert_allclose(fit.beta, beta, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(fit.beta_cov, cov, rtol=1e-9, atol=1e-12)
    assert fit.log_likelihood == pytest.approx(-dense.minus_2_log_likelihood(fit.tau2, method == "reml") / 2, abs=1e-9)
    assert fit.q == pytest.approx(dense.gls(0.0)[2], rel=1e-10)
    typical = (k - p) / np.trace(dense.projection(0.0))
    assert fit.i2 == pytest.approx(fit.tau2 / (fit.tau2 + typical), rel=1e-9)
    assert fit.h2 == pytest.approx((fit.tau2 + typical) / typical, rel=1e-9)
    if method in ("reml", "dl"):  # by the coefficients' covariance at tau2, whatever found that
        knapp = jaxre.fit_meta(y, v, x, method=method, test="knapp-hartung")
        np.testing.assert_allclose(knapp.beta_cov, cov * q / (k - p), rtol=1e-9, atol=1e-12)
    for end, tail in ((fit.tau2_low, 0.95), (fit.tau2_high, 0.05)):
        if end > 0:
            assert dense.gls(end)[2] == pytest.approx(chi2.ppf(tail, k - p), rel=1e-10)
        else:
            assert dense.gls(0.0)[2] <= chi2.ppf(tail, k - p)
    flat = np.linalg.pinv(dense.x)
    spread = ((y - dense.x @ flat @ y) ** 2).sum() - (v * (1 - np.diag(dense.x @ flat))).sum()
    at_zero = dense.projection(0.0)
    expected = {
        "dl": (dense.gls(0.0)[2] - (k - p)) / np.trace(at_zero),
        "he": spread / (k - p),
    }
    if method in expected:
        assert fit.tau2_untruncated == pytest.approx(expected[method], rel=1e-9)
        assert np.isnan(fit.tau2_se)
    elif method == "pm":
        assert fit.tau2 == 0 or q == pytest.approx(k - p, rel=1e-10)
    else:
        squares = dense.projection(fit.tau2) if method == "reml" else np.diag(w)
        assert fit.tau2_se == pytest.approx((np.trace(squares @ squares) / 2) ** -0.5, rel=1e-9)


def hard(seed):
    """Few studies of very unequal precision, of which some likelihoods have several optima."""
    rng = np.random.default_rng(seed)
    k = int(rng.integers(3, 9))
    v = 10.0 ** rng.uniform(-3, 2, size=k)
    return rng.normal(size=k) * rng.choice([0.3, 1.0, 5.0], size=k), v


@pytest.mark.parametrize("restricted", [True, slow(False)])
def test_the_proof_against_a_grid(x64, restricted):
    """No point of a grid is better than a certified optimum; the count of optima is that of the grid."""
    room, count = 9, 400
    table = np.full((2, count, room), np.nan)
    for seed in range(count):
        y, v = hard(seed)
        table[:, seed, : len(y)] = y, v
    estimator = jaxre.reml if restricted else jaxre.ml
    found = jax.jit(jax.vmap(lambda y, v: estimator(study_moments(y, v)[0])))(*table)
    grid, several = np.concatenate([[0.0], np.geomspace(1e-6, 1e6, 3000)]), 0
    for seed in range(count):
        y, v = hard(seed)
        dense = Dense(y, v)
        w = 1 / (v + grid[:, None])
        mean = (w * y).sum(axis=1) / w.sum(axis=1)
        values = -np.log(w).sum(axis=1) + (w * (y - mean[:, None]) ** 2).sum(axis=1)
        values = values + (np.log(w.sum(axis=1)) if restricted else 0)
        n = len(y) - restricted
        best = dense.minus_2_log_likelihood(float(found.between[seed]), restricted) - n * np.log(2 * np.pi)
        assert found.certified[seed]
        assert best <= values.min() + 1e-9
        inner = (values[1:-1] < values[:-2]) & (values[1:-1] <= values[2:])
        assert found.optima[seed] == inner.sum() + (values[0] <= values[1])
        several += found.optima[seed] > 1
    assert several >= 5


def test_a_batch_with_missing_and_bad_studies(x64):
    """Each as by itself; what is missing is left out, what is wrong has its status."""
    y, v = log_risk_ratios()
    table = np.tile(y, (5, 1)), np.tile(v, (5, 1))
    table[0][1, 3], table[1][2, 5], table[1][3, 0] = np.nan, np.nan, -1.0
    table[0][4, 1:] = np.nan
    found = jax.jit(jax.vmap(jaxre.meta_analysis))(*table)
    for i, out in ((0, []), (1, [3]), (2, [5])):
        alone = jaxre.fit_meta(np.delete(y, out), np.delete(v, out))
        assert found.studies[i] == alone.studies == 13 - len(out)
        for field in dataclasses.fields(jaxre.MetaAnalysis):
            np.testing.assert_allclose(
                getattr(found, field.name)[i], getattr(alone, field.name), rtol=1e-9, err_msg=field.name
            )
    assert found.status[3] == jaxre.Status.INVALID
    assert found.status[4] == jaxre.Status.NOT_IDENTIFIED
    for field in ("tau2", "beta", "q", "tau2_high", "i2", "p_value", "log_likelihood"):
        assert np.isnan(getattr(found, field)[3:]).all(), field


OF_ONE = ("tau2", "tau2_high", "beta_high", "p_value", "prediction_low", "q_p_value", "i2", "i2_of_q", "log_likelihood")


@pytest.mark.parametrize(
    ("method", "test"),
    [("he", "normal"), slow("reml", "normal"), slow("ml", "normal"), slow("pm", "knapp-hartung"), slow("dl", "normal")],
)
def test_a_bad_dataset_leaves_derivatives_of_the_others(x64, method, test):
    """Whatever is wrong with it: a single study, a variance of 0 or below, infinity."""
    y, v = (np.tile(row, (5, 1)) for row in log_risk_ratios())
    y[0, 1:], v[1, 0], v[2, 1], y[3, 2] = np.nan, -1.0, 0.0, np.inf

    def loss(moved, y, v):
        found = jaxre.meta_analysis(y + moved[0], v + moved[1], method=method, test=test)
        numbers = jnp.stack([jnp.ravel(getattr(found, name))[0] for name in OF_ONE])
        return jnp.where(found.status < jaxre.Status.UNBOUNDED, numbers, 0)

    total = lambda moved, y, v: jax.vmap(loss, (None, 0, 0))(moved, y, v).sum()
    slopes = jax.jit(jax.grad(total))(np.zeros((2, 13)), y, v)
    expected = jax.jit(jax.grad(lambda *data: loss(*data).sum()))(np.zeros((2, 13)), y[4], v[4])
    assert (expected != 0).all()
    np.testing.assert_allclose(slopes, expected, rtol=1e-9)  # the same sums in a batch


@pytest.mark.slow
def test_a_study_without_an_effect_or_a_variance_leaves_derivatives_of_the_others(x64):
    y, v = (np.tile(row, (2, 1)) for row in log_risk_ratios())
    y[0, 3], v[1, 4] = np.nan, np.nan
    slopes = jax.jit(jax.vmap(jax.grad(lambda y, v: jaxre.meta_analysis(y, v).tau2, (0, 1))))(y, v)
    for i, missing in enumerate((3, 4)):
        others = (np.delete(row, missing) for row in (y[i], v[i]))
        expected = jax.grad(lambda y, v: jaxre.meta_analysis(y, v).tau2, (0, 1))(*others)
        for found, one in zip(slopes, expected, strict=True):
            assert found[i, missing] == 0
            np.testing.assert_allclose(np.delete(found[i], missing), one, rtol=1e-10)


def test_homogeneous_studies():
    """tau2 is exactly 0 with both ends of its interval there; negative untruncated estimates are kept."""
    y, v = np.array([1.0, 1.01, 0.99, 1.0]), np.full(4, 0.5)
    for method in METHODS:
        fit = jaxre.fit_meta(y, v, method=method)
        assert fit.tau2 == fit.tau2_low == fit.tau2_high == fit.i2 == fit.i2_of_q == 0
        assert fit.h2 == 1
        assert fit.status == (jaxre.Status.BOUNDARY if method in ("reml", "ml") else jaxre.Status.NEGATIVE)
        if method in ("dl", "he", "pm"):
            assert fit.tau2_untruncated < 0
    assert fit.beta_se[0] == pytest.approx(np.sqrt(0.5 / 4), rel=1e-12)
    assert jaxre.fit_meta(np.ones(3), np.ones(3)).tau2 == 0  # equal effects are no error where variances are known


def test_invariance():
    """Shifts move the mean alone, and scaling by a power of two changes no digit."""
    y, v = log_risk_ratios()
    fit = jaxre.fit_meta(y, v)
    tiny = jaxre.fit_meta(y * 2.0**-300, v * 2.0**-600)
    assert tiny.tau2 * 2.0**600 == fit.tau2
    moved = jaxre.fit_meta(y + 1024, v)
    assert moved.tau2 == pytest.approx(fit.tau2, rel=1e-10)  # 1024 costs y three digits
    assert moved.beta[0] - 1024 == pytest.approx(fit.beta[0], abs=1e-12)


@pytest.mark.parametrize("method", but_for(METHODS, ("reml",)))
def test_derivatives(x64, method):
    """Against central differences, whose truncation and rounding leave 1e-6."""
    y, v = log_risk_ratios()

    def numbers(at):
        found = jaxre.meta_analysis(*at, method=method)
        return jnp.stack([found.tau2, found.beta[0], found.tau2_low, found.i2])

    rng = np.random.default_rng(0)
    found = slopes(numbers, (y, v), (rng.normal(size=13), rng.normal(size=13) * v * 0.1))
    np.testing.assert_allclose(found.forward, found.difference, rtol=1e-6)
    np.testing.assert_allclose(found.reverse, found.forward, rtol=1e-9)


@pytest.mark.parametrize("method", but_for(METHODS, ("pm",)))
def test_derivatives_at_the_edge_with_a_moderator(x64, method):
    """Effects that vary less than their variances say: tau2 is 0, and so is the Q-profile interval's lower end."""
    v, x = np.array([0.03, 0.03, 0.05, 0.01, 0.05, 0.02]), np.array([1, -0.5, 0.2, 0.7, -1.3, 0.4])[:, None]
    y = 0.3 + 0.5 * x[:, 0] + 0.001 * np.array([1, -1, 2, 0, 1, -2.0])

    def numbers(y):
        found = jaxre.meta_analysis(y, v, x, method=method)
        return jnp.stack([found.tau2, found.tau2_low, found.tau2_high, *found.beta, *found.beta_se, found.q_df])

    forward, reverse = jax.jacfwd(numbers)(y), jax.jacrev(numbers)(y)
    assert np.isfinite(forward).all()
    np.testing.assert_allclose(reverse, forward, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("power", [-350, 350])
def test_the_standard_error_of_tau2_scales_with_it(x64, power):
    y, v = log_risk_ratios()
    here, there = jaxre.meta_analysis(y, v), jaxre.meta_analysis(y * 2.0**power, v * 2.0 ** (2 * power))
    assert there.tau2_se == here.tau2_se * 2.0 ** (2 * power)


def test_squares_that_overflow_are_out_of_range(x64):
    y, v = log_risk_ratios()
    found = jaxre.meta_analysis(1e200 * y, 1e300 * v, method="dl")
    assert found.status == jaxre.Status.OUT_OF_RANGE
    assert np.isnan([found.tau2, found.beta[0], found.q]).all()


@pytest.mark.parametrize("wide", [True, slow(False)])
def test_single_precision(wide):
    """Also where JAX has double precision."""
    y, v = (np.float32(one) for one in log_risk_ratios())
    with jax.enable_x64(wide):
        found = jax.jit(jaxre.meta_analysis)(y, v)
    assert found.tau2.dtype == found.beta.dtype == found.tau2_high.dtype == np.float32
    assert found.tau2 == pytest.approx(0.313243258, rel=1e-4)
    assert found.tau2_high == pytest.approx(1.111479, rel=1e-4)


def test_the_report():
    y, v = log_risk_ratios()
    v[3] = np.nan
    fit = jaxre.fit_meta(y, v, test="knapp-hartung", level=0.9)
    text = str(fit)
    for part in ("meta-analysis by REML", "12 studies; 1 with", "90% Q-profile", "t on 11 degrees", "proven global"):
        assert part in text
    assert fit.to_dict()["tau2"] == fit.tau2
    assert fit.to_dict()["status"] == "interior"
    assert "closed form" in str(jaxre.fit_meta(y, v, method="dl"))


GOOD = [0.1, 0.3, 0.2], [0.01, 0.02, 0.03]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((GOOD[0], [0.01, 0.0, 0.03]), {}, r"variances must be positive, got 0 for study 2: pass squared"),
        ((GOOD[0], [0.01, -2.0, 0.03]), {}, r"got -2 for study 2"),
        ((GOOD[0], [0.01, 0.02]), {}, r"one length, got \(3,\) and \(2,\)"),
        (([], []), {}, "effects has no studies"),
        (([0.1, np.inf, 0.2], GOOD[1]), {}, r"effects .*infinite"),
        (([0.1, np.nan, 0.2], GOOD[1]), {"missing": "raise"}, r"effects .*missing"),
        (([0.1, np.nan, np.nan], GOOD[1]), {}, r"at least 2 studies for 1 coefficients, got 1"),
        ((*GOOD, np.arange(3.0)[:, None] ** [1, 2]), {}, r"at least 4 studies for 3 coefficients, got 3"),
        ((*GOOD, np.ones((3, 1))), {}, r"rank-deficient.*3 studies, 2 coefficients; constant: x1"),
        ((*GOOD, np.ones(3)), {}, r"covariates must have shape \(3, p - 1\)"),
        (GOOD, {"method": "bayes"}, r"method must be one of 'reml'.*got 'bayes'"),
        (GOOD, {"test": "t"}, r"test must be one of 'normal'"),
        (GOOD, {"level": 95}, r"level must lie between 0 and 1"),
    ],
)
def test_misuse(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        jaxre.fit_meta(*arguments, **options)
    assert jax.config.jax_enable_x64 is False


def test_misuse_of_the_pure_function():
    with pytest.raises(ValueError, match="method must be one of"):
        jaxre.meta_analysis(*GOOD, method="fe")
    with pytest.raises(ValueError, match="one-dimensional of one length"):
        jaxre.meta_analysis(np.ones((2, 3)), np.ones((2, 3)))
    with pytest.raises(ValueError, match="like effects"):
        jaxre.meta_analysis(*GOOD, np.ones(3))
