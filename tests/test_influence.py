"""Deletions of groups against fits of the data without them."""

import sys

import designs
import jax
import numpy as np
import pytest
from nearly import approx
from reference import table
from slow import but_for, slow

import jaxre
from jaxre.deviations import deviations
from jaxre.influence import influence
from jaxre.status import Status

pytestmark = pytest.mark.usefixtures("x64")

TOLERANCE = 1e-12  # of jaxre.fit itself
METHODS = ("reml", "ml", "anova")


def refits(y, groups, covariates, method):
    """What `jaxre.fit` says without each group, None where it refuses."""
    found = []
    for label in dict.fromkeys(groups.tolist()):
        keep = groups != label
        try:
            rest = None if covariates is None else covariates[keep]
            found.append(jaxre.fit(y[keep], groups[keep], rest, method=method))
        except ValueError:
            found.append(None)
    return found


def check(y, groups, covariates, method="reml", tolerance=TOLERANCE):
    """All of the influence against refits; its errors relative, of coefficients in standard errors."""
    found, full = influence(y, groups, covariates, method=method), jaxre.fit(y, groups, covariates, method=method)
    p = len(full.beta)
    for j, fit in enumerate(refits(y, groups, covariates, method)):
        at = jax.tree.map(lambda leaf, j=j: np.asarray(leaf[j]), found.estimate)
        if fit is None:
            assert Status(int(at.status)).failed, j
            assert np.isnan(at.within), j
            assert np.isnan(found.cook[j]), j
            continue
        assert at.status == fit.status, j
        assert at.certified, j
        for name in ("within", "between", "ratio", "icc", "beta_se"):
            np.testing.assert_allclose(getattr(at, name), getattr(fit, name), rtol=tolerance, err_msg=f"{j} {name}")
        assert (at.between == 0) == (fit.between == 0)
        scale = np.maximum(abs(fit.beta), fit.beta_se)
        np.testing.assert_allclose(at.beta / scale, fit.beta / scale, rtol=0, atol=tolerance)
        assert at.log_likelihood == approx(fit.log_likelihood, rel=tolerance, abs=tolerance)
        # differences of two fits, good to the rounding of beta
        change, rounding = full.beta - fit.beta, tolerance * abs(full.beta).max() / full.beta_se.min() + tolerance
        standardised = found.beta_change_standardised[j]
        np.testing.assert_allclose(standardised, change / full.beta_se, atol=10 * rounding)
        cook = change @ np.linalg.solve(full.beta_cov, change) / p
        assert found.cook[j] == approx(cook, rel=1e-7, abs=100 * rounding**2 + 1e-12)
        assert found.log_within_change[j] == approx(np.log(full.within / fit.within), abs=1e-11)
    return found


@pytest.mark.parametrize(
    ("sizes", "p", "method"),
    [
        *but_for((("unequal", p, method) for p in (1, 3) for method in METHODS), [("unequal", 3, "reml")]),
        *(slow("three groups", p, "reml") for p in (1, 3)),
        *but_for((("one giant", 1, method) for method in METHODS), [("one giant", 1, "ml")]),
        *(slow("balanced", 1, method) for method in METHODS),
    ],
)
def test_every_deletion_is_the_fit_without_the_group(sizes, p, method):
    check(*designs.simulate(61, designs.SIZES[sizes], p=p), method=method)


@pytest.mark.parametrize(
    "case",
    but_for(
        ["Dyestuff", "Dyestuff2", "Rail", "sleepstudy_Days", "n06_mean1e12_sd0.1", "n07_scale1e150"],
        ["Dyestuff", "Rail", "n06_mean1e12_sd0.1"],
    ),
)
def test_real_and_hard_data(case):
    data = table(case)
    # means of 1e12 are known to 1e-4: beta to its last digit, and the change of beta by difference no better
    check(np.asarray(data.values), data.groups, data.covariates, tolerance=TOLERANCE)


def test_a_group_far_away_costs_no_digits_of_the_others():
    """Without it the others are fitted as if it had never been there, though it set the scale of the whole."""
    y, groups, _ = designs.simulate(62, [4] * 8)
    y = np.where(groups == 0, y + 1e8, y)
    found = influence(y, groups)
    alone = jaxre.fit(y[groups != 0], groups[groups != 0])
    assert found.estimate.between[0] == approx(alone.between, rel=TOLERANCE)
    assert found.estimate.within[0] == approx(alone.within, rel=TOLERANCE)


def test_offsets_of_outcome_and_covariates():
    """Of data that stay exact; an offset of 1e6 in the covariates leaves the slopes 1e-10 of their standard errors."""
    y, groups, covariates = designs.simulate(63, designs.SIZES["unequal"], p=3)
    y, covariates = np.round(y * 2.0**16) / 2.0**16, np.round(covariates * 2.0**16) / 2.0**16
    here = influence(y, groups, covariates)
    there = influence(y + 2.0**30, groups, covariates + 2.0**20)
    np.testing.assert_allclose(there.estimate.between, here.estimate.between, rtol=1e-8)
    np.testing.assert_allclose(there.cook, here.cook, rtol=1e-7)
    np.testing.assert_allclose(
        there.beta_change_standardised[:, 1:], here.beta_change_standardised[:, 1:], rtol=0, atol=1e-8
    )


