"""Group effects with their intervals as columns of `fit_many`: the numbers of `Fit.group_effects`."""

import sys

import designs
import jax
import numpy as np
import pytest
from slow import slow

import jaxre
from jaxre.columns_of_groups import CHECKS, OF_BETA, OF_DELETIONS, OF_EFFECTS

SIZES = [4, 2, 3, 4, 3, 5]
GROUPS = designs.labels(SIZES)


def outcomes():
    """(n, 5): at between = 0, inside, two with designs of their own, one of which has no row of a group, a constant."""
    columns = [designs.simulate(seed, SIZES, ratio)[0] for seed, ratio in enumerate((0.0, 0.5, 2.0, 20.0))]
    values = np.column_stack([*columns, np.ones(sum(SIZES))])
    values[:, 0] -= jaxre.fit(values[:, 0], GROUPS).blup[GROUPS] * 2
    values[8, 2] = np.nan
    values[GROUPS == 1, 3] = np.nan
    return values


def check(found, place, fit, level):
    """Of the groups that the dataset has; the others are NaN."""
    expected, here = fit.group_effects(level), np.isin(np.arange(6), fit.groups)
    for column, name in OF_EFFECTS.items():
        truth = fit.expected_ranks() if column == "group_expected_rank" else getattr(expected, name)
        # the estimates differ by 1e-12 of the variances; mean squared errors are differences of larger terms
        np.testing.assert_allclose(found[column][place][here], truth, 1e-8, 1e-10, err_msg=column)
        assert np.isnan(found[column][place][~here]).all()


@pytest.mark.parametrize(("method", "p"), [("reml", 3), slow("ml", 1), slow("anova", 1)])
def test_a_matrix(method, p):
    values, x = outcomes(), designs.simulate(0, SIZES, p=3)[2] if p == 3 else None
    fits = jaxre.fit_many(values, GROUPS, x, method=method, quantities=("icc", "blup", *OF_EFFECTS), level=0.8)
    assert set(fits.inference) == set(OF_EFFECTS)
    assert fits.between is None
    for i in range(4):
        fit = jaxre.fit(values[:, i], GROUPS, x, method=method)
        check(fits.inference, i, fit, 0.8)
        np.testing.assert_allclose(fits.blup[i][fit.groups], fit.blup, 1e-9, 1e-10)
    assert all(np.isnan(table[4]).all() for table in fits.inference.values())


def check_criticism(found, place, fit, here):
    """What leaving out each group does, and the checks; `here` are the groups that the dataset has."""
    left_out, rows = fit.influence(), fit.homogeneity_check()
    for column, name in OF_DELETIONS.items():
        # refits whose variances may differ by 1e-12 of their sum; Cook's distance is quadratic in a difference
        np.testing.assert_allclose(found[column][here], getattr(left_out, name), 1e-7, 1e-9, err_msg=column)
    of = {"spread": rows, "residuals": fit.normality_check(), "effects": fit.normality_check("effects")}
    for column, (check_of, name) in CHECKS.items():
        expected = getattr(of[check_of], name)
        np.testing.assert_allclose(found[column][place], expected, 1e-8, 1e-9, err_msg=column)


@pytest.mark.parametrize(("method", "p"), [("reml", 3), slow("ml", 1), slow("anova", 1)])
def test_criticism_of_a_matrix(method, p):
    values, x = outcomes(), designs.simulate(0, SIZES, p=3)[2] if p == 3 else None
    fits = jaxre.fit_many(values, GROUPS, x, method=method, quantities=("icc", *OF_DELETIONS, *CHECKS))
    assert fits.inference[OF_BETA].shape == (5, 6, p)
    for i in range(4):
        fit = jaxre.fit(values[:, i], GROUPS, x, method=method)
        check_criticism(fits.inference, i, fit, (i, fit.groups))
        gone = np.setdiff1d(np.arange(6), fit.groups)
        assert all(np.isnan(fits.inference[column][i, gone]).all() for column in OF_DELETIONS)
    assert all(np.isnan(table[4]).all() for table in fits.inference.values())
    rows = fits.tidy_groups()
    np.testing.assert_array_equal(rows[f"{OF_BETA}[(Intercept)]"], fits.inference[OF_BETA][:, :, 0].ravel())
    assert set(CHECKS) < set(fits.to_dict())
    assert OF_BETA not in fits.to_dict()


