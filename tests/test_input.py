"""What users hand over: every form of the same data gives the same answer or the same refusal."""

import datetime

import jax
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import jaxre
from jaxre import Status

Y, G = np.array([3.0, 5.0, 11.0, 9.0, 7.0, 6.0, 1.0, 2.5]), list("aabbccdd")
BIG = 2**53


def refused(error, parts, call):
    with pytest.raises(error) as caught:
        call()
    assert all(part in str(caught.value) for part in parts), str(caught.value)


MASK = np.ma.array([1, 1, 2, 2, 3, 3, 9, 9], mask=[0] * 6 + [1, 1])
MASKED = {
    "integers": MASK,
    "text": np.ma.array(list("aabbcc??"), mask=[0] * 6 + [1, 1]),
    "pandas.NA": [1, 1, "b", "b", 3, 3, pd.NA, pd.NA],
    "None": [1, 1, "b", "b", 3, 3, None, None],
}


@pytest.mark.parametrize("labels", MASKED.values(), ids=MASKED)
def test_masked_labels_are_missing(labels):
    fit, many = jaxre.fit(Y, labels), jaxre.fit_many(Y[:, None], labels)
    assert (fit.dropped, len(fit.groups), many.rows.tolist(), len(many.groups)) == (2, 3, [6], 3)
    refused(ValueError, ["groups has 2 missing"], lambda: jaxre.fit(Y, labels, missing="raise"))


def test_masked_datasets_are_missing():
    table = np.concatenate([Y, Y]), G + G, np.ma.array([0] * 8 + [7] * 8, mask=[0] * 8 + [1] * 8)
    assert jaxre.fit_many(table[0], table[1], datasets=table[2]).names.tolist() == [0]


LARGE_LABELS = {
    "a float beside": [BIG, BIG, BIG + 1, BIG + 1, 3, 3, 4, 4.5],
    "NaN beside": [BIG, BIG, BIG + 1, BIG + 1, 3, 3, 4, float("nan")],
    "both signs": [2**63, 2**63, 2**63 + 1, 2**63 + 1, -1, -1, -2, -2],
    "pandas": pd.Series([BIG, BIG, BIG + 1, BIG + 1, 3, 3, 4, None], dtype="Int64"),
    "Arrow": pa.array([BIG, BIG, BIG + 1, BIG + 1, 3, 3, 4, None]),
}


@pytest.mark.parametrize("labels", LARGE_LABELS.values(), ids=LARGE_LABELS)
def test_integer_labels_that_no_double_tells_apart(labels):
    assert len(jaxre.fit(Y, labels).groups) == 4 + (labels[-1] == 4.5 if isinstance(labels, list) else 0)


def test_a_dictionary_that_holds_a_label_twice():
    labels = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, 2, 3, 3, 3, 2]), pa.array(["a", "a", "b", "c"]))
    assert jaxre.fit(Y, labels).groups.tolist() == ["a", "b", "c"]


INEXACT = {
    "NumPy": np.array([BIG + 1, 5, 11, 9, 7, 6, 1, 2]),
    "pandas": pd.Series([BIG + 1, 5, 11, 9, 7, 6, 1, None], dtype="Int64"),
    "Arrow": pa.array([BIG + 1, 5, 11, 9, 7, 6, 1, None]),
    "masked": np.ma.array([BIG + 1, 5, 11, 9, 7, 6, 1, 2], mask=[0] * 7 + [1]),
}


@pytest.mark.parametrize("values", INEXACT.values(), ids=INEXACT)
def test_integers_that_doubles_would_round(values):
    refused(ValueError, ["values has integers beyond 2^53", "subtract"], lambda: jaxre.fit(values, G))


def test_integers_that_doubles_would_round_in_a_matrix():
    """One dataset is invalid, its neighbour is not."""
    whole = np.column_stack([np.arange(8) ** 2, BIG + 1 + np.arange(8) ** 2])
    assert jaxre.fit_many(whole, G).status.tolist() == [jaxre.fit(whole[:, 0], G).status, Status.INVALID]


DAYS = np.arange("2020-01-01", "2020-01-09", dtype="datetime64[D]")
NOT_NUMBERS = {
    "masked complex": (np.ma.array(Y + 1j), ["real", "complex128"]),
    "masked dates": (np.ma.array(DAYS), ["numeric", "dates", "number of days"]),
    "masked text": (np.ma.array(["1", "2"] * 4), ["numeric", "text"]),
    "pandas text": (pd.Series(["1", "2"] * 4), ["numeric", "'1'"]),
    "a set": (set(range(1000)), ["numeric", "objects such as", "..."]),
    "Python dates": ([datetime.date(2020, 1, 1)] * 8, ["numeric", "objects such as"]),
}


