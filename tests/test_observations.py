"""Bad input is refused with its number and its remedy; labels of every kind are read right."""

import datetime
import re

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import jaxre
from jaxre import observations

Y = np.array([3.0, 5.0, 11.0, 9.0, 7.0, 6.0, 8.0, 12.0])
G = np.array([0, 0, 1, 1, 2, 2, 1, 0])
X = np.array([0.5, 1.0, -2.0, 3.0, 0.0, 1.5, 2.5, -1.0]).reshape(-1, 1)


def put(array, entries):
    """A copy with entries replaced: {index: value}."""
    changed = array.astype(float)
    for index, value in entries.items():
        changed[index] = value
    return changed


def refused(error, parts, *args, **options):
    """`fit` raises `error` with a message that has every one of `parts`, in this order."""
    with pytest.raises(error, match="(?s)" + ".*".join(map(re.escape, parts))):
        jaxre.fit(*args, **options)


WRONG = {
    "two-dimensional values": (ValueError, (Y.reshape(4, 2), G), ["one-dimensional", "(4, 2)", "pass one outcome"]),
    "no rows": (ValueError, ([], []), ["no rows", "needs at least"]),
    "groups too short": (ValueError, (Y, G[:5]), ["values and groups", "8 and 5"]),
    "covariates too short": (ValueError, (Y, G, X[:7]), ["values and covariates", "8 and 7"]),
    "one-dimensional covariates": (ValueError, (Y, G, X[:, 0]), ["(n, p - 1)", "(8,)", "x.reshape(-1, 1)"]),
    "two-dimensional groups": (ValueError, (Y, G.reshape(4, 2)), ["groups", "one-dimensional", "(4, 2)"]),
    "complex values": (TypeError, (Y + 1j, G), ["values must be real", "complex128", "pass the real part"]),
    "complex covariates": (TypeError, (Y, G, X + 1j), ["covariates must be real", "complex128"]),
    "object values": (TypeError, (Y.astype(object), G), ["values must be numeric", "objects", "dtype=float"]),
    "None in values": (TypeError, ([3.0, None, *Y[2:]], G), ["values must be numeric", "None", "dtype=float"]),
    "text values": (TypeError, (Y.astype(str), G), ["values must be numeric", "text", "dtype=float"]),
    "text covariates": (TypeError, (Y, G, X.astype(str)), ["covariates must be numeric", "text"]),
    "dates as values": (TypeError, (Y.astype("M8[D]"), G), ["values must be numeric", "dates"]),
    "unhashable labels": (TypeError, (Y, [{"a": 1}] * 8), ["groups must be hashable", "dict", "strings or integers"]),
    "integers beyond doubles": (ValueError, ([2**60 + 1, *range(7)], G), ["2^53", str(2**60 + 1), "subtract"]),
    "infinite value": (ValueError, (put(Y, {3: np.inf}), G), ["values must be finite", "1 infinite", "index 3"]),
    "infinite values": (ValueError, (put(Y, {2: -np.inf, 5: np.inf}), G), ["2 infinite", "index 2", "remove"]),
    "infinite covariate": (ValueError, (Y, G, put(X, {(4, 0): np.inf})), ["covariates", "1 infinite", "(4, 0)"]),
    "infinite beside missing": (ValueError, (put(Y, {0: np.nan, 6: np.inf}), G), ["1 infinite", "index 6"]),
    "all missing": (ValueError, (np.full(8, np.nan), G), ["no rows are left", "all 8"]),
    "all labels missing": (ValueError, (Y, [None] * 8), ["no rows are left", "all 8"]),
}


@pytest.mark.parametrize(("error", "args", "parts"), WRONG.values(), ids=WRONG)
def test_wrong_input(error, args, parts):
    refused(error, parts, *args)


MISSING = {
    "values": ((put(Y, {1: np.nan, 6: np.nan}), G), ["values", "2 missing", "index 1", "missing='drop'"]),
    "covariates": ((Y, G, put(X, {(5, 0): np.nan})), ["covariates", "1 missing", "(5, 0)", "missing='drop'"]),
    "groups": ((Y, [None if g == 2 else g for g in G.tolist()]), ["groups", "2 missing", "index 4", "missing='drop'"]),
}


