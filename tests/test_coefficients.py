"""Tests of coefficients against 25-digit answers, published numbers, dense algebra and two packages of R."""

import functools

import dense
import jax
import numpy as np
import pytest
from reference import EVERYDAY, IDENTIFIED, table
from slow import but_for

import jaxre
from jaxre import Components
from jaxre.eager import bucketed

pytestmark = pytest.mark.usefixtures("x64")

# Snedecor and Cochran (1967), Statistical Methods, table 10.18.1: conception rates of six bulls
BULLS = [[46, 31, 37, 62, 30], [70, 59], [52, 44, 57, 40, 67, 64, 70], [47, 21, 70, 46, 14]]
BULLS += [[42, 64, 50, 69, 77, 81, 87], [35, 68, 59, 38, 57, 76, 57, 29, 60]]
RATES = np.concatenate(BULLS).astype(float)
GROUPS = np.repeat(np.arange(6), [len(bull) for bull in BULLS])
TESTS = jax.jit(jaxre.coefficient_tests, static_argnames=("df", "restricted"))
SMALL = [case for case in IDENTIFIED if case["n"] <= 3000]
ILL_CONDITIONED = {"n19_near_collinear_1e-7": 1e-8, "n23_cov_offset_1e6": 1e-10}  # as in test_reference.py


@functools.lru_cache(maxsize=2)
def fitted(case_id):
    fit = jaxre.fit(*table(case_id))
    strata = jaxre.stratify(fit.moments)
    return bucketed(strata), fit


@pytest.mark.parametrize(
    "case", but_for(SMALL, [case for case in EVERYDAY if len(case["coefficients"]) == 3]), ids=lambda case: case["id"]
)
def test_reference_cases(case):
    """Degrees of freedom and errors to 1e-12, as the estimates; p-values to 1e-11, since a relative error of t or df
    is multiplied by up to t^2 there. At between = 0 Satterthwaite's are those of the expected information instead."""
    strata, fit = fitted(case["id"])
    at, truth = Components(within=fit.within, between=fit.between), case["reml"]
    tolerance = ILL_CONDITIONED.get(case["id"], 1e-12)
    adjusted, plain = TESTS(strata, at, df="kenward-roger"), TESTS(strata, at, df="satterthwaite")
    of_kr = {name: np.array(truth["kenward_roger"][name], float) for name in ("ddf", "se", "p")}
    np.testing.assert_allclose(adjusted.df, of_kr["ddf"], rtol=tolerance)
    np.testing.assert_allclose(adjusted.standard_error, of_kr["se"], rtol=tolerance)
    np.testing.assert_allclose(adjusted.p_value, of_kr["p"], rtol=100 * tolerance, atol=1e-280)
    np.testing.assert_allclose(plain.standard_error, fit.beta_se, rtol=1e-13)
    if fit.between == 0:
        np.testing.assert_array_equal(plain.df, adjusted.df)
        return
    np.testing.assert_allclose(plain.df, np.array(truth["satterthwaite"]["df"], float), rtol=tolerance)
    of_p = np.array(truth["satterthwaite"]["p"], float)
    np.testing.assert_allclose(plain.p_value, of_p, rtol=100 * tolerance, atol=1e-280)


def test_bulls():
    """lmerTest 3.1 and pbkrtest 0.5 print these digits."""
    moments = jaxre.group_moments(RATES, GROUPS)
    estimate = jaxre.reml(moments)
    adjusted, plain = (TESTS(moments, estimate, df=df) for df in ("kenward-roger", "satterthwaite"))
    assert float(adjusted.df[0]) == pytest.approx(4.75242423, abs=5e-9)
    assert float(adjusted.standard_error[0]) == pytest.approx(4.61053465, abs=5e-9)
    assert float(plain.df[0]) == pytest.approx(4.58136225, abs=5e-9)


def bulls_with_covariates():
    place = np.arange(len(RATES))
    x = np.column_stack([place * 7 % 11, place * 5 % 3]).astype(float)
    x[:] = np.column_stack([(place + 1) * 7 % 11, (place + 1) * 5 % 3])
    moments = jaxre.group_moments(RATES, GROUPS, x)
    return moments, jaxre.reml(moments), x


def test_joint_contrasts_as_in_r():
    """lmerTest::contest and pbkrtest::KRmodcomp (R 4.2, lmerTest 3.1, pbkrtest 0.5) on the bulls with two made-up
    covariates: their optimiser ends 1e-8 away."""
    moments, estimate, _ = bulls_with_covariates()
    both = [[0, 1, 0], [0, 0, 1]]
    plain = jaxre.contrast_test(moments, estimate, both)
    adjusted = jaxre.contrast_test(moments, estimate, both, df="kenward-roger")
    as_in_r = functools.partial(pytest.approx, rel=1e-6)
    assert float(plain.df2) == as_in_r(27.681778588)
    assert float(plain.statistic) == as_in_r(3.67003038605)
    assert float(plain.p_value) == as_in_r(0.0385676255995)
    assert float(adjusted.df2) == as_in_r(27.6626273687)
    assert float(adjusted.statistic) == as_in_r(3.62137372134)
    assert float(adjusted.scaling) == as_in_r(0.999986166509)
    assert float(adjusted.p_value) == as_in_r(0.0400915475014)
    covariance = jaxre.coefficient_tests(moments, estimate, df="kenward-roger").covariance
    assert float(covariance[0, 1]) == as_in_r(-3.3812257673469)
    assert float(covariance[2, 2]) == as_in_r(9.3241981442364)