@pytest.mark.parametrize(("values", "parts"), NOT_NUMBERS.values(), ids=NOT_NUMBERS)
def test_what_is_not_a_number_is_refused(values, parts):
    refused(TypeError, ["values must be", *parts], lambda: jaxre.fit(values, G))
    refused(TypeError, parts, lambda: jaxre.group_moments(values, G))


def test_a_category_of_integers_is_a_factor():
    doses = pd.DataFrame({"dose": pd.Categorical([1, 2, 4, 1, 2, 4, 1, 2])})
    assert jaxre.fit(Y, [0, 0, 0, 1, 1, 1, 2, 2], doses).coefficients == ("(Intercept)", "dose2", "dose4")


def test_names_of_covariates_that_are_there_twice():
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(8, 2)), columns=["a", "a"])
    refused(ValueError, ["two columns named 'a'", "rename"], lambda: jaxre.fit(Y, G, frame))


def test_the_constant_covariate_is_named():
    frame = pd.DataFrame({"dose": Y**2, "batch": 7.0})
    refused(ValueError, ["rank-deficient", "constant: 'batch'"], lambda: jaxre.fit(Y, G, frame))


@pytest.mark.parametrize("kind", [lambda frame: frame, pa.Table.from_pandas], ids=["pandas", "Arrow"])
def test_a_data_frame_of_outcomes(kind):
    """The columns' names are those of the datasets, whole numbers and holes as everywhere."""
    frame = pd.DataFrame({"A": Y, "B": pd.array([1, 2, 3, 5, None, 8, 13, 21], dtype="Int64")})
    fits = jaxre.fit_many(kind(frame), G)
    assert fits.names.tolist() == fits.to_dict()["dataset"].tolist() == ["A", "B"]
    assert fits.rows.tolist() == [8, 7]
    assert fits.between[1] == pytest.approx(jaxre.fit(frame.B, G).between, rel=1e-12)


def test_an_exact_tie_is_an_exact_zero():
    """Group means 1, 1, 1, 1/2: SSB / 3 = (3/8) / 3 = 1/8 = (1/2) / 4 = SSW / 4, so F = 1 and the root is 0."""
    y = np.array([1.0, 1, 1, 1, 1, 1, 0, 1])
    fits = jaxre.fit(y, G), jaxre.fit_many(y[:, None], G), jaxre.fit_many([(y, G)])
    for fit in fits:
        assert (np.ravel(fit.between), np.ravel(fit.status)) == (0.0, Status.BOUNDARY)


LONG = np.concatenate([Y, Y])
CALLS = {
    "quantities None": (lambda: jaxre.fit_many(Y[:, None], G, quantities=None), TypeError, ["quantities"]),
    "quantities 5": (lambda: jaxre.fit_many(Y[:, None], G, quantities=5), TypeError, ["quantities", "5"]),
    "mesh": (lambda: jaxre.fit_many(Y[:, None], G, mesh=5), TypeError, ["mesh", "Mesh", "int"]),
    "method array": (lambda: jaxre.fit_many(Y[:, None], G, method=np.array(["reml"])), ValueError, ["'reml'"]),
    "method array, one": (lambda: jaxre.fit(Y, G, method=np.array(["reml"])), ValueError, ["'reml'"]),
    "no rows, long": (lambda: jaxre.fit_many([], [], datasets=[]), ValueError, ["no label in 0 rows"]),
    "no datasets": (lambda: jaxre.fit_many(Y, G, datasets=[None] * 8), ValueError, ["no label in 8 rows"]),
    "datasets a string": (lambda: jaxre.fit_many(Y, G, datasets="D"), ValueError, ["datasets must be one-dim"]),
    "groups None": (lambda: jaxre.fit_many(list(Y), None, datasets=G), ValueError, ["groups is missing"]),
    "list labels": (lambda: jaxre.fit(Y, pa.array([[1]] * 8)), ValueError, ["groups must be one-dimensional"]),
    "data set": (lambda: jaxre.datasets.load(None), ValueError, ["no data set None", "dyestuff"]),
    "moments of what": (lambda: jaxre.reml(Y), TypeError, ["GroupMoments", "ndarray"]),
    "order of arguments": (
        lambda: jaxre.log_likelihood(jaxre.group_moments(Y, G), jaxre.Components(within=1.0, between=1.0)),
        TypeError,
        ["GroupMoments", "Components"],
    ),
    "effects of strata": (
        lambda: jaxre.blup(jaxre.stratify(jaxre.group_moments(Y, G)), jaxre.Components(within=1.0, between=1.0)),
        TypeError,
        ["group_moments", "Strata"],
    ),
    "optimizer": (lambda: jaxre.reml(jaxre.group_moments(Y, G), optimizer="adam"), TypeError, ["optax", "'adam'"]),
    "num_groups 0": (lambda: jaxre.group_moments(Y, [0] * 8, num_groups=0), ValueError, ["num_groups", "0"]),
    "num_groups 4.7": (lambda: jaxre.group_moments(Y, [0] * 8, num_groups=4.7), TypeError, ["float"]),
    "steps": (
        lambda: jaxre.alternating(jaxre.group_moments(Y, G), jaxre.Components(within=1.0, between=1.0), steps=-1),
        ValueError,
        ["steps", "-1"],
    ),
    "weights": (lambda: jaxre.blue([1.0, 2.0], [1.0]), ValueError, ["one length", "(2,)", "(1,)"]),
    "share": (lambda: jaxre.share(1.5), TypeError, ["float"]),
}