@pytest.mark.parametrize(("args", "parts"), MISSING.values(), ids=MISSING)
def test_missing_under_raise(args, parts):
    refused(ValueError, parts, *args, missing="raise")


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"method": "mle"}, ["method must be one of", "'reml'", "'ml'", "'anova'", "'mle'"]),
        ({"method": None}, ["method must be one of", "None"]),
        ({"missing": "ignore"}, ["missing must be 'drop' or 'raise'", "'ignore'"]),
    ],
)
def test_unknown_option(options, parts):
    refused(ValueError, parts, Y, G, **options)


HOLED = put(Y, {1: np.nan, 6: np.nan})
NUMBERS = {
    "list": HOLED.tolist(),
    "single precision": HOLED.astype(np.float32),
    "jax": jnp.asarray(HOLED, jnp.float32),
    "pandas": pd.Series(HOLED, index=range(8, 0, -1)),
    "pandas nullable": pd.Series([pd.NA if np.isnan(v) else v for v in HOLED], dtype="Float64"),
    "pandas nullable integers": pd.Series([pd.NA if np.isnan(v) else int(v) for v in HOLED], dtype="Int64"),
    "masked": np.ma.masked_invalid(HOLED),
    "arrow": pa.array([None if np.isnan(v) else v for v in HOLED]),
}


@pytest.mark.parametrize("values", NUMBERS.values(), ids=NUMBERS)
def test_kinds_of_numbers(values):
    """Whole numbers, so that single precision holds them exactly."""
    fit, plain = jaxre.fit(values, G, method="anova"), jaxre.fit(HOLED, G, method="anova")
    assert (fit.n, fit.dropped) == (6, 2)
    assert (fit.between_untruncated, fit.within) == (plain.between_untruncated, plain.within)


@pytest.mark.parametrize("columns", [["dose"], ["dose", "age"]])
def test_names_of_covariates(columns):
    frame = pd.DataFrame({"dose": X[:, 0], "age": Y**2})[columns]
    fit = jaxre.fit(Y, G, frame, method="anova")
    assert fit.coefficients == ("(Intercept)", *columns)
    assert fit.beta.tolist() == jaxre.fit(Y, G, frame.to_numpy(), method="anova").beta.tolist()


def test_no_covariates_is_the_intercept_alone():
    assert jaxre.fit(Y, G, np.empty((8, 0))).beta.tolist() == jaxre.fit(Y, G).beta.tolist()


NINE = np.repeat([0, 1, 2], 3)
Z = np.array(
    [[0.3, 1.0], [1.0, 0.2], [2.0, 1.0], [0.5, 0.7], [3.0, 0.0], [1.0, 2.0], [2.5, 1.0], [0.1, 0.9], [4.0, 2.0]]
)
Z3 = np.column_stack([Z, Z.sum(axis=1)])
NINE_Y = np.array([1.0, 2.0, 4.0, 3.0, 7.0, 5.0, 9.0, 6.0, 8.0])
DUMMIES = (NINE[:, None] == [1, 2]).astype(float)

