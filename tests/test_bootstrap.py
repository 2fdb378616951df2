"""The parametric bootstrap against closed forms."""

import functools
import warnings

import designs
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from nearly import approx
from samples import LIMIT, distance
from slow import slow

import jaxre
from jaxre import Status, replicates
from jaxre.bootstrap import bootstrap
from jaxre.bootstrap_interval import acceleration, interval_of, traced_interval_of

KEY = jax.random.key(20240607)
MANY = 20_000


@functools.cache
def dyestuff():
    columns = jaxre.datasets.load("dyestuff").columns
    return designs.moments(columns["Yield"] * 1.0, np.unique(columns["Batch"], return_inverse=True)[1])


@functools.cache
def unequal(p=1):
    return designs.simulate(1, designs.SIZES["unequal"], p=p)


@functools.cache
def of_dyestuff(method="reml", kind="percentile"):
    return bootstrap(dyestuff(), KEY, replicates=MANY, method=method, kind=kind)


def test_the_variance_within_has_its_chi_square_distribution():
    """Analysis of variance: within* = within chi2 / 24; quantiles of chi2 on 24 from the tables."""
    result = of_dyestuff("anova")
    assert result.estimate["within"] == approx(2451.25, rel=1e-14)
    for end, quantile, share in [("low", 12.401150, 0.025), ("high", 39.364077, 0.975)]:
        place = 24 * getattr(result, end)["within"] / 2451.25
        density = quantile**11 * np.exp(-quantile / 2) / 2**12 / float(mpmath.factorial(11))
        assert abs(place - quantile) < 5 * np.sqrt(share * (1 - share) / MANY) / density
    assert result.standard_error["within"] == approx(2451.25 * np.sqrt(2 / 24), rel=5 * 0.7 / np.sqrt(MANY))
    assert abs(result.bias["within"]) < 5 * 2451.25 * np.sqrt(2 / 24 / MANY)
    assert result.standard_error["beta"] == approx(np.sqrt((1764.05 + 2451.25 / 5) / 6), rel=5 * 0.7 / MANY**0.5)


@pytest.mark.parametrize("method", ["reml", "ml", "anova"])
def test_the_boundary_is_hit_as_often_as_f_says(method):
    """between = 0 where MSB < MSW, for ML where 5/6 MSB < MSW: F(5, 24) scaled by (within + 5 between) / within."""
    result = of_dyestuff(method)
    own = jaxre.fit(*(jaxre.datasets.load("dyestuff").columns[name] for name in ("Yield", "Batch")), method=method)
    x = (6 / 5 if method == "ml" else 1) * own.within / (own.within + 5 * own.between)
    chance = float(mpmath.betainc(2.5, 12, 0, 5 * x / (5 * x + 24), regularized=True))
    assert 0.03 < chance < 0.2
    assert abs(result.boundary / MANY - chance) < 5 * np.sqrt(chance * (1 - chance) / MANY)
    assert (result.replicates["between"] == 0).sum() == result.boundary
    assert result.failed == result.uncertified == 0
    assert f"{result.boundary:,} with between = 0, 0 without an estimate" in str(result)


def test_equal_keys_give_equal_answers_whatever_the_chunk():
    whole = of_dyestuff()
    again = bootstrap(dyestuff(), KEY, replicates=5000, chunk=600, progress=False)
    for name, drawn in again.replicates.items():
        np.testing.assert_array_equal(drawn, whole.replicates[name][:5000])
    other = bootstrap(dyestuff(), jax.random.key(1), replicates=5000)
    assert (other.replicates["within"] != again.replicates["within"]).all()
    legacy = bootstrap(dyestuff(), jax.random.PRNGKey(1), replicates=10)
    np.testing.assert_array_equal(legacy.replicates["within"], other.replicates["within"][:10])


