"""Predictions as columns of `fit_many`: the numbers of `Fit.predict`."""

import designs
import numpy as np
import pandas
import pytest
from slow import slow

import jaxre
from jaxre.batches import _kernel
from jaxre.columns_of_groups import OF_PREDICTIONS

SIZES = [4, 2, 3, 4, 3, 5]
NAMES = np.array(["f", "e", "d", "c", "b", "a"])
GROUPS = NAMES[designs.labels(SIZES)]
X = designs.simulate(0, SIZES, p=3)[2]
ASKED = ["b", None, "e", "f"]
AT = np.array([[0.5, -1.0], [0.0, 2.0], [1.0, 1.0], [-3.0, 0.25]])


def outcomes():
    """(n, 4): complete, two with designs of their own, one of which has no row of group "e", and a constant."""
    columns = [designs.simulate(seed, SIZES, ratio)[0] for seed, ratio in enumerate((0.5, 2.0, 20.0))]
    values = np.column_stack([*columns, np.ones(sum(SIZES))])
    values[8, 1] = np.nan
    values[GROUPS == "e", 2] = np.nan
    return values


def check(found, place, expected):
    for column, name in OF_PREDICTIONS.items():
        # the estimates differ by 1e-12 of the variances; mean squared errors are differences of larger terms
        np.testing.assert_allclose(found[column][place], getattr(expected, name), 1e-8, 1e-10, err_msg=column)


@pytest.mark.parametrize(("method", "p"), [("reml", 3), slow("anova", 1)])
def test_a_matrix(method, p):
    values, x, at = outcomes(), X if p == 3 else None, AT if p == 3 else None
    words = {"method": method, "quantities": "icc", "level": 0.8}
    fits = jaxre.fit_many(values, GROUPS, x, predict_groups=ASKED, predict_covariates=at, **words)
    assert set(fits.inference) == set(OF_PREDICTIONS)
    assert fits.inference["prediction"].shape == (4, 4)
    for i in range(3):
        fit = jaxre.fit(values[:, i], GROUPS, x, method=method)
        check(fits.inference, i, fit.predict(["b", "new", "e", "f"], at, allow_new=True, level=0.8))
    assert all(np.isnan(table[3]).all() for table in fits.inference.values())
    table = fits.to_dict()
    np.testing.assert_array_equal(table["prediction_low[2]"], fits.inference["prediction_low"][:, 2])


def test_new_groups_of_datasets_with_designs_of_their_own():
    values = outcomes()
    items = [(column, GROUPS, X) for column in values.T]
    words = {"quantities": ("icc", "prediction_high", "prediction"), "predict_covariates": AT}
    long = (values.T.ravel(), np.tile(GROUPS, 4), np.tile(X, (4, 1)))
    for fits in (
        jaxre.fit_many(items, **words),
        jaxre.fit_many(*long, datasets=np.repeat(np.arange(4), len(GROUPS)), **words),
    ):
        assert set(fits.inference) == {"prediction_high", "prediction"}
        for i in range(3):
            expected = jaxre.fit(values[:, i], GROUPS, X).predict(["new"] * 4, AT, allow_new=True)
            np.testing.assert_allclose(fits.inference["prediction_high"][i], expected.high, rtol=1e-9)
            np.testing.assert_allclose(fits.inference["prediction"][i], expected.value, rtol=1e-9)
        assert np.isnan(fits.inference["prediction"][3]).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"predict_groups": ["a", "z"]}, "labels of the 6 groups, got 'z'; None is a new group"),
        ({"predict_groups": []}, "must have one length, 1 or more, got 0 and none"),
        ({"predict_groups": ["a"], "predict_covariates": np.ones((2, 0))}, "one length, 1 or more, got 1 and 2"),
        ({"predict_covariates": np.ones((2, 1))}, r"predict_covariates must have no columns, got \(2, 1\)"),
        ({"predict_covariates": np.ones(2)}, r"must have shape \(m, p - 1\), got \(2,\)"),
        ({"predict_covariates": [[np.nan], [1.0]]}, "must be finite, got 1 that are not"),
        ({"quantities": "prediction"}, r"\['prediction'\], but predict_groups is missing"),
    ],
)
def test_what_cannot_be_predicted(words, message):
    with pytest.raises(ValueError, match=message):
        jaxre.fit_many(outcomes(), GROUPS, **words)


def test_columns_of_a_data_frame_go_by_name():
    x = pandas.DataFrame({"u": X[:, 0], "kind": np.where(X[:, 1] > 0, "up", "down")})
    new = pandas.DataFrame({"kind": ["up", "down"], "u": [1.0, 10.0]})
    fits = jaxre.fit_many(outcomes(), GROUPS, x, predict_groups=["a", None], predict_covariates=new)
    expected = jaxre.fit(outcomes()[:, 0], GROUPS, x).predict(["a", None], new, allow_new=True)
    np.testing.assert_allclose(fits.inference["prediction"][0], expected.value, rtol=1e-9)
    one = jaxre.fit_many(outcomes(), GROUPS, X[:, :1], predict_covariates=[1.0, 2.0], quantities="prediction")
    assert one.inference["prediction"].shape == (4, 2)
    with pytest.raises(ValueError, match=r"covariates must have shape \(n, p - 1\), got \(21,\)"):
        jaxre.fit_many(outcomes(), GROUPS, X[:, 0], predict_covariates=[1.0])
    with pytest.raises(ValueError, match="predict_covariates must have the columns kind, u, got u: kind missing"):
        jaxre.fit_many(outcomes(), GROUPS, x, predict_covariates=new[["u"]])


def test_labels_of_dates_and_of_numbers():
    for labels in (np.datetime64("2020-01-01", "D") + designs.labels(SIZES), 1.5 * designs.labels(SIZES)):
        fits = jaxre.fit_many(outcomes(), labels, predict_groups=labels[[0, -1]], quantities="prediction")
        finer = labels.astype("datetime64[s]") if labels.dtype.kind == "M" else labels.tolist()
        again = jaxre.fit_many(outcomes(), finer, predict_groups=labels[[0, -1]], quantities="prediction")
        np.testing.assert_array_equal(fits.inference["prediction"], again.inference["prediction"])
        assert (np.diff(fits.inference["prediction"][1:3]) != 0).all()  # between is 0 in the first


def test_new_seeds_and_new_predictions_compile_nothing():
    values, words = outcomes(), {"quantities": ("blup", "prediction", "lr_statistic", "lr_p_value"), "draws": 10}
    jaxre.fit_many(values, GROUPS, X, predict_covariates=AT, seed=1, **words)
    before = _kernel.cache_info().misses
    jaxre.fit_many(values, GROUPS, X, predict_covariates=AT + 1, predict_groups=ASKED, seed=2, **words)
    assert _kernel.cache_info().misses == before


def test_covariates_are_needed_for_a_model_that_has_them():
    with pytest.raises(ValueError, match=r"predict_covariates must have shape \(1, 2\), a row for each"):
        jaxre.fit_many(outcomes(), GROUPS, X, predict_groups=["a"])
    items = [(outcomes()[:, 0], GROUPS)]
    with pytest.raises(ValueError, match="must be new groups, None, where datasets have designs of their own, got 'a'"):
        jaxre.fit_many(items, predict_groups=["a"])
    with pytest.raises(ValueError, match="predict_covariates must have no columns"):
        jaxre.fit_many(items, predict_covariates=[[1.0]])
