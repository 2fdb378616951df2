"""Moments of outcomes with covariates and missing values, many at a time, against one dataset at a time."""

import jax
import numpy as np
import pytest
from slow import but_for, slow

import jaxre
from jaxre import Status
from jaxre.masked import masked_design, masked_strata

SIZES = {
    "unequal": [3, 1, 4, 1, 5, 9, 2, 6, 5],
    "balanced": [5] * 12,
    "few large": [20, 30, 25],  # fewer groups than sizes: a stratum is a group
}


def made(sizes, p, count=96, most=0.6, ratio=1.0):
    """Labels, covariates and outcomes, from none to most of whose values are missing."""
    rng = np.random.default_rng(11)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    x = rng.normal(size=(len(groups), p - 1)) + rng.normal(size=(len(sizes), p - 1))[groups]
    y = rng.normal(size=(len(groups), count)) + np.sqrt(ratio) * rng.normal(size=(len(sizes), count))[groups]
    y += x @ rng.normal(size=(p - 1, count))
    y[rng.random(y.shape) < np.linspace(0, most, count)] = np.nan
    return groups, x, y


def assert_each_is_alone(groups, x, y, digits=1e-12, method="reml"):
    """Every number of every dataset, to digits of its own scale."""
    fits = jaxre.fit_many(y, groups, x, method=method)
    for i, column in enumerate(y.T):
        try:
            one = jaxre.fit(column, groups, x, method=method)
        except ValueError:
            assert Status(int(fits.status[i])).failed
            continue
        total = one.between + one.within
        assert abs(fits.between[i] - one.between) <= digits * total
        assert abs(fits.within[i] - one.within) <= digits * total
        np.testing.assert_allclose(fits.beta[i], one.beta, atol=digits * max(abs(one.beta).max(), one.beta_se.max()))
        np.testing.assert_allclose(fits.beta_se[i], one.beta_se, rtol=10 * digits)
        assert fits.log_likelihood[i] == pytest.approx(one.log_likelihood, rel=digits, abs=digits)
        assert (fits.status[i], fits.optima[i], fits.certified[i]) == (one.status, one.optima, one.certified)
        assert (fits.rows[i], fits.dropped[i], fits.group_counts[i]) == (one.n, one.dropped, len(one.groups))


EVERYDAY = [("unequal", 2, "reml"), ("balanced", 4, "ml")]
DESIGNS = [
    (name, p, method) for name, p, _ in (*EVERYDAY, ("few large", 3, "anova")) for method in ("reml", "ml", "anova")
]


@pytest.mark.parametrize(("name", "p", "method"), but_for(DESIGNS, EVERYDAY[:1]))
def test_many_at_a_time_are_one_at_a_time(name, p, method):
    groups, x, y = made(SIZES[name], p)
    assert masked_strata(masked_design(groups, x), y)[1].mean() > 0.8  # few are left to the other way
    assert_each_is_alone(groups, x, y, method=method)


def test_far_from_zero_and_of_any_size():
    groups, x, y = made(SIZES["unequal"], 3)
    assert_each_is_alone(groups, x, y + 2.0**20)
    assert_each_is_alone(groups, 1e3 + 1e-3 * x, y * 2.0 ** np.linspace(-498, 498, y.shape[1]).round())


def test_covariates_that_do_not_vary_within_groups():
    groups, x, y = made(SIZES["unequal"], 4)
    x[:, 1] = np.arange(9.0)[groups] ** 2
    design = masked_design(groups, x)
    assert design.varies.sum() == 2
    assert masked_strata(design, y)[1].mean() > 0.5
    assert_each_is_alone(groups, x, y)


@pytest.mark.parametrize("ratio", [slow(1e4), 1e10])
def test_an_intraclass_correlation_next_to_one(ratio):
    """The outcome is then reduced by generalised least squares: ordinary ones would leave much more than there is."""
    groups, x, y = made(SIZES["unequal"], 3, most=0.2, ratio=ratio)
    assert masked_strata(masked_design(groups, x), y)[1].all()
    assert_each_is_alone(groups, x, y, digits=1e-14 * np.sqrt(ratio) + 1e-12)