def test_deletions_in_blocks_are_those_at_once(x64, monkeypatch):
    """Several groups at a time where a vmap has many datasets: no number depends on how many, but for rounding."""
    values, whole = outcomes()[:, :2].T, jax.jit(jax.vmap(lambda y: jaxre.influence(y, GROUPS, num_groups=6)))
    expected = whole(values)
    monkeypatch.setattr(
        sys.modules["jaxre.influence"], "TRACED_ENTRIES", 3 * 6 * 2**2
    )  # three at a time, the last block filled up
    found = jax.jit(jax.vmap(lambda y: jaxre.influence(y, GROUPS, num_groups=6)))(values)
    for name in ("cook", "beta_change", "log_within_change"):
        assert getattr(found, name).shape == getattr(expected, name).shape
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), 1e-9, 1e-11)


@pytest.mark.parametrize("p", [1, slow(3)])
def test_criticism_of_designs_of_their_own(p):
    values, x = outcomes()[:, 1:], designs.simulate(0, SIZES, p=3)[2] if p == 3 else None
    items = [(column, GROUPS, x) for column in values.T]
    fits = jaxre.fit_many(items, quantities=("icc", *OF_DELETIONS, *CHECKS))
    ends = np.cumsum([0, *fits.group_counts])
    for i in range(3):
        check_criticism(fits.inference, i, jaxre.fit(values[:, i], GROUPS, x), slice(ends[i], ends[i + 1]))
    assert np.isnan(fits.inference["homogeneity_p_value"][3])
    assert np.isnan(fits.inference["group_cook"][ends[3] :]).all()
    assert len(fits.tidy_groups()[f"{OF_BETA}[(Intercept)]"]) == ends[-1]


@pytest.mark.slow
def test_without_the_effects_themselves_and_with_other_inference():
    values = outcomes()
    fits = jaxre.fit_many(values, GROUPS, quantities=("group_mean_low", "f_p_value", "lr_p_value"), draws=1000)
    assert fits.blup is None
    assert set(fits.inference) == {"group_mean_low", "f_p_value", "lr_p_value"}
    for i in (1, 2):
        fit = jaxre.fit(values[:, i], GROUPS)
        np.testing.assert_allclose(fits.inference["group_mean_low"][i], fit.group_effects().mean_low, rtol=1e-9)
        np.testing.assert_allclose(fits.inference["f_p_value"][i], fit.f_test().p_value, rtol=1e-9)
        expected = fit.likelihood_ratio_test(draws=1000).p_value  # a mean of zeros and ones, rounded
        np.testing.assert_allclose(fits.inference["lr_p_value"][i], expected, rtol=1e-14)
    assert set(fits.to_dict()) >= {"f_p_value", "lr_p_value"}
    assert "group_mean_low" not in fits.to_dict()


def test_not_one_value_is_there():
    names = ("blup", "group_cook", OF_BETA, "homogeneity_p_value", "prediction")
    fits = jaxre.fit_many(np.full((4, 2), np.nan), [0, 0, 1, 1], quantities=names, predict_groups=[0])
    assert [jaxre.Status(code).name for code in fits.status] == ["INVALID", "INVALID"]
    assert np.isnan(fits.blup).all()
    assert all(np.isnan(table).all() for table in fits.inference.values())


def test_long_tables_and_iterables():
    """Datasets have groups of their own, one dataset's after the other's."""
    values = outcomes()[:, 1:]
    items = [(column, GROUPS) for column in values.T]
    words = {"quantities": ("icc", "blup_high", "group_rank", "group_expected_rank"), "level": 0.8}
    table = jaxre.fit_many(values.T.ravel(), np.tile(GROUPS, 4), datasets=np.repeat(np.arange(4), len(GROUPS)), **words)
    for fits in (jaxre.fit_many(items, **words), table):
        ends = np.cumsum([0, *fits.group_counts])
        for i in range(3):
            single, here = jaxre.fit(values[:, i], GROUPS), slice(ends[i], ends[i + 1])
            expected = single.group_effects(0.8)
            np.testing.assert_allclose(fits.inference["blup_high"][here], expected.effect_high, rtol=1e-9)
            np.testing.assert_array_equal(fits.inference["group_rank"][here], expected.rank)
            np.testing.assert_array_equal(fits.inference["group_expected_rank"][here], single.expected_ranks())
        assert np.isnan(fits.inference["blup_high"][ends[3] :]).all()
        rows = fits.tidy_groups()
        assert list(rows) == ["dataset", "group", "blup_high", "group_rank", "group_expected_rank"]
        np.testing.assert_array_equal(rows["dataset"], np.repeat(np.arange(4), fits.group_counts))


def test_the_table_of_a_matrix_has_them_all():
    fits = jaxre.fit_many(outcomes(), GROUPS, quantities=("blup_low", "blup", "group_mean", "group_expected_rank"))
    rows = fits.tidy_groups()
    assert list(rows) == ["dataset", "group", "blup", "blup_low", "group_mean", "group_expected_rank"]
    np.testing.assert_array_equal(rows["blup_low"].reshape(5, 6), fits.inference["blup_low"])
