"""Inference as columns of `fit_many`: the numbers of the methods of `jaxre.fit`, whatever the form of the data."""

import designs
import numpy as np
import pytest
from slow import slow

import jaxre
from jaxre import plan
from jaxre.columns_of_inference import (
    ADJUSTED,
    CONTRASTS,
    CRITERIA,
    FURTHER,
    ICC_MEASURES,
    JOINT,
    OF_CONTRASTS,
    PARAMETERS,
    PROFILE,
    PROFILE_OF_BETA,
    PROFILE_OF_RATIOS,
    RATIOS,
    TESTS,
    UNTRUNCATED,
    available,
)

SIZES = [4, 2, 3, 4, 3, 5]
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


@pytest.mark.slow
def test_few_datasets_by_the_programs_that_many_have(monkeypatch):
    values, groups = outcomes(SIZES)[:, :2], designs.labels(SIZES)
    few = jaxre.fit_many(values, groups, quantities=("between", "inference"), level=0.9)
    monkeypatch.setattr(plan, "FEW", 0)
    many = jaxre.fit_many(values, groups, quantities=("between", "inference"), level=0.9)
    for name, column in many.inference.items():
        np.testing.assert_allclose(column, few.inference[name], rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.slow
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


def further_of(fit, level):
    """The columns that come by name alone, of one fit, from its methods."""
    exact, measures, about = fit.exact_interval(level), fit.icc_measures(level), fit.criteria()
    errors = fit.information("expected" if fit.method == "anova" else "observed")
    found = {name: getattr(exact, name) for name in UNTRUNCATED}
    lower, upper = (fit.exact_interval(level, side=side) for side in ("lower", "upper"))
    found |= {"ratio_lower_bound": lower.ratio_low, "icc_lower_bound": lower.icc_low}
    found |= {"ratio_upper_bound": upper.ratio_high, "icc_upper_bound": upper.icc_high}
    found |= {name: getattr(measures, name.removeprefix("icc_")) for name in ICC_MEASURES}
    found |= {name: getattr(about, name) for name in CRITERIA}
    found |= dict(zip(("within_se", "between_se"), errors.standard_error, strict=True))
    found |= dict(zip(("log_within_se", "log_between_se"), errors.log_standard_error, strict=True))
    for name in (*PARAMETERS, *RATIOS):
        interval = fit.wald_interval(name, level)
        found |= {f"{name}_wald_low": interval.low, f"{name}_wald_high": interval.high}
    of_beta = {"wald": [fit.wald_interval(name, level) for name in fit.coefficients]}
    if fit.method == "ml":
        of_beta["profile"] = [fit.profile_interval(name, level) for name in fit.coefficients]
    for kind, each in of_beta.items():
        found |= {f"beta_{kind}_{end}": np.array([getattr(one, end) for one in each]) for end in ("low", "high")}
    if fit.method != "anova":
        test = fit.likelihood_ratio_test(draws=10)
        found |= {"lr_statistic": test.statistic, "lr_p_asymptotic": test.p_asymptotic}
        for name in RATIOS:
            interval = fit.profile_interval(name, level)
            found |= {f"{name}_profile_low": interval.low, f"{name}_profile_high": interval.high}
    return found


@pytest.mark.parametrize(
    ("method", "p"), [("reml", 1), slow("reml", 2), slow("ml", 1), slow("ml", 2), slow("anova", 1)]
)
def test_columns_that_come_by_name_alone(method, p):
    """One outcome at between = 0; one incomplete, by another program; one without an estimate, which has none."""
    values, groups, x = outcomes(SIZES), designs.labels(SIZES), designs.simulate(0, SIZES, p=2)[2]
    if p == 2:
        values[3, 2] = np.nan
    values[:, 3] -= jaxre.fit(values[:, 3], groups).blup[groups] * 2
    x = x if p == 2 else None
    columns = [name for name in (*PROFILE_OF_RATIOS, *PROFILE_OF_BETA, *FURTHER) if name in available(method, "", ())]
    fits = jaxre.fit_many(values, groups, x, method=method, quantities=("between", *columns), level=0.8)
    assert set(fits.inference) == set(columns)
    assert all(np.isnan(table[-1]).all() for table in fits.inference.values())
    for i in range(6):
        expected = further_of(jaxre.fit(values[:, i], groups, x, method=method), 0.8)
        for name in columns:
            # ends of profile intervals are solved to 1e-8; those at 0 and effects of rounding near it to 1e-10
            scale = np.fmax(1.0, abs(expected[name])).max() if np.isfinite(expected[name]).all() else 1.0
            np.testing.assert_allclose(
                fits.inference[name][i], expected[name], rtol=1e-8, atol=1e-10 * scale, err_msg=f"{name} of {i}"
            )
    assert (fits.between[:6] == 0).any()


@pytest.mark.parametrize(("method", "df"), [("reml", None), slow("ml", "satterthwaite"), slow("anova", None)])
def test_contrasts(method, df):
    """Complete and incomplete outcomes, one of which has no estimate, against one fit at a time."""
    values, groups, x = outcomes(SIZES), designs.labels(SIZES), designs.simulate(0, SIZES, p=3)[2]
    if method == "reml":
        values[3, 2] = np.nan
    rows = np.array([[0.0, 1.0, -1.0], [1.0, 0.5, 0.0]])
    fits = jaxre.fit_many(values, groups, x, method=method, quantities="between", contrasts=rows, level=0.8, df=df)
    assert set(fits.inference) == set(CONTRASTS)
    assert all(np.isnan(table[-1]).all() for table in fits.inference.values())
    for i in range(6):
        fit = jaxre.fit(values[:, i], groups, x, method=method)
        each, joint = fit.coefficient_tests(rows, level=0.8), fit.contrast_test(rows)
        for columns, tests in ((OF_CONTRASTS, each), (JOINT, joint)):
            for column, name in columns.items():
                # the degrees of freedom are ratios of differences: what is left of the estimate's 1e-12
                np.testing.assert_allclose(fits.inference[column][i], getattr(tests, name), rtol=1e-8, err_msg=column)
    table = fits.to_dict()
    np.testing.assert_array_equal(table["contrast_estimate[1]"], fits.inference["contrast_estimate"][:, 1])


def test_contrasts_of_a_long_table_and_of_an_iterable():
    values, groups = outcomes(SIZES)[:, :3], designs.labels(SIZES)
    items = [(column, groups) for column in values.T]
    datasets = np.repeat(np.arange(3), len(groups))
    expected = [jaxre.fit(*item).coefficient_tests([[2.0]]).low for item in items]
    words = {"quantities": ("status", "contrast_low"), "contrasts": [2.0]}
    for fits in (
        jaxre.fit_many(items, **words),
        jaxre.fit_many(values.T.ravel(), np.tile(groups, 3), datasets=datasets, **words),
    ):
        assert set(fits.inference) == {"contrast_low"}
        np.testing.assert_allclose(fits.inference["contrast_low"], expected, rtol=1e-8)  # as above


@pytest.mark.parametrize(
    ("contrasts", "message"),
    [
        ([[1.0, 0.0]], r"contrasts must have shape \(q, 1\), a column for each coefficient, got \(1, 2\)"),
        ([[1.0], [2.0]], "linearly independent, got 2 rows of rank 1"),
        (np.ones((1, 1, 1)), "contrasts must have shape"),
        ([[np.nan]], "finite"),
        ("first", "contrasts must be numeric"),
    ],
)
def test_contrasts_that_do_not_fit(contrasts, message):
    with pytest.raises((ValueError, TypeError), match=message):
        jaxre.fit_many(outcomes(SIZES), designs.labels(SIZES), contrasts=contrasts)


def test_columns_of_contrasts_need_contrasts():
    with pytest.raises(ValueError, match="contrasts is missing"):
        jaxre.fit_many(outcomes(SIZES), designs.labels(SIZES), quantities="contrast_t")
    with pytest.raises(ValueError, match=r"has \['between_low'\], which method='anova'"):
        jaxre.fit_many(outcomes(SIZES), designs.labels(SIZES), method="anova", quantities=("contrast_t", "between_low"))


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