def test_few_replicates_are_the_first_of_many(monkeypatch):
    """Programs that compile sooner and ones that run sooner, which round differently: 1e-12, as the estimates."""
    statistic = lambda fit: jnp.stack([fit.between, fit.within, fit.log_likelihood])
    few = bootstrap(dyestuff(), KEY, statistic, replicates=600, progress=False)
    monkeypatch.setattr(replicates, "FEW", 0)
    many = bootstrap(dyestuff(), KEY, statistic, replicates=600, progress=False)
    scale = abs(many.replicates).max(axis=0)
    np.testing.assert_allclose(few.replicates / scale, many.replicates / scale, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(few.status, many.status)


def test_intervals_are_order_statistics_and_their_reflection():
    """q((B + 1) a), interpolated between neighbours."""
    drawn, (percentile, basic) = of_dyestuff().replicates["icc"], (of_dyestuff(), of_dyestuff(kind="basic"))
    ordered, h = np.sort(drawn), (MANY + 1) * 0.975
    expected = ordered[int(h) - 1] + (h - int(h)) * (ordered[int(h)] - ordered[int(h) - 1])
    assert percentile.high["icc"] == approx(expected, rel=1e-14)
    assert basic.low["icc"] == approx(2 * percentile.estimate["icc"] - expected, rel=1e-14)
    few = bootstrap(dyestuff(), KEY, replicates=38)  # 39 * 0.025 < 1
    assert np.isnan(few.low["icc"])
    assert np.isnan(few.high["icc"])
    assert "not determined by these replicates" in str(few)


def test_bca_of_the_variance_within_is_close_to_its_exact_interval():
    """Acceleration sqrt(8 / 24) / 6 (Efron 1987, section 3), and within 24 / chi2: 1494.5 to 4743.9.

    By the closed form of z0 = Phi^-1 P(chi2 < 24) and that acceleration BCa is within 1 % of the exact ends; to which
    comes the Monte-Carlo error of a quantile and of z0, about 1 % each.
    """
    result = of_dyestuff("anova", "bca")
    assert result.low["within"] == approx(24 * 2451.25 / 39.364077, rel=0.03)
    assert result.high["within"] == approx(24 * 2451.25 / 12.401150, rel=0.03)
    rng = np.random.default_rng(0)
    scores = np.column_stack([rng.chisquare(24, size=400_000), rng.normal(size=400_000)])
    c = acceleration(2 * scores[:, 0] + 3, scores)
    assert c == approx(np.sqrt(8 / 24) / 6, abs=5 * np.sqrt(40 / 400_000) / 6)


def test_bca_is_nan_where_it_is_not_defined():
    """All replicates equal to the estimate, or above it."""
    statistic = lambda fit: {"equal": jnp.minimum(fit.within, 1.0), "above": abs(fit.within / 2451.25 - 1)}
    result = bootstrap(dyestuff(), KEY, statistic, replicates=400, method="anova", kind="bca")
    for name in ("equal", "above"):
        assert np.isnan([result.low[name], result.high[name]]).all()
    assert result.standard_error["equal"] == 0
    assert np.isnan(acceleration(np.ones(9), np.random.default_rng(0).normal(size=(9, 3))))


def test_bca_of_an_estimate_on_the_boundary_begins_there():
    """Dyestuff2, where between is 0: half of the ties count as below, so the interval is defined and begins at 0."""
    columns = jaxre.datasets.load("dyestuff2").columns
    moments = designs.moments(columns["Yield"], np.unique(columns["Batch"], return_inverse=True)[1])
    result = bootstrap(moments, KEY, replicates=MANY, method="anova", kind="bca")
    assert result.estimate["between"] == result.low["between"] == 0
    assert 0 < result.high["between"] < np.inf


def everything(fit):
    numbers = fit.between, fit.within, fit.log_likelihood, (fit.beta[0] - 3) / fit.beta_se[0], fit.optima
    return jnp.stack(numbers)


@pytest.mark.parametrize(("method", "design"), [slow("anova", "unequal"), ("ml", "one giant"), ("reml", "many pairs")])
def test_the_spectral_way_and_the_way_through_strata_agree(monkeypatch, method, design):
    """In the distribution of every number and in their correlations; also where many need the whole search, and in the
    program of many replicates, with eigenvalues that occur more than once."""
    if design == "many pairs":
        monkeypatch.setattr(replicates, "FEW", 0)
    y, groups, _ = designs.simulate(5, designs.SIZES.get(design, [2, 2, 2, 2, 2, 5, 5]), ratio=0.5)
    run = lambda key: bootstrap(designs.moments(y, groups), key, everything, replicates=5000, method=method)
    spectral = run(KEY)
    monkeypatch.setattr(replicates, "spectral_source", lambda *_: None)
    strata = run(jax.random.key(1))
    np.testing.assert_allclose(spectral.estimate, strata.estimate, rtol=1e-12)
    for a, b in zip(spectral.replicates.T, strata.replicates.T, strict=True):
        assert distance(a, b) < LIMIT * np.sqrt(2 / 5000)
    for result in (spectral, strata):
        assert result.failed == result.uncertified == 0
        several = np.isin(result.status, (Status.INTERIOR_SEVERAL, Status.BOUNDARY_SEVERAL))
        np.testing.assert_array_equal(several, result.replicates[:, -1] > 1)
        assert several.mean() > 0.05 or design != "one giant"
    ranks = lambda result: np.corrcoef(result.replicates[:, :-1].argsort(axis=0).argsort(axis=0).T)
    assert abs(ranks(spectral) - ranks(strata)).max() < 5 * np.sqrt(2 / 5000)
    assert abs(spectral.boundary - strata.boundary) < 5 * np.sqrt(2 * strata.boundary)


def test_covariates_are_bootstrapped_with_the_design_fixed():
    """beta* has the covariance of generalised least squares at the model, whatever estimates the variances."""
    y, groups, x = unequal(3)
    moments = designs.moments(y, groups, x)
    result = bootstrap(moments, KEY, lambda fit: fit.beta, replicates=MANY, method="anova")
    own = jaxre.fit(y, groups, x, method="anova")
    np.testing.assert_allclose(result.estimate, own.beta, rtol=1e-13)
    assert (abs(result.bias) < 5 * own.beta_se / np.sqrt(MANY)).all()
    assert (result.standard_error > own.beta_se * 0.98).all()  # estimated weights cost a little
    assert (result.standard_error < own.beta_se * 1.2).all()
    assert "statistic[2]" in str(result)


def test_failures_are_nan_counted_and_left_out():
    """Dyestuff times 1.5e-155: a between or a squared standard error below 2.2e-308 is out of range, here for few."""
    columns = jaxre.datasets.load("dyestuff").columns
    moments = designs.moments(columns["Yield"] * 1.5e-155, np.unique(columns["Batch"], return_inverse=True)[1])
    result = bootstrap(moments, KEY, lambda fit: fit.icc, replicates=2000)
    failed = result.status == Status.OUT_OF_RANGE
    assert result.failed == failed.sum()
    assert 20 < result.failed < 400
    np.testing.assert_array_equal(np.isnan(result.replicates), failed)
    assert result.used == 2000 - result.failed
    assert result.low == approx(np.quantile(result.replicates[~failed], 0.025, method="weibull"))
    assert f"{result.failed} without an estimate" in str(result)
    assert f"statistic: {result.failed} replicates are NaN and left out" in str(result)


def test_a_statistic_may_be_nan_or_infinite():
    result = bootstrap(dyestuff(), KEY, lambda fit: (jnp.log(fit.between), fit.icc / (fit.ratio > 0)), replicates=2000)
    assert result.failed == 0
    assert result.used == (2000, 2000 - result.boundary)
    assert result.low[0] == -np.inf  # 5 % are on the boundary
    assert np.isfinite(result.high).all()


def test_moments_in_single_precision_are_bootstrapped_in_double():
    single = lambda leaf: np.float32(leaf) if np.issubdtype(leaf.dtype, np.floating) else leaf
    moments = jax.tree.map(single, designs.moments(*unequal()))
    result = bootstrap(moments, KEY, lambda fit: fit.icc, replicates=100)
    assert result.replicates.dtype == np.float64
    assert isinstance(result.estimate, np.float64)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"replicates": 0}, ValueError, "replicates must be at least 1"),
        ({"replicates": 10.5}, TypeError, "replicates must be a whole number, got 10.5"),
        ({"chunk": "all"}, TypeError, "chunk must be a whole number, got 'all'"),
        ({"statistic": "icc"}, TypeError, "statistic must be a function of an Estimate.* got str"),
        ({"level": 1.0}, ValueError, "level must lie between 0 and 1"),
        ({"kind": "normal"}, ValueError, "kind must be one of"),
        ({"method": "REML"}, ValueError, "method must be one of"),
        ({"chunk": 0}, ValueError, "chunk must be a positive number"),
        ({"key": 0}, TypeError, "key must be one JAX random key"),
        ({"key": jax.random.split(KEY)}, TypeError, "key must be one JAX random key"),
        ({"moments": np.ones(3)}, TypeError, "call group_moments first"),
        ({"statistic": lambda fit: None}, ValueError, "at least one number"),
        ({"statistic": lambda fit: {}}, ValueError, "at least one number"),
        ({"statistic": lambda fit: "icc"}, ValueError, "arrays of real numbers, got str"),
    ],
)
def test_bad_input_is_refused(change, error, message):
    arguments = {"moments": dyestuff(), "key": KEY, "replicates": 10} | change
    with pytest.raises(error, match=message):
        bootstrap(**arguments)