DEGENERATE = {
    "single group": ((Y, ["a"] * 8), ["not identified", "8 rows in 1 group", "a single group"]),
    "groups of size one": ((Y, range(8)), ["not identified", "8 rows in 8 groups", "all groups of size one"]),
    "one row": (([1.0], ["a"]), ["1 rows in 1 group"]),
    "two rows": (([1.0, 2.0], ["a", "b"]), ["not identified", "all groups of size one"]),
    "a single group left": (
        (put(Y, dict.fromkeys([0, 1, 4, 5, 7], np.nan)), G),
        ["3 rows in 1 group", "a single group"],
    ),
    "constant outcome": ((np.full(8, 0.1), G), ["constant outcome", "every value 0.1"]),
    "constant covariate": ((NINE_Y, NINE, np.full((9, 1), 3.0)), ["rank-deficient", "drop it", "9 rows in 3 groups"]),
    "duplicate covariate": ((NINE_Y, NINE, Z[:, [0, 1, 0]]), ["rank-deficient", "drop it"]),
    "x3 = x1 + x2": ((NINE_Y, NINE, Z3), ["rank-deficient", "drop it"]),
    "x3 = x1 + x2, scaled": ((NINE_Y, NINE, Z3 * [1e9, 1e-9, 1.0]), ["rank-deficient", "drop it"]),
    "three constants": ((NINE_Y, NINE, np.outer(NINE_Y**0, [7.0, 0.0, 1e9])), ["rank-deficient", "drop it"]),
    "constants and data": (
        (NINE_Y, NINE, np.column_stack([np.full(9, 794.0), np.zeros(9), NINE_Y**2, 1e8 + NINE_Y**3])),
        ["rank-deficient", "drop it"],
    ),
    "covariates that span the groups": ((NINE_Y, NINE, DUMMIES), ["not identified", "do not span the groups"]),
    "no row left within": ((Y[:4], [0, 0, 1, 1], X[:4] ** [1, 2]), ["not identified"]),
    "repeated within groups": (([1.0, 1.0, 2.0, 2.0, 5.0, 5.0], [0, 0, 1, 1, 2, 2]), ["unbounded", "repeated rows"]),
    "explained within groups": ((X[:, 0] + G, G, X), ["unbounded", "no variation within the groups"]),
}


@pytest.mark.parametrize("method", ["reml", "ml", "anova"])
@pytest.mark.parametrize(("args", "parts"), DEGENERATE.values(), ids=DEGENERATE)
def test_no_estimate(args, parts, method):
    """Whatever the coordinates: a rank is decided to the precision of the input."""
    refused(ValueError, parts, *args, method=method)


def days(numbers):
    return np.datetime64("2024-01-01") + np.array(numbers, "timedelta64[D]")