@pytest.mark.parametrize(("call", "error", "parts"), CALLS.values(), ids=CALLS)
def test_wrong_arguments_are_named(call, error, parts):
    refused(error, parts, call)


def test_an_infinite_covariate_makes_that_dataset_invalid():
    x = np.random.default_rng(0).normal(size=(8, 1))
    fits = jaxre.fit_many([(Y, G, x), (Y, G, np.full((8, 1), np.inf))])
    assert fits.status.tolist() == [jaxre.fit(Y, G, x).status, Status.INVALID]


def test_dates_as_labels_in_json():
    assert jaxre.fit(Y, np.repeat(DAYS[:4], 2)).to_dict()["labels"][:2] == ["2020-01-01", "2020-01-02"]


def test_a_data_frame_made_of_an_array():
    rng = np.random.default_rng(3)
    y, x, groups = rng.normal(size=20), rng.normal(size=(20, 2)), np.repeat(np.arange(5), 4)
    framed = jaxre.fit(y, groups, pd.DataFrame(x))
    assert framed.coefficients == ("(Intercept)", "0", "1")
    assert framed.between == jaxre.fit(y, groups, x).between
    many = jaxre.fit_many(pd.DataFrame(np.column_stack([y, 2 * y])), groups, pd.DataFrame(x))
    np.testing.assert_allclose(many.between, [framed.between, 4 * framed.between], rtol=1e-12)


def test_traced_values_are_told_what_to_use():
    groups = np.repeat(np.arange(5), 4)
    refused(
        TypeError, ["values", "jit", "group_moments"], lambda: jax.jit(lambda y: jaxre.fit(y, groups).icc)(np.ones(20))
    )


@pytest.mark.parametrize("level", ["0.95", None, [0.9, 0.95], 1.5])
def test_a_level_that_is_none(level):
    fit = jaxre.fit([3.0, 5.0, 11.0, 9.0, 7.0, 6.0], [0, 0, 1, 1, 2, 2])
    refused(ValueError, ["level", "0.95"], lambda: fit.exact_interval(level))


@pytest.mark.parametrize("contrasts", [np.zeros((0, 1)), [[np.nan]]], ids=["none", "NaN"])
def test_contrasts_that_are_none(contrasts):
    fit = jaxre.fit([3.0, 5.0, 11.0, 9.0, 7.0, 6.0], [0, 0, 1, 1, 2, 2])
    refused(ValueError, ["contrasts", "finite"], lambda: fit.contrast_test(contrasts))


def test_known_variances_whose_squares_vanish_are_out_of_range():
    effects, variances = np.array([0.1, 0.3, 0.35, 0.65]), np.array([0.03, 0.03, 0.05, 0.01])
    assert jaxre.fit_meta(effects, variances * 1e-130).tau2 == pytest.approx(0.155 / 3, rel=1e-12)
    refused(ValueError, ["out of range"], lambda: jaxre.fit_meta(effects, variances * 1e-160))
