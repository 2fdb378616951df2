"""Likelihood-ratio tests of mean models against R, and what is refused."""

import numpy as np
import pandas
import pytest

import jaxre

SLEEP = jaxre.datasets.load("sleepstudy").columns
DAYS = SLEEP["Days"][:, None].astype(float)


def fitted(covariates=None, method="ml", rows=slice(None)):
    x = None if covariates is None else covariates[rows]
    return jaxre.fit(SLEEP["Reaction"][rows], SLEEP["Subject"][rows], x, method=method)


def test_sleepstudy_as_in_r():
    """anova(lmer(Reaction ~ 1 + (1 | Subject), REML = FALSE), lmer(Reaction ~ Days + ...)): 116.46 on 1, < 2.2e-16;
    with Days squared besides, from chi-square on 2, whose tail is exp(-x / 2)."""
    found = jaxre.compare(fitted(), fitted(DAYS))
    assert (round(found.statistic, 2), found.df) == (116.46, 1)
    assert found.p_value < 2.2e-16
    two = jaxre.compare(fitted(), fitted(np.column_stack([DAYS, DAYS**2])))
    assert two.df == 2
    assert two.statistic > found.statistic
    assert two.p_value == pytest.approx(np.exp(-two.statistic / 2), rel=1e-12)


def test_what_is_refused():
    small, large = fitted(), fitted(DAYS)
    for first, second, message in (
        (fitted(method="reml"), fitted(DAYS, "reml"), r"got a fit by method='reml': restricted likelihoods"),
        (large, small, r"got 2 and 1 coefficients"),
        (small, fitted(), r"got 1 and 1 coefficients"),
        (small, fitted(DAYS, rows=slice(10, None)), r"got 180 rows in 18 groups and 170 in 17"),
        (small, jaxre.fit(SLEEP["Reaction"] ** 2, SLEEP["Subject"], DAYS, method="ml"), r"or other values"),
    ):
        with pytest.raises(ValueError, match=message):
            jaxre.compare(first, second)
    with pytest.raises(TypeError, match=r"two results of jaxre.fit, or two of fit_many, got Fit and float"):
        jaxre.compare(small, 1.0)


def test_models_that_are_not_nested_are_refused():
    other = np.random.default_rng(0).normal(size=(len(DAYS), 2))
    with pytest.raises(ValueError, match=r"combination of covariates equal to 'x1'"):
        jaxre.compare(fitted(DAYS), fitted(other))
    turned = np.column_stack([2 * DAYS[:, 0] + other[:, 0], other[:, 0]])  # spans the days as well
    assert jaxre.compare(fitted(DAYS), fitted(turned)).df == 1


def test_many_datasets():
    """Each as by itself; NaN for one without an estimate, and for one of which the second has other rows."""
    y, groups = SLEEP["Reaction"], SLEEP["Subject"]
    values = np.column_stack([y, y[::-1], y**2, np.ones(len(y)), y])
    small = jaxre.fit_many(values, groups, method="ml")
    values[5, 4] = np.nan
    large = jaxre.fit_many(values, groups, DAYS, method="ml")
    found = jaxre.compare(small, large)
    assert found.df == 1
    for i in range(3):
        fits = (jaxre.fit(values[:, i], groups, x, method="ml") for x in (None, DAYS))
        expected = jaxre.compare(*fits)
        # a difference of log-likelihoods near 1000, each to 1e-12 of itself
        np.testing.assert_allclose(found.statistic[i], expected.statistic, atol=1e-8)
        np.testing.assert_allclose(found.p_value[i], expected.p_value, rtol=1e-7)
    assert np.isnan(found.statistic[3:]).all()
    assert np.isnan(found.p_value[3:]).all()
    for first, second, message in (
        (large, small, r"must contain the first, got \('\(Intercept\)', 'x1'\)"),
        (small, jaxre.fit_many(values[:, :2], groups, DAYS, method="ml"), "same datasets, got 5 and 2"),
        (small, jaxre.fit_many(values, groups, DAYS), "method='reml'"),
        (small, jaxre.fit_many(values, groups, DAYS, method="ml", quantities="icc"), "no log_likelihood"),
    ):
        with pytest.raises(ValueError, match=message):
            jaxre.compare(first, second)
    names = [pandas.DataFrame(values[:, :2], columns=columns) for columns in (["a", "b"], ["b", "a"])]
    with pytest.raises(ValueError, match="same datasets in one order"):
        jaxre.compare(
            *(jaxre.fit_many(frame, groups, x, method="ml") for frame, x in zip(names, (None, DAYS), strict=True))
        )
    with pytest.raises(TypeError, match=r"got FitMany and Fit"):
        jaxre.compare(small, fitted(DAYS))
