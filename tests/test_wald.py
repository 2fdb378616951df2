"""Wald intervals against the closed forms of balanced designs, and where there is nothing to say."""

import jax
import numpy as np
import pytest

import jaxre
from jaxre import Components
from jaxre.wald import PARAMETERS

pytestmark = pytest.mark.usefixtures("x64")

Z = 1.959963984540054
DYESTUFF = jaxre.datasets.load("dyestuff").columns


def test_dyestuff_by_hand():
    """Balanced, 6 groups of 5: within = MSW on 24 degrees of freedom, MSB on 5, independent, each with variance
    2 MS^2 / df; between = (MSB - MSW) / 5. By the chain rule, the errors of all six logarithms."""
    moments = jaxre.group_moments(DYESTUFF["Yield"], DYESTUFF["Batch"])
    within, between = 2451.25, 1764.05
    of_msb, of_msw = np.sqrt(2 / 5), np.sqrt(2 / 24)  # of log mean squares
    share = (within + 5 * between) / (5 * between)  # d log between / d log MSB; d / d log MSW is 1 - share
    errors = {
        "within": of_msw,
        "between": np.hypot(share * of_msb, (share - 1) * of_msw),
        "ratio": share * np.hypot(of_msb, of_msw),
    }
    errors |= {"sd_within": errors["within"] / 2, "sd_between": errors["between"] / 2}
    values = {"within": within, "between": between, "ratio": between / within}
    values |= {"sd_within": within**0.5, "sd_between": between**0.5}
    for name, value in values.items():
        found = jaxre.wald_interval(moments, jaxre.reml(moments), name)
        ends = value * np.exp(np.array([-Z, Z]) * errors[name])
        np.testing.assert_allclose([found.estimate, found.low, found.high], [value, *ends], rtol=1e-11)
    ratio, icc = (jaxre.wald_interval(moments, jaxre.reml(moments), name) for name in ("ratio", "icc"))
    for end in ("estimate", "low", "high"):
        r = float(getattr(ratio, end))
        assert float(getattr(icc, end)) == pytest.approx(r / (1 + r), rel=1e-13)


def test_of_a_coefficient():
    """Balanced: the mean with variance (within + k between) / n."""
    columns = jaxre.datasets.load("dyestuff").columns
    fit = jaxre.fit(columns["Yield"], columns["Batch"])
    found = fit.wald_interval("(Intercept)")
    margin = Z * np.sqrt((2451.25 + 5 * 1764.05) / 30)
    np.testing.assert_allclose(
        [found.estimate, found.low, found.high], [1527.5, 1527.5 - margin, 1527.5 + margin], 1e-13
    )
    assert jax.tree.leaves(fit.wald_interval(0)) == jax.tree.leaves(found)
    with pytest.raises(ValueError, match="place must be from 0 to 0, got 1"):
        fit.wald_interval(1)


@pytest.mark.parametrize("kind", ["observed", "expected"])
def test_on_the_boundary(kind):
    """Nothing is known of a logarithm of 0; within has 30 - 1 degrees of freedom once between is 0."""
    columns = jaxre.datasets.load("dyestuff2").columns
    moments = jaxre.group_moments(columns["Yield"], columns["Batch"])
    estimate = jaxre.reml(moments)
    found = {name: jaxre.wald_interval(moments, estimate, name, kind=kind) for name in PARAMETERS}
    for name in ("between", "sd_between", "ratio"):
        assert [float(found[name].estimate), float(found[name].low), float(found[name].high)] == [0, 0, np.inf]
    assert [float(found["icc"].estimate), float(found["icc"].low), float(found["icc"].high)] == [0, 0, 1]
    factor = np.exp(Z * np.sqrt(2 / 29))
    assert float(found["within"].high / found["within"].estimate) == pytest.approx(factor, rel=1e-12)


@pytest.mark.parametrize("power", [-400, 400])
def test_scale_only_scales(power):
    """Variances near the ends of the doubles, whose information, a fourth power, is none: to the last bits."""
    x = np.arange(30.0)[:, None] % 7
    here, there = (jaxre.fit(DYESTUFF["Yield"] * 2.0**k, DYESTUFF["Batch"], x) for k in (0, power))
    for name in (*PARAMETERS, "x1"):
        unit = 2.0 ** (power * {"within": 2, "between": 2, "ratio": 0, "icc": 0}.get(name, 1))
        a, b = here.wald_interval(name), there.wald_interval(name)
        np.testing.assert_allclose(
            [b.estimate, b.low, b.high], np.array([a.estimate, a.low, a.high]) * unit, rtol=1e-12
        )
    errors = there.information().log_standard_error
    np.testing.assert_allclose(errors, here.information().log_standard_error, rtol=1e-12)
    many = jaxre.fit_many(DYESTUFF["Yield"][:, None] * 2.0**power, DYESTUFF["Batch"], x, quantities="icc_wald_low")
    np.testing.assert_allclose(many.inference["icc_wald_low"], here.wald_interval("icc").low, rtol=1e-12)


def test_a_wrong_place_of_a_coefficient_leaves_no_trace():
    """Equal words of other types, 1 and 1.0 and True, are other programs."""
    fit = jaxre.fit(DYESTUFF["Yield"], DYESTUFF["Batch"], np.arange(30.0)[:, None] % 7)
    for function in (
        fit.wald_interval,
        jaxre.fit(fit.observations.values, DYESTUFF["Batch"], method="ml").profile_interval,
    ):
        for wrong in (1.0, None, [0]):
            with pytest.raises(TypeError, match="parameter must be a name, or the place of a coefficient, got"):
                function(wrong)
        with pytest.raises(ValueError, match=r"place must be from 0 to [01], got True"):
            function(True)
    assert fit.wald_interval(1).estimate == fit.wald_interval("x1").estimate == fit.beta[1]


def test_degenerate_moments_and_wrong_words():
    constant = jaxre.group_moments([1.0, 1.0, 1.0, 1.0], [0, 0, 1, 1])
    for name in PARAMETERS:
        found = jaxre.wald_interval(constant, Components(within=1.0, between=0.0), name)
        assert all(np.isnan(leaf) for leaf in jax.tree.leaves(found))
    with pytest.raises(ValueError, match=r"parameter must be one of 'within'.*got 'sigma'"):
        jaxre.wald_interval(constant, Components(within=1.0, between=0.0), "sigma")
    with pytest.raises(ValueError, match=r"between 0 and 1"):
        jaxre.wald_interval(constant, Components(within=1.0, between=0.0), "icc", level=1.0)
