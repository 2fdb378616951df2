"""Inference as columns of `fit_many`: the numbers of the methods of `jaxre.fit`, whatever the form of the data."""

import designs
import numpy as np
import pytest

import jaxre
from jaxre.columns_of_inference import ADJUSTED, PARAMETERS, PROFILE, TESTS

SIZES = [5, 2, 7, 5, 7, 9]
SEVERAL = [1, 1, 1, 1, 13, 13]


def outcomes(sizes, count=6):
    """(n, count): between from 0 to 50 times within, and one that is constant."""
    columns = [designs.simulate(seed, sizes, ratio)[0] for seed, ratio in enumerate(np.geomspace(0.01, 50, count))]
    return np.column_stack([*columns, np.ones(len(columns[0]))])


def expected_of(fit, level, df):
    """The columns of one fit, from its methods."""
    inference = fit.inference(level, df)
    tests, test, exact = inference.coefficients, inference.f_test, inference.interval
    found = {f"beta_{name}": getattr(tests, name) for name in ("df", "t", "p_value", "low", "high")}
    found |= {f"f_{name}": getattr(test, name) for name in ("statistic", "df1", "df2", "p_value")}
    found |= {name: getattr(exact, name) for name in ("ratio_low", "ratio_high", "icc_low", "icc_high")}
    if inference.df == "kenward-roger":
        found["beta_se_adjusted"] = tests.standard_error
    for name, interval in (inference.variances or {}).items():
        found |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
    return found


def check(fits, place, fit, level=0.95, df=None):
    expected = expected_of(fit, level, df)
    for name in set(fits.inference) - {"profile_settled"}:
        number = expected[name]
        np.testing.assert_allclose(fits.inference[name][place], number, rtol=1e-9, atol=1e-12, err_msg=name)


def test_a_matrix():
    """With a missing value in one outcome, which then has a design of its own, and an outcome without an estimate."""
    values, groups = outcomes(SIZES), designs.labels(SIZES)
    values[3, 2] = np.nan
    fits = jaxre.fit_many(values, groups, quantities=("between", "inference"), level=0.9)
    assert fits.status[-1] == jaxre.Status.CONSTANT_OUTCOME
    for name, table in fits.inference.items():
        assert len(table) == 7
        if name == "profile_settled":
            assert table.tolist() == [True] * 6 + [False]
        else:
            assert np.isnan(table[-1]).all(), name
            assert np.isfinite(table[:-1]).all(), name
    for i in (0, 2, 5):
        check(fits, i, jaxre.fit(values[:, i], groups), 0.9)
    table = fits.to_dict()
    np.testing.assert_array_equal(table["beta_p_value[(Intercept)]"], fits.inference["beta_p_value"][:, 0])
    np.testing.assert_array_equal(table["f_p_value"], fits.inference["f_p_value"])


def test_covariates_and_several_optima():
    """A design with covariates; and one on which some outcomes have two optima, and one is at 0."""
    values, groups, x = outcomes(SIZES)[:, :-1], designs.labels(SIZES), designs.simulate(0, SIZES, p=3)[2]
    fits = jaxre.fit_many(values, groups, x, quantities=(*TESTS, *ADJUSTED, "icc_low", "f_p_value"))
    assert fits.inference["beta_t"].shape == (6, 3)
    for i in (1, 4):
        check(fits, i, jaxre.fit(values[:, i], groups, x))
    values, groups = outcomes(SEVERAL, 40)[:, :-1], designs.labels(SEVERAL)
    fits = jaxre.fit_many(values, groups, method="ml", quantities=("between", "optima", *PROFILE))
    several, zero = np.flatnonzero(fits.optima > 1), np.flatnonzero((fits.between == 0) & (fits.optima == 1))
    for i in (*several[:2], zero[0]):
        check(fits, i, jaxre.fit(values[:, i], groups, method="ml"))
    assert len(several) >= 1
    assert (fits.inference["between_low"][zero] == 0).all()


def test_designs_of_their_own_and_company():
    """An iterable and a long table; a bad dataset in the company changes no bit of the others."""
    data = [
        (designs.simulate(i, sizes, 1.0)[0], designs.labels(sizes)) for i, sizes in enumerate([SIZES, SEVERAL, SIZES])
    ]
    fits = jaxre.fit_many(data, quantities="inference")
    for i, one in enumerate(data):
        check(fits, i, jaxre.fit(*one))
    worse = [data[0], (np.ones(30), designs.labels(SEVERAL)), data[2]]
    again = jaxre.fit_many(worse, quantities="inference")
    for name, table in fits.inference.items():
        np.testing.assert_array_equal(again.inference[name][[0, 2]], table[[0, 2]], err_msg=name)
    long = [
        np.concatenate(column)
        for column in zip(*((*one, [i] * len(one[0])) for i, one in enumerate(data)), strict=True)
    ]
    table = jaxre.fit_many(*long[:2], datasets=long[2], quantities="inference")
    for name, column in fits.inference.items():
        np.testing.assert_allclose(table.inference[name], column, rtol=1e-10, err_msg=name)


def test_only_what_is_asked_for():
    values, groups = outcomes(SIZES)[:, :-1], designs.labels(SIZES)
    fits = jaxre.fit_many(values, groups, method="anova", quantities=("icc", "f_p_value", "icc_low"))
    assert set(fits.inference) == {"f_p_value", "icc_low"}
    assert fits.beta is None
    check(fits, 3, jaxre.fit(values[:, 3], groups, method="anova"))
    assert jaxre.fit_many(values, groups).inference is None


def test_misuse():
    values, groups = outcomes(SIZES), designs.labels(SIZES)
    profile = [f"{name}_low" for name in PARAMETERS]
    with pytest.raises(ValueError, match=r"\['between_low'.*method='anova'.*has not"):
        jaxre.fit_many(values, groups, method="anova", quantities=profile)
    with pytest.raises(ValueError, match=r"\['beta_se_adjusted'\], which method='ml'"):
        jaxre.fit_many(values, groups, method="ml", quantities=("beta_se_adjusted",))
    with pytest.raises(ValueError, match="are those of REML, got method='ml'"):
        jaxre.fit_many(values, groups, method="ml", df="kenward-roger")
    with pytest.raises(ValueError, match="level must lie between 0 and 1"):
        jaxre.fit_many(values, groups, level=95)
    with pytest.raises(ValueError, match=r"unknown names \['p'\]; there are status, .*inference"):
        jaxre.fit_many(values, groups, quantities=("p",))