def test_what_the_missing_rows_take_away():
    """A covariate that varies no more, or no more within groups, an outcome that is constant, infinite, or explained:
    each is left to the moments of one dataset."""
    groups, x, y = made(SIZES["balanced"], 3, count=8, most=0)
    x[:, 0] = groups == 3
    x[:, 1] = np.where(np.arange(60) % 5 == 0, x[:, 1], np.arange(12)[groups])  # in one row of a group
    y[groups == 3, 0] = np.nan  # no row of the indicator
    y[np.arange(60) % 5 == 0, 1] = np.nan
    y[:, 2], y[4, 2] = 1.5, np.nan
    y[3, 3], y[4, 3] = np.inf, np.nan
    y[:, 4], y[0, 4] = x @ [1.0, 2.0], np.nan
    y[:, 5] = np.nan
    y[3:, 6] = np.nan
    y[0, 7] = np.nan
    data, suits, _ = masked_strata(masked_design(groups, x), y)
    assert suits.tolist() == [False] * 7 + [True]
    assert data.status.tolist() == [Status.INVALID] * 7 + [Status.INTERIOR]
    fits = jaxre.fit_many(y, groups, x)
    expected = ["RANK_DEFICIENT", "INTERIOR", "CONSTANT_OUTCOME", "INVALID", "UNBOUNDED", "INVALID", "NOT_IDENTIFIED"]
    assert [Status(code).name for code in fits.status[:7]] == expected
    assert_each_is_alone(groups, x, y)


@pytest.mark.slow
def test_covariates_far_from_zero_explain_what_their_rounding_is():
    """Variation within groups as small as the rounding of the covariates is none, values missing or not."""
    groups, x, _ = made(SIZES["unequal"], 3)
    y = (x @ [1.0, 2.0])[:, None] + 1e-4 * np.random.default_rng(1).normal(size=(len(groups), 3))
    with pytest.raises(ValueError, match="unbounded"):
        jaxre.fit(y[:, 0], groups, x + 1e12)
    assert (jaxre.fit_many(y, groups, x + 1e12).status == Status.UNBOUNDED).all()
    y[0] = np.nan
    fits = jaxre.fit_many(y, groups, x + 1e12, quantities=("blup", "icc"))
    assert (fits.status == Status.UNBOUNDED).all()
    assert np.isnan(fits.blup).all()


def test_very_many_covariates_go_one_at_a_time(monkeypatch):
    groups, x, y = made(SIZES["unequal"], 3, count=4, most=0.2)
    expected = jaxre.fit_many(y, groups, x)
    monkeypatch.setattr("jaxre.matrices.MOST_COVARIATES", 1)
    np.testing.assert_allclose(jaxre.fit_many(y, groups, x).beta, expected.beta, rtol=1e-12)


def test_company_changes_no_bit():
    """Whatever the others are, how many they are, and in which place of them."""
    groups, x, y = made(SIZES["unequal"], 4, count=200, most=0.2)
    design = masked_design(groups, x)
    whole, _, _ = masked_strata(design, y)
    for part in (slice(0, 1), slice(7, 77), slice(None, None, -1)):
        some, _, _ = masked_strata(design, y[:, part])
        for ours, theirs in zip(jax.tree.leaves(some), jax.tree.leaves(whole), strict=True):
            np.testing.assert_array_equal(ours, theirs[..., part])


def test_in_tiles_as_at_once(monkeypatch):
    groups, x, y = made(SIZES["unequal"], 4, count=300)
    design = masked_design(groups, x)
    whole, suits, _ = masked_strata(design, y)
    monkeypatch.setattr("jaxre.passes.TILE", 1)
    parts, others, _ = masked_strata(design, y)
    np.testing.assert_array_equal(suits, others)
    for ours, theirs in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(ours[..., suits], theirs[..., suits])