@pytest.mark.parametrize("df", ["satterthwaite", "kenward-roger"])
def test_one_contrast_is_the_square_of_its_t(df):
    moments, estimate, _ = bulls_with_covariates()
    row = [[1.0, 5.0, -1.0]]
    alone, joint = (
        jaxre.coefficient_tests(moments, estimate, row, df=df),
        jaxre.contrast_test(moments, estimate, row, df=df),
    )
    for found, true in (
        (joint.statistic, alone.t[0] ** 2),
        (joint.df2, alone.df[0]),
        (joint.p_value, alone.p_value[0]),
    ):
        assert float(found) == pytest.approx(float(true), rel=1e-11)


def dense_kenward_roger(x, within, between):
    """Phi_A as Kenward and Roger write it, from dense matrices; linear in the variances, so that R_ij = 0."""
    n = len(RATES)
    design, parts = dense.design(n, x), [np.eye(n), (GROUPS[:, None] == GROUPS).astype(float)]
    inverse = np.linalg.inv(within * parts[0] + between * parts[1])
    phi = np.linalg.inv(design.T @ inverse @ design)
    of_p = [-design.T @ inverse @ part @ inverse @ design for part in parts]
    of_q = [[design.T @ inverse @ a @ inverse @ b @ inverse @ design for b in parts] for a in parts]
    projected = inverse - inverse @ design @ phi @ design.T @ inverse
    w = np.linalg.inv([[np.trace(projected @ a @ projected @ b) / 2 for b in parts] for a in parts])
    middle = sum(w[i, j] * (of_q[i][j] - of_p[i] @ phi @ of_p[j]) for i in range(2) for j in range(2))
    return phi + 2 * phi @ middle @ phi


@pytest.mark.parametrize("between", [0.0, 74.0, 5000.0])
def test_adjusted_covariance_against_dense_algebra(between):
    """The condition of V is at most 300: eleven digits are left."""
    moments, _, x = bulls_with_covariates()
    found = jaxre.coefficient_tests(moments, Components(within=212.0, between=between), df="kenward-roger")
    np.testing.assert_allclose(found.covariance, dense_kenward_roger(x, 212.0, between), rtol=1e-10)


def test_balanced_closed_forms():
    """In a balanced design the mean has J - 1 degrees of freedom and nothing to adjust, whatever the two variances."""
    rng = np.random.default_rng(0)
    moments = jaxre.group_moments(rng.normal(size=24), np.repeat(np.arange(6), 4))
    for between in (0.0, 1.0, 50.0):
        found = jaxre.coefficient_tests(moments, Components(within=1.0, between=between), df="kenward-roger")
        assert float(found.df[0]) == pytest.approx(5, rel=1e-12)
        assert float(found.standard_error[0]) == pytest.approx(np.sqrt((1 + 4 * between) / 24), rel=1e-13)


def test_interval_is_the_inversion_of_the_test():
    """Shifting the outcome by an end of the interval makes p = 1 - level."""
    moments = jaxre.group_moments(RATES, GROUPS)
    estimate = jaxre.reml(moments)
    for end in ("low", "high"):
        shift = float(getattr(jaxre.coefficient_tests(moments, estimate, level=0.9), end)[0])
        moved = jaxre.coefficient_tests(jaxre.group_moments(RATES - shift, GROUPS), estimate)
        assert float(moved.p_value[0]) == pytest.approx(0.1, rel=1e-10)


def test_a_batch_with_a_bad_member():
    rng = np.random.default_rng(3)
    outcomes = rng.normal(size=(4, len(GROUPS))) + 2 * rng.normal(size=(4, 6))[:, GROUPS]
    outcomes[2] = 1.0  # constant
    both = np.eye(3)[1:]
    x = bulls_with_covariates()[2]

    def every(y):
        moments = jaxre.group_moments(y, GROUPS, x)
        estimate = jaxre.reml(moments)
        one = jaxre.coefficient_tests(moments, estimate, df="kenward-roger")
        return (
            one,
            jaxre.contrast_test(moments, estimate, both),
            jaxre.contrast_test(moments, estimate, both, df="kenward-roger"),
        )

    together = jax.jit(jax.vmap(every))(outcomes)
    for i in (0, 1, 3):
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-9), together, every(outcomes[i]))
    for record in together:
        assert np.isnan(record.p_value[2]).all()


def test_wrong_input():
    moments = jaxre.group_moments(RATES, GROUPS)
    estimate = jaxre.reml(moments)
    with pytest.raises(ValueError, match=r"'satterthwaite', 'kenward-roger', got 'residual'"):
        jaxre.coefficient_tests(moments, estimate, df="residual")
    with pytest.raises(ValueError, match=r"shape \(q, 1\).*got \(1, 2\)"):
        jaxre.coefficient_tests(moments, estimate, [0, 1])
    with pytest.raises(ValueError, match=r"between 0 and 1"):
        jaxre.coefficient_tests(moments, estimate, level=95)
    with pytest.raises(ValueError, match=r"are those of REML"):
        jaxre.coefficient_tests(moments, jaxre.ml(moments), df="kenward-roger", restricted=False)
    for rows in ([[1.0], [2.0]], jax.numpy.array([[1.0], [2.0]])):
        with pytest.raises(ValueError, match=r"linearly independent, got 2 rows of rank 1"):
            jaxre.contrast_test(moments, estimate, rows)
    fit = jaxre.fit(RATES, GROUPS)
    for function in (
        fit.coefficient_tests,
        fit.contrast_test,
        lambda rows: jaxre.contrast_test(moments, estimate, rows),
    ):
        for rows in ([], [np.nan], [[np.inf]]):
            with pytest.raises(ValueError, match="at least one row of finite numbers"):
                function(rows)
    with pytest.raises(ValueError, match="at least one row of finite numbers"):
        jaxre.fit_many(np.array(RATES)[:, None], GROUPS, contrasts=[])