def test_scale():
    y, groups, covariates = designs.simulate(64, designs.SIZES["unequal"], p=3)
    here, there = influence(y, groups, covariates), influence(y * 2.0**490, groups, covariates)
    np.testing.assert_array_equal(there.cook, here.cook)
    np.testing.assert_array_equal(there.estimate.ratio, here.estimate.ratio)
    np.testing.assert_array_equal(there.beta_change / 2.0**490, here.beta_change)


def case_of(name):
    y, groups, covariates = designs.simulate(65, [4] * 8, p=3)
    first, second = covariates.T
    if name == "dummy of a group":
        return y, groups, np.column_stack([first, groups == 2]).astype(float), {2: Status.RANK_DEFICIENT}
    if name == "varies in one group alone":
        return y, groups, np.column_stack([first, (groups == 2) * second]), {2: Status.RANK_DEFICIENT}
    if name == "collinear but for one group":
        return y, groups, np.column_stack([first + (groups == 2) * second, first]), {2: Status.RANK_DEFICIENT}
    if name == "between groups but for one":
        between = (np.arange(8) % 3)[groups]
        return y, groups, np.column_stack([first + (groups == 2) * second + between, first]), {}
    if name == "constant but for one group":
        return np.where(groups == 3, y, 1.0), groups, None, {3: Status.CONSTANT_OUTCOME}
    if name == "constant in the others":
        return np.where(groups == 3, y, groups * 1.0), groups, None, {3: Status.UNBOUNDED}
    if name == "two groups":
        return y[:8], groups[:8], None, dict.fromkeys((0, 1), Status.NOT_IDENTIFIED)
    if name == "the only group of two":
        keep = np.r_[0, 1, 4, 8, 12, 16]
        return y[keep], groups[keep], None, {0: Status.NOT_IDENTIFIED}
    raise AssertionError(name)


@pytest.mark.parametrize(
    "name",
    [
        *("dummy of a group", "varies in one group alone", "collinear but for one group", "between groups but for one"),
        *("constant but for one group", "constant in the others", "two groups", "the only group of two"),
    ],
)
def test_what_a_deletion_may_leave(name):
    y, groups, covariates, failed = case_of(name)
    found = check(y, groups, covariates)
    codes = {j: Status(int(code)) for j, code in enumerate(found.estimate.status)}
    assert {j: code for j, code in codes.items() if code.failed} == failed


def test_labels_and_padding():
    y, groups, _ = designs.simulate(66, [3, 4, 5, 2])
    here = influence(y, groups)
    named = influence(y, [f"g{j}" for j in groups])
    np.testing.assert_array_equal(named.cook, here.cook)
    padded = influence(y, groups, num_groups=6)
    np.testing.assert_allclose(padded.cook[:4], here.cook, rtol=1e-11)
    np.testing.assert_allclose(padded.cook[4:], [0, 0], atol=1e-24)  # nobody is missed


def test_the_sum_of_the_groups_is_the_whole():
    y, groups, covariates = designs.simulate(67, designs.SIZES["unequal"], p=3)
    moments = designs.moments(y, groups, covariates)
    about = deviations(y, groups, covariates, None, moments.frame, 6)
    np.testing.assert_allclose(about.rows.T @ about.rows, moments.within_cross[1:, 1:], rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(about.sizes, moments.sizes)
    gaps = about.means - about.means[0], moments.means[:, 1:] - moments.means[0, 1:]
    np.testing.assert_allclose(*gaps, rtol=0, atol=1e-13)


def test_in_blocks_as_at_once(monkeypatch):
    y, groups, covariates = designs.simulate(68, [3, 4, 3, 4, 4, 3], p=2)
    whole = influence(y, groups, covariates)
    monkeypatch.setattr(sys.modules["jaxre.influence"], "ENTRIES", 16 * 9 * 3)  # blocks of 3
    for a, b in zip(jax.tree.leaves(influence(y, groups, covariates)), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)


def test_traced_and_batched_as_alone():
    y, groups, _ = designs.simulate(69, [3, 4, 5, 2])
    outcomes = y + np.random.default_rng(0).normal(size=(3, 14))
    one = lambda y: influence(y, groups, num_groups=4)
    together = jax.jit(jax.vmap(one))(outcomes)
    for i, outcome in enumerate(outcomes):
        alone = one(outcome)
        np.testing.assert_allclose(together.cook[i], alone.cook, rtol=1e-10)
        np.testing.assert_allclose(together.estimate.between[i], alone.estimate.between, rtol=1e-10)


def test_degenerate_data_and_words():
    found = influence(np.ones(6), np.repeat([0, 1, 2], 2))
    assert (found.estimate.status == Status.CONSTANT_OUTCOME).all()
    assert np.isnan(found.cook).all()
    with pytest.raises(ValueError, match="'reml', 'ml', 'anova', got 'gls'"):
        influence(np.arange(6.0), np.repeat([0, 1, 2], 2), method="gls")


@pytest.mark.slow
def test_single_precision():
    y, groups, _ = designs.simulate(70, designs.SIZES["unequal"])
    double = influence(y, groups)
    with jax.enable_x64(False):
        single = influence(y.astype(np.float32), groups)
    assert single.cook.dtype == np.float32
    np.testing.assert_allclose(single.cook, double.cook, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(single.estimate.within, double.estimate.within, rtol=1e-5)
