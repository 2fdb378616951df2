"""Moments of the model, entry by entry."""

import dense
import numpy as np
import pytest

import jaxre

pytestmark = pytest.mark.usefixtures("x64")

COMPONENTS = jaxre.Components(within=3.0, between=1.25)
EXACT = 0.0  # sums of two numbers of few bits: nothing is rounded


def test_total_ratio_and_icc_are_functions_of_the_two_variances():
    assert COMPONENTS.total == 4.25
    assert COMPONENTS.ratio == 1.25 / 3
    assert COMPONENTS.icc == 1.25 / 4.25
    assert COMPONENTS.icc == pytest.approx(COMPONENTS.ratio / (1 + COMPONENTS.ratio), rel=4e-16)  # two roundings


def test_icc_covers_zero_to_one():
    assert jaxre.Components(within=2.0, between=0.0).icc == 0
    assert jaxre.Components(within=1e-300, between=2.0).icc == 1


def test_expectation_is_x_beta():
    covariates = np.array([[0.0, 2.0], [3.0, -1.0], [0.5, 4.0]])
    beta = np.array([1.0, 2.0, -0.5])
    expected = [1 - 1, 1 + 6 + 0.5, 1 + 1 - 2]
    np.testing.assert_allclose(jaxre.expectation(beta, covariates), expected, atol=EXACT)
    np.testing.assert_allclose(jaxre.expectation(beta[:1], covariates[:, :0]), [1, 1, 1], atol=EXACT)


@pytest.mark.parametrize("groups", [[0, 0, 1], [4, 4, 4], [0, 1, 2, 3], [2, 0, 2, 1, 0, 2]])
def test_covariance_is_the_dense_v(groups):
    v = np.asarray(jaxre.covariance(COMPONENTS, groups))
    np.testing.assert_allclose(v, dense.covariance(3.0, 1.25, groups), atol=EXACT)
    assert (np.diag(v) == COMPONENTS.total).all()
    same = np.equal.outer(groups, groups) & ~np.eye(len(groups), dtype=bool)
    assert (v[same] == 1.25).all()
    assert (v[~same & ~np.eye(len(groups), dtype=bool)] == 0).all()


def test_a_covariance_block_has_the_eigenvalues_of_compound_symmetry():
    values = np.linalg.eigvalsh(jaxre.covariance(COMPONENTS, [0] * 5))
    np.testing.assert_allclose(values, [3, 3, 3, 3, 3 + 5 * 1.25], rtol=1e-14)  # a few ulps of the largest


def test_group_mean_variance_is_that_of_the_average_of_the_rows():
    sizes = np.array([1, 2, 7])
    groups = np.repeat(np.arange(3), sizes)
    averaging = dense.indicators(groups).T / sizes[:, None]
    of_means = averaging @ dense.covariance(3.0, 1.25, groups) @ averaging.T
    np.testing.assert_allclose(np.diag(jaxre.group_mean_variance(COMPONENTS, sizes)), of_means, rtol=1e-14, atol=1e-15)