def test_moments_without_an_estimate_are_refused():
    for values, groups, message in [
        ([1.0, 2.0, 3.0], [0, 1, 2], "not identified"),
        ([1.0, 1.0, 1.0, 1.0], [0, 0, 1, 1], "constant outcome"),
    ]:
        with pytest.raises(ValueError, match=message):
            bootstrap(designs.moments(np.array(values), np.array(groups)), KEY)


@pytest.mark.parametrize(("design", "kind"), [("balanced", "percentile"), ("covariates", "bca")])
def test_inside_jit_it_is_the_same(x64, design, kind):
    """Where both draw through the strata: rounding alone, of the estimates 1e-12 and 100 times that of BCa's places."""
    moments = jaxre.stratify(dyestuff() if design == "balanced" else designs.moments(*unequal(3)))
    call = functools.partial(bootstrap, replicates=1500, kind=kind)
    expected, found = call(moments, KEY), jax.jit(lambda key: call(moments, key))(KEY)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    size = expected.estimate["between"] + expected.estimate["within"]
    for name, drawn in expected.replicates.items():
        np.testing.assert_allclose(found.replicates[name], drawn, rtol=1e-12, atol=1e-12 * size)
        for field in ("low", "high", "bias", "standard_error", "used"):
            one, other = (getattr(result, field)[name] for result in (found, expected))
            np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10 * size)
    np.testing.assert_array_equal(found.status, expected.status)
    assert (found.boundary, found.failed, found.uncertified) == (expected.boundary, 0, 0)
    assert str(found).splitlines()[0] == str(expected).splitlines()[0]


