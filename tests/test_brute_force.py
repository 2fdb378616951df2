"""No point of a grid over lambda beats a fit, and no optimum escapes its proof; a million more are in benchmarks."""

import dataclasses

import numpy as np
import pytest
from scripts import load
from slow import slow

import jaxre

BRUTE = load("brute_force")
SEVERAL = BRUTE.DESIGNS["four singles and a forty"]
COUNT = 10_000


@pytest.mark.parametrize(("name", "method"), [("four singles and a forty", "ml"), slow("mildly unbalanced", "reml")])
def test_brute_force_finds_nothing_better(name, method):
    found = BRUTE.brute_force(BRUTE.DESIGNS[name], COUNT, [method])[method]
    assert found["datasets"] == found["estimated"] == found["certified"] == COUNT
    assert found["beaten"] == found["falsely_certified"] == 0, found["failures"]
    assert (found["several_optima"] > 1000) == (method == "ml")
    assert found["largest_excess"] < 1e-11  # rounding of -2 log L at 44 rows, far below the tolerance
    assert found["worst_log_likelihood"] < 1e-10


@pytest.fixture(scope="module")
def compared():
    """Fits by ML of a design with several optima, and the comparison of fits like them with the grid."""
    values, groups, _ = BRUTE.draw(SEVERAL, 0, COUNT)
    fits = jaxre.fit_many(values, groups, method="ml", quantities=BRUTE.QUANTITIES, chunk=COUNT)
    data, ratios = BRUTE.moments(values, groups, None), BRUTE.grid(SEVERAL)
    points = [BRUTE.profile(data, ratio[None]) for ratio in ratios]
    table = np.stack([BRUTE.minus_2_log_likelihood(data, at, False) for at in points], axis=1)
    return fits, lambda changed: BRUTE.compare(data, ratios, table, changed, False)


def test_an_estimate_that_is_slightly_off_is_beaten(compared):
    fits, compare = compared
    found, inside = compare(dataclasses.replace(fits, ratio=fits.ratio * 1.001)), (fits.ratio > 0).sum()
    assert 0.99 * inside < found["beaten"] == found["falsely_certified"] <= inside


def test_a_local_optimum_is_beaten(compared):
    fits, compare = compared
    at_zero = (fits.optima > 1) & (fits.ratio > 0)
    found = compare(dataclasses.replace(fits, ratio=np.where(at_zero, 0, fits.ratio)))
    assert found["beaten"] == at_zero.sum() > 100


def test_an_optimum_that_was_overlooked_is_seen(compared):
    fits, compare = compared
    found = compare(dataclasses.replace(fits, optima=np.ones_like(fits.optima)))
    assert found["beaten"] == 0
    assert 0.9 * (fits.optima > 1).sum() < found["falsely_certified"] <= (fits.optima > 1).sum()


@pytest.mark.parametrize("name", ["mildly unbalanced", "covariates of both kinds"])
def test_the_formula_is_that_of_dense_algebra(name):
    design = BRUTE.DESIGNS[name]
    values, groups, covariates = BRUTE.draw(design, 1, 3)
    data, n = BRUTE.moments(values, groups, covariates), len(groups)
    x = np.column_stack([np.ones(n), np.empty((n, 0)) if covariates is None else covariates])
    for ratio in (0.0, 0.3, 1e6):
        h = np.eye(n) + ratio * (groups[:, None] == groups)
        weighted = np.linalg.solve(h, x)
        residuals = values - x @ np.linalg.solve(x.T @ weighted, weighted.T @ values)
        quadratic = (residuals * np.linalg.solve(h, residuals)).sum(axis=0)
        at = BRUTE.profile(data, np.array([ratio]))
        np.testing.assert_allclose(at.quadratic, quadratic, rtol=1e-8)  # H has a condition of 1e7
        np.testing.assert_allclose(at.log_det, np.linalg.slogdet(h)[1], rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(at.log_det_x, np.linalg.slogdet(x.T @ weighted)[1], rtol=1e-8)
