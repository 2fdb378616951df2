"""Tables of a fit: the numbers of the functions behind them, in columns that any data frame takes."""

import narwhals
import numpy as np
import pytest
from designs import SIZES, simulate
from slow import slow

import jaxre

METHODS = ("reml", slow("ml"), "anova")


def a_fit(method="reml", p=2):
    y, groups, x = simulate(3, SIZES["unequal"], 1.0, p=p)
    return jaxre.fit(y, np.array(list("fedcba"))[groups], x, method=method)


@pytest.mark.parametrize("method", METHODS)
def test_terms(method):
    fit = a_fit(method)
    table = fit.tidy(level=0.9)
    assert table["term"].tolist() == [
        "(Intercept)",
        "x1",
        "between",
        "within",
        "sd_between",
        "sd_within",
        "ratio",
        "icc",
    ]
    assert table["effect"].tolist() == ["fixed"] * 2 + ["random"] * 6
    row = lambda term: {name: column[table["term"].tolist().index(term)] for name, column in table.items()}
    inference = fit.inference(0.9)
    tests, exact, test = inference.coefficients, inference.interval, inference.f_test
    for i, name in enumerate(fit.coefficients):
        found = row(name)
        assert found["p_value"] == pytest.approx(tests.p_value[i], rel=1e-12)
        assert (found["low"], found["high"]) == pytest.approx((tests.low[i], tests.high[i]), rel=1e-12)
        assert found["interval"] == ("kenward-roger" if method == "reml" else "satterthwaite")
    assert row("icc")["estimate"] == fit.icc
    assert (row("icc")["low"], row("icc")["high"]) == pytest.approx((exact.icc_low, exact.icc_high), rel=1e-12)
    assert row("between")["p_value"] == pytest.approx(test.p_value, rel=1e-12)
    for name in ("between", "sd_within"):
        found = fit.wald_interval(name, 0.9) if method == "anova" else inference.variances[name]
        assert (row(name)["low"], row(name)["high"]) == pytest.approx((found.low, found.high), rel=1e-12)
        assert row(name)["interval"] == ("wald" if method == "anova" else "profile")
    assert row("sd_between")["estimate"] == pytest.approx(np.sqrt(fit.between), rel=1e-15)
    # the same relative error twice over: d log sd = d log variance / 2
    for name in ("between", "within"):
        ratio = row(name)["std_error"] / row(name)["estimate"]
        assert row(f"sd_{name}")["std_error"] / row(f"sd_{name}")["estimate"] == pytest.approx(ratio / 2, rel=1e-14)


def test_one_row_for_the_fit():
    fit = a_fit()
    table = fit.glance()
    assert {len(column) for column in table.values()} == {1}
    assert table["aic"][0] == pytest.approx(fit.criterion + 2 * 4, rel=1e-13)
    assert table["method"][0] == "reml"
    assert (table["n"][0], table["groups"][0], table["icc"][0]) == (21, 6, fit.icc)


def test_a_row_for_each_group():
    fit = a_fit()
    table, found = fit.tidy_groups(0.8), fit.group_effects(0.8)
    assert table["group"].tolist() == fit.groups.tolist()
    np.testing.assert_allclose(table["effect"], fit.blup, rtol=1e-10)
    np.testing.assert_array_equal(table["mean_low"], found.mean_low)
    assert table["expected_rank"].sum() == pytest.approx(21, rel=1e-12)  # ranks 1 to 6, shared out


def test_a_row_for_each_observation():
    fit = a_fit()
    table = fit.augment()
    np.testing.assert_allclose(table["fitted"] + table["residual"], table["value"], rtol=1e-13)
    expected = fit.beta[0] + fit.beta[1] * table["x1"]
    np.testing.assert_allclose(table["marginal_fitted"], expected, rtol=1e-11)
    effect = dict(zip(fit.groups.tolist(), fit.blup.tolist(), strict=True))
    np.testing.assert_allclose(
        table["fitted"], expected + [effect[label] for label in table["group"].tolist()], rtol=1e-11
    )


@pytest.mark.parametrize("backend", ["pandas", "pyarrow"])
def test_any_data_frame_takes_them(backend):
    fit = a_fit()
    for table in (fit.tidy(), fit.glance(), fit.tidy_groups(), fit.augment()):
        frame = narwhals.from_dict(table, backend=backend)
        assert frame.columns == list(table)
        for name, column in table.items():
            np.testing.assert_array_equal(frame[name].to_numpy(), column)


def test_labels_that_are_no_text():
    y, groups, _ = simulate(3, SIZES["unequal"], 1.0)
    days = np.array(["2024-01-0" + str(i + 1) for i in range(6)], "datetime64[D]")
    assert jaxre.fit(y, days[groups]).tidy_groups()["group"].tolist() == days.tolist()