@pytest.mark.parametrize("kind", ["percentile", "basic", "bca"])
def test_an_interval_by_jax_is_the_one_by_numpy(x64, rng, kind):
    """With replicates that are NaN, ties, and one that is infinite; both ways take the same order statistics."""
    scores = rng.normal(size=(400, 4))
    drawn = np.round(scores[:, 0] ** 2 + rng.normal(size=400), 1)
    infinite = np.where(np.arange(400) == 3, np.inf, drawn)
    drawn[::7] = np.nan
    for column in (drawn, infinite, np.full(400, np.nan), np.where(np.arange(400) < 1, 1.0, np.nan)):
        with np.errstate(all="ignore"):
            expected = interval_of(column, 1.0, scores, kind, 0.9)
        found = jax.jit(traced_interval_of, static_argnums=3)(column, 1.0, scores, kind, 0.9)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
        assert np.isfinite(found[0]) == (column is drawn or (column is infinite and kind != "bca"))


def test_under_vmap_each_dataset_has_its_own_and_a_bad_one_is_nan(x64):
    constant = designs.moments(np.ones(30), np.repeat(np.arange(6), 5))
    batch = jaxre.stack([jaxre.stratify(one) for one in (dyestuff(), constant, dyestuff())])
    found = jax.vmap(lambda moments, key: bootstrap(moments, key, replicates=200))(batch, jax.random.split(KEY, 3))
    one = jax.tree.map(jnp.asarray, jaxre.stratify(dyestuff()))  # sizes that are traced use a key in another way
    alone = jax.jit(lambda moments, key: bootstrap(moments, key, replicates=200))(one, jax.random.split(KEY, 3)[2])
    np.testing.assert_allclose(found.high["within"][2], alone.high["within"], rtol=1e-12)
    assert found.low["beta"].shape == (3, 1)
    assert np.isnan(found.replicates["within"][1]).all()
    assert np.isnan([found.estimate["between"][1], found.low["between"][1], found.high["between"][1]]).all()
    np.testing.assert_array_equal(found.failed, [0, 200, 0])
    np.testing.assert_array_equal(found.used["icc"], [200, 0, 200])
    assert found.count == 200
    assert "status (3, 200)" in str(found)


@pytest.mark.parametrize("power", [-400, 400])
def test_scale_only_scales(power):
    """By powers of two, where the squares of variances are no doubles any more."""
    columns = jaxre.datasets.load("dyestuff").columns
    here, there = (
        jaxre.fit(columns["Yield"] * 2.0**k, columns["Batch"]).bootstrap(seed=1, replicates=999, kind="bca")
        for k in (0, power)
    )
    for name, unit in {
        "between": 2.0 ** (2 * power),
        "within": 2.0 ** (2 * power),
        "icc": 1,
        "beta": 2.0**power,
    }.items():
        for field in ("low", "high", "bias", "standard_error"):
            expected = getattr(here, field)[name] * unit
            np.testing.assert_allclose(getattr(there, field)[name], expected, rtol=1e-9, err_msg=f"{field} of {name}")
            assert np.isfinite(expected).all() or name in ("between", "icc")


def test_moments_of_several_datasets_are_refused():
    with pytest.raises(ValueError, match=r"one dataset.*use jax\.vmap"):
        bootstrap(jaxre.stack([dyestuff(), dyestuff()]), KEY)


def test_constants_of_a_program_in_single_precision_give_no_warning():
    """Moments in double precision inside jit without x64, as from `group_moments` on the host."""
    strata, key = jaxre.stratify(dyestuff()), jax.random.key(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for call in (
            lambda key: bootstrap(strata, key, replicates=50).low["icc"],
            lambda key: jaxre.draw(key, strata, jaxre.Components(within=1.0, between=1.0)).means,
            lambda key: jaxre.reml(dyestuff()).between,
        ):
            assert jax.jit(call)(key).dtype == np.float32


def test_progress_is_shown(capsys):
    bootstrap(dyestuff(), KEY, replicates=5000, chunk=600, progress=True)
    assert "5,000 of 5,000" in capsys.readouterr().err
    bootstrap(dyestuff(), KEY, replicates=5000, progress=False)
    assert capsys.readouterr().err == ""
