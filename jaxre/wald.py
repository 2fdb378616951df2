"""Wald intervals: for the variance components on the logarithmic scale, for coefficients on their own."""

from __future__ import annotations

import jax.numpy as jnp

from jaxre.coefficients import coefficient_tests, place_of
from jaxre.components import Components
from jaxre.distributions import level_of, t_quantile
from jaxre.eager import compiled_alone
from jaxre.information import scaled_information
from jaxre.moments import GroupMoments, Strata
from jaxre.records import record
from jaxre.rows import Array
from jaxre.strata import as_strata

PARAMETERS = ("within", "between", "sd_within", "sd_between", "ratio", "icc")


@record
class WaldInterval:
    """An estimate with its interval; see `wald_interval`."""

    estimate: Array
    """() in the unit of the parameter."""
    low: Array
    """() lower end."""
    high: Array
    """() upper end."""


def wald_intervals_of_beta(
    moments: GroupMoments | Strata, components: Components, level: float, *, restricted: bool, kind: str
) -> WaldInterval:
    """Those of all coefficients; see `wald_interval`."""
    tests = coefficient_tests(moments, components, restricted=restricted, information=kind)
    margin = t_quantile(level, jnp.inf) * tests.standard_error
    return WaldInterval(estimate=tests.estimate, low=tests.estimate - margin, high=tests.estimate + margin)


@compiled_alone
def wald_interval(
    moments: GroupMoments | Strata,
    components: Components,
    parameter: str | int,
    level: float = 0.95,
    *,
    restricted: bool = True,
    kind: str = "observed",
) -> WaldInterval:
    """Approximate interval from the curvature of the likelihood: estimate times or over exp(z se of its logarithm).

    On the logarithmic scale (of the ratio, which is the logit of the ICC, for those two) the likelihood is nearer to a
    parabola than on that of the variance, and no interval reaches below 0. That of a variance and of its square root
    say the same. Where between is 0 there is no curvature in its logarithm: its interval is everything, 0 to infinity
    (the ICC: to 1), which a profile or an exact interval betters, and that of within takes between as 0. That of a
    coefficient is symmetric, with the normal quantile, as if the variances were known; `coefficient_tests` has better.

    Args:
        moments: sufficient statistics, by group or by stratum.
        components: the estimates.
        parameter: "within", "between", "sd_within", "sd_between", "ratio" or "icc", or the place of a coefficient in
            beta, 0 for the intercept.
        level: [1], of the interval.
        restricted: the restricted or the full likelihood.
        kind: "observed" or "expected" information.

    Returns:
        WaldInterval.

    Errors:
        ValueError for an unknown parameter or kind, or a level outside (0, 1). Degenerate moments give NaN.

    Source: Pinheiro and Bates (2000), Mixed-Effects Models in S and S-PLUS, section 2.4.

    Example:
        >>> import jaxre
        >>> moments = jaxre.group_moments([3.0, 5.0, 11.0, 9.0, 7.0, 6.0], [0, 0, 1, 1, 2, 2])
        >>> interval = jaxre.wald_interval(moments, jaxre.reml(moments), "within")
        >>> print(f"{interval.estimate:.4f} {interval.low:.4f} {interval.high:.4f}")
        1.5000 0.3028 7.4318
    """
    quantile = t_quantile(level_of(level), jnp.inf)
    if not isinstance(parameter, str):
        every = wald_intervals_of_beta(moments, components, level, restricted=restricted, kind=kind)
        place = place_of(parameter, len(every.estimate))
        return WaldInterval(estimate=every.estimate[place], low=every.low[place], high=every.high[place])
    if parameter not in PARAMETERS:
        raise ValueError(
            f"parameter must be one of {', '.join(map(repr, PARAMETERS))}, or the place of a coefficient, "
            f"got {parameter!r}."
        )
    matrix, covariance, variances = scaled_information(as_strata(moments), components, restricted, kind)
    known = 0 * matrix[0, 0]  # NaN where there is no estimate
    within, between = components.within + known, components.between + known
    positive = between > 0
    errors = jnp.sqrt(jnp.diagonal(covariance))
    of_within, of_between = errors / variances
    alone = 1 / jnp.sqrt(matrix[0, 0]) / variances[0]
    of_within = jnp.where(positive, of_within, alone)
    correlation = covariance[0, 1] / errors.prod()
    of_ratio = jnp.sqrt(of_within**2 + of_between**2 - 2 * correlation * of_within * of_between)
    value, error = {
        "within": (within, of_within),
        "between": (between, of_between),
        "sd_within": (jnp.sqrt(within), of_within / 2),
        "sd_between": (jnp.sqrt(between), of_between / 2),
    }.get(parameter, (between / within, of_ratio))
    factor = jnp.exp(quantile * error)
    low, high = value / factor, value * factor
    if "within" not in parameter:
        low, high = jnp.where(positive, low, known), jnp.where(positive, high, jnp.inf + known)
    if parameter == "icc":
        value, low, high = value / (1 + value), low / (1 + low), 1 / (1 + 1 / high)
    return WaldInterval(estimate=value, low=low, high=high)
