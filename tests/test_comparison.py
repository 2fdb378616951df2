"""Likelihood-ratio tests of mean models against R, and what is refused."""

import numpy as np
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
    with pytest.raises(TypeError, match=r"two results of jaxre.fit, got float"):
        jaxre.compare(small, 1.0)


def test_models_that_are_not_nested_are_refused():
    other = np.random.default_rng(0).normal(size=(len(DAYS), 2))
    with pytest.raises(ValueError, match=r"combination of covariates equal to 'x1'"):
        jaxre.compare(fitted(DAYS), fitted(other))
    turned = np.column_stack([2 * DAYS[:, 0] + other[:, 0], other[:, 0]])  # spans the days as well
    assert jaxre.compare(fitted(DAYS), fitted(turned)).df == 1
