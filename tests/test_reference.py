"""Every reference case, against answers to 25 digits."""

import numpy as np
import pytest
from reference import CASES, EVERYDAY, IDENTIFIED, NOT_IDENTIFIED, Table, table
from slow import but_for

import jaxre

# Rounding of a sum of n terms grows like sqrt(n) eps: 1e-13 at the largest case. What is asked is ten times that.
TOLERANCE = 1e-12

# Here the covariates agree in their first 7 and 6 digits: the answer changes by more than the tolerance when the last
# bit of the input does, so no arithmetic in doubles can be asked for it.
ILL_CONDITIONED = {"n19_near_collinear_1e-7", "n23_cov_offset_1e6"}
DRAWS = 8


def by_id(cases):
    return pytest.mark.parametrize("case", cases, ids=lambda case: case["id"])


likelihoods = pytest.mark.parametrize("method", ["reml", "ml"])
ESTIMATED = [(case, "reml") for case in IDENTIFIED]
ESTIMATED += but_for([(case, "ml") for case in IDENTIFIED], [(case, "ml") for case in EVERYDAY])


def numbers(fit):
    """What is compared, from a fit."""
    return {
        "between": fit.between,
        "within": fit.within,
        "ratio": fit.ratio,
        "icc": fit.icc,
        "beta": fit.beta,
        "se": fit.beta_se,
        "vcov": fit.beta_cov,
        "minus2loglik": fit.criterion,
        "blup": fit.blup,
        "local_optima_ratio": fit.optima_ratio,
    }


def errors(found, truth):
    """Relative error of each quantity, by the scale that belongs to it; an exact 0 must be met exactly."""
    scales = {
        "beta": np.maximum(abs(truth["beta"]), truth["se"]),
        "vcov": np.outer(truth["se"], truth["se"]),
        "minus2loglik": np.maximum(1, abs(truth["minus2loglik"])),
        "blup": abs(truth.get("blup", np.zeros(1))).max(),
    }
    result = {}
    for name, true in truth.items():
        gap, scale = abs(found[name] - true), np.broadcast_to(scales.get(name, abs(true)), np.shape(true))
        result[name] = np.where(gap == 0, 0, gap / np.where(scale > 0, scale, np.finfo(float).tiny)).max()
    return result


def ulp_errors(data: Table, method: str):
    """What rounding the inputs may do: the largest change of each quantity over DRAWS refits (seeded), in each of which
    every value of the outcome and of the covariates is moved to the next double up or down, at random."""
    rng = np.random.default_rng(0)

    def nudged(array):
        return np.nextafter(array, rng.choice([-np.inf, np.inf], array.shape))

    here = numbers(jaxre.fit(*data, method=method))
    draws = [
        errors(numbers(jaxre.fit(nudged(data.values), data.groups, nudged(data.covariates), method=method)), here)
        for _ in range(DRAWS)
    ]
    return {name: max(draw[name] for draw in draws) for name in here}


def test_the_set_is_whole():
    assert (len(CASES), len(IDENTIFIED), len(NOT_IDENTIFIED)) == (90, 86, 4)
    assert {case["id"] for case in IDENTIFIED} >= ILL_CONDITIONED


@pytest.mark.parametrize(("case", "method"), ESTIMATED, ids=lambda one: one if isinstance(one, str) else one["id"])
def test_estimates(case, method):
    """Relative error at most TOLERANCE, or ten times what rounding the inputs by one ulp does where the data are
    ill-conditioned (`ulp_errors`); exactly 0 where the truth is 0."""
    data, expected = table(case["id"]), case[method]
    fit = jaxre.fit(*data, method=method)
    truth = {name: np.array(expected[name], float) for name in numbers(fit) if name in expected}

    optima = truth["local_optima_ratio"]
    assert fit.optima == len(fit.optima_ratio) == len(optima)
    assert fit.certified
    assert (fit.between == 0) == (fit.ratio == 0) == (fit.icc == 0) == (truth["between"] == 0)
    side = "BOUNDARY" if truth["between"] == 0 else "INTERIOR"
    assert fit.status.name == (side if len(optima) == 1 else f"{side}_SEVERAL")
    assert (fit.n, len(fit.groups), fit.dropped) == (case["n"], case["groups"], 0)

    rounding = ulp_errors(data, method) if case["id"] in ILL_CONDITIONED else {}
    allowed = {name: max(TOLERANCE, 10 * rounding.get(name, 0)) for name in truth}
    # an optimum that is not the best one is only counted on: it is found to the digits of one Newton step
    allowed["local_optima_ratio"] = max(1e-10, allowed["ratio"])
    found = errors(numbers(fit), truth)
    assert {name: error for name, error in found.items() if not error <= allowed[name]} == {}


@by_id([case for case in IDENTIFIED if any(len(case[m]["local_optima_ratio"]) > 1 for m in ("reml", "ml"))])
@likelihoods
def test_gap(case, method):
    """-2 log L of the second-best optimum less that of the best: a difference of numbers near 78, each exact to
    1e-13."""
    fit = jaxre.fit(*table(case["id"]), method=method)
    values = sorted(float(value) for value in case[method]["local_optima_minus2loglik"])
    assert fit.gap == pytest.approx(values[1] - values[0] if len(values) > 1 else np.inf, abs=1e-12)


@by_id(IDENTIFIED)
def test_anova(case):
    """The sums of squares without covariates. `between_untruncated` is a difference: its scale is at least that of what
    is subtracted, within / n0."""
    data, expected = table(case["id"]), {name: float(text) for name, text in case["anova"].items()}
    fit = jaxre.fit(data.values, data.groups, method="anova")
    scale = max(abs(expected["between_untruncated"]), expected["within"] / expected["n0"])
    assert fit.within == pytest.approx(expected["within"], rel=TOLERANCE, abs=0)
    assert fit.between_untruncated == pytest.approx(expected["between_untruncated"], abs=TOLERANCE * scale, rel=0)
    assert fit.between == max(fit.between_untruncated, 0)
    assert fit.certified


REASONS = {
    "n13_all_singletons": "not identified.*all groups of size one",
    "n14_one_group": "not identified.*a single group",
    "n21_group_dummies": "not identified.*covariates that do not span the groups",
    "n15_constant_y": "constant outcome.*every value 7",
}


@by_id(NOT_IDENTIFIED)
@pytest.mark.parametrize("method", ["reml", "ml", "anova"])
def test_refused(case, method):
    with pytest.raises(ValueError, match=REASONS[case["id"]]):
        jaxre.fit(*table(case["id"]), method=method)