@pytest.mark.parametrize("seed", range(12))
def test_an_outcome_that_the_covariates_explain_up_to_rounding(seed):
    """What is left within groups is the rounding of y itself: no variance can be read from that."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(range(4), 5)
    covariates = rng.normal(size=(20, 2)) + [10, 0]
    refused(ValueError, ["unbounded"], covariates @ [0.3, 0.7] + rng.normal(size=4)[groups], groups, covariates)


# One label a row for Y, in eight spellings of the groups c, a, b of G: sizes 3, 3, 2 in order of first appearance.
NAMES = np.array(["c", "a", "b"])
CATEGORIES = pd.Categorical(NAMES[G], categories=["zero", "a", "b", "c", "unused"])
KINDS = {
    "strings": (NAMES[G].tolist(), ["c", "a", "b"]),
    "numpy strings": (NAMES[G], ["c", "a", "b"]),
    "object strings": (NAMES[G].astype(object), ["c", "a", "b"]),
    "bytes": (NAMES[G].astype(bytes), [b"c", b"a", b"b"]),
    "integers with gaps": (np.array([70, 3, 1000])[G], [70, 3, 1000]),
    "negative integers": (np.array([-5, 12, -300])[G], [-5, 12, -300]),
    "small integers": (np.array([200, 3, 255], np.uint8)[G], [200, 3, 255]),
    "integers 1e15 apart": (np.array([10**15, -3, 5 * 10**15])[G], [10**15, -3, 5 * 10**15]),
    "integers at the ends": (np.array([2**63 - 1, -(2**63), 0])[G], [2**63 - 1, -(2**63), 0]),
    "unsigned at the end": (
        np.array([2**64 - 1, 2**64 - 3, 2**64 - 2], np.uint64)[G],
        [2**64 - 1, 2**64 - 3, 2**64 - 2],
    ),
    "integers beyond 64 bits": (np.array([2**70, -1, 3], object)[G].tolist(), [2**70, -1, 3]),
    "floats": (np.array([0.5, -0.25, 1e300])[G], [0.5, -0.25, 1e300]),
    "tuples": ([[("c", 1), ("a",), ("b", 2)][g] for g in G], [("c", 1), ("a",), ("b", 2)]),
    "tuples of one length": ([[("c", 1), ("a", 1), ("b", 2)][g] for g in G], [("c", 1), ("a", 1), ("b", 2)]),
    "dates": (days([40, 3, 7])[G], list(days([40, 3, 7]))),
    "date objects": ([datetime.date(2024, 1, 9 - g) for g in G], [datetime.date(2024, 1, d) for d in (9, 8, 7)]),
    "text and numbers": ([["1", 1, "b"][g] for g in G], ["1", 1, "b"]),
    "pandas series": (pd.Series(NAMES[G]), ["c", "a", "b"]),
    "pandas series, other index": (pd.Series(NAMES[G], index=range(8, 0, -1)), ["c", "a", "b"]),
    "pandas nullable integers": (pd.Series(np.array([7, 3, 9])[G], dtype="Int64"), [7, 3, 9]),
    "categorical": (CATEGORIES, ["c", "a", "b"]),
    "categorical series": (pd.Series(CATEGORIES), ["c", "a", "b"]),
    "arrow": (pa.array(NAMES[G]), ["c", "a", "b"]),
    "arrow integers": (pa.array(np.array([70, 3, 1000])[G]), [70, 3, 1000]),
    "arrow chunks": (pa.chunked_array([NAMES[G[:3]], NAMES[G[3:]]]), ["c", "a", "b"]),
    "arrow dictionary": (pa.DictionaryArray.from_arrays(G, pa.array(["c", "a", "b", "unused"])), ["c", "a", "b"]),
    "arrow dictionary chunks": (
        pa.chunked_array(
            [
                pa.DictionaryArray.from_arrays(pa.array([1, 1, 0]), pa.array(["a", "c"])),
                pa.DictionaryArray.from_arrays(pa.array(G[3:]), pa.array(["c", "a", "b"])),
            ]
        ),
        ["c", "a", "b"],
    ),
}


@pytest.mark.parametrize(("groups", "expected"), KINDS.values(), ids=KINDS)
def test_kinds_of_labels(groups, expected):
    """Labels in order of first appearance with their sizes, and the fit of the integer codes, bit by bit."""
    fit, plain = jaxre.fit(Y, groups, method="anova"), jaxre.fit(Y, G, method="anova")
    assert list(fit.groups) == expected
    assert fit.sizes.tolist() == [3, 3, 2]
    assert fit.blup.tolist() == plain.blup.tolist()
    assert fit.blup_se.tolist() == plain.blup_se.tolist()
    assert (fit.between, fit.within, fit.dropped) == (plain.between, plain.within, 0)


def test_booleans():
    fit = jaxre.fit(Y, G == 1, method="anova")
    assert fit.groups.tolist() == [False, True]
    assert fit.sizes.tolist() == [5, 3]


def with_gap(labels, gap):
    """The labels of KINDS with row 2 missing, which is the first of group a."""
    return [gap if i == 2 else label for i, label in enumerate(labels)]


ABSENT = {
    "None": (with_gap(NAMES[G].tolist(), None), ["c", "a", "b"]),
    "NaN": (with_gap(np.array([0.5, 1.5, 2.5])[G].tolist(), np.nan), [0.5, 1.5, 2.5]),
    "NaN among strings": (with_gap(NAMES[G].tolist(), float("nan")), ["c", "a", "b"]),
    "float array": (np.array(with_gap(np.array([0.5, 1.5, 2.5])[G], np.nan)), [0.5, 1.5, 2.5]),
    "NaT": (np.array(with_gap(days([4, 3, 2])[G], np.datetime64("NaT", "D"))), list(days([4, 3, 2]))),
    "pandas None": (pd.Series(with_gap(NAMES[G].tolist(), None)), ["c", "a", "b"]),
    "pandas NA": (pd.Series(with_gap(np.array([7, 3, 9])[G].tolist(), pd.NA), dtype="Int64"), [7, 3, 9]),
    "pandas strings": (pd.Series(with_gap(NAMES[G].tolist(), pd.NA), dtype="string"), ["c", "a", "b"]),
    "categorical": (
        pd.Categorical(with_gap(NAMES[G].tolist(), None), categories=["a", "b", "c", "u"]),
        ["c", "a", "b"],
    ),
    "arrow": (pa.array(with_gap(NAMES[G].tolist(), None)), ["c", "a", "b"]),
    "arrow chunks": (pa.chunked_array([["c"], ["c", None, "a", "b"], ["b", "a", "c"]]), ["c", "a", "b"]),
    "arrow dictionary": (
        pa.DictionaryArray.from_arrays(pa.array(with_gap(G.tolist(), None)), pa.array(["c", "a", "b", "unused"])),
        ["c", "a", "b"],
    ),
    "arrow dictionary of null": (
        pa.DictionaryArray.from_arrays(pa.array(with_gap(G.tolist(), 3)), pa.array(["c", "a", "b", None])),
        ["c", "a", "b"],
    ),
}


@pytest.mark.parametrize(("groups", "expected"), ABSENT.values(), ids=ABSENT)
def test_missing_labels_are_dropped_and_counted(groups, expected):
    keep = np.arange(8) != 2
    fit, plain = jaxre.fit(Y, groups, method="anova"), jaxre.fit(Y[keep], G[keep], method="anova")
    assert (fit.n, fit.dropped, plain.dropped) == (7, 1, 0)
    assert list(fit.groups) == expected
    assert fit.sizes.tolist() == plain.sizes.tolist()
    assert fit.blup.tolist() == plain.blup.tolist()


def test_a_group_without_rows_left_is_gone():
    """Every row of group 1 lacks its outcome: the group is not listed, and the order is that of the rows kept."""
    fit = jaxre.fit(put(Y, {0: np.nan, 2: np.nan, 3: np.nan, 6: np.nan}), NAMES[G])
    assert fit.groups.tolist() == ["c", "b"]
    assert fit.sizes.tolist() == [2, 2]
    assert (fit.n, fit.dropped) == (4, 4)


@pytest.mark.parametrize("columns", [7, 9])
def test_more_coefficients_than_rows(columns):
    x = np.random.default_rng(0).normal(size=(8, columns))
    with pytest.raises(ValueError, match=f"not identified: covariates has {columns} columns.* for 8 complete rows"):
        jaxre.fit(Y, G, x)


def test_ragged_covariates():
    with pytest.raises(ValueError, match="covariates must have rows of one length, got ragged ones"):
        jaxre.fit(Y, G, [[1.0, 2.0]] + [[1.0]] * 7)


@pytest.mark.parametrize("kind", [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint64])
def test_integers_over_the_whole_range_of_their_type(kind):
    low, high = np.iinfo(kind).min, np.iinfo(kind).max
    labels = np.linspace(low, high, 200).astype(kind) if np.iinfo(kind).bits <= 16 else low + np.arange(200, dtype=kind)
    labels = np.repeat(np.unique(labels), 2)
    fit = jaxre.fit(np.random.default_rng(0).normal(size=len(labels)), labels, method="anova")
    assert fit.groups.dtype == kind
    assert fit.groups.tolist() == np.unique(labels).tolist()
    assert (fit.sizes == 2).all()


@pytest.mark.parametrize("rows", [0, 5, 64, 1000])
@pytest.mark.parametrize("order", ["C", "F"])
def test_smallest_and_largest_of_many_rows_in_blocks(rows, order, monkeypatch):
    monkeypatch.setattr(observations, "AT_ONCE", 500)
    x = np.asarray(np.random.default_rng(rows).normal(size=(rows + 1, 3)), order=order)
    y = -x[:, 0]
    low, high = observations.extremes(y, x)
    np.testing.assert_array_equal([low, high], [[*x.min(axis=0), y.min()], [*x.max(axis=0), y.max()]])
    x[rows // 2, 1] = np.nan
    assert np.isnan(observations.extremes(y, x)).any(axis=0).tolist() == [False, True, False, False]
