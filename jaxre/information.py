"""Information about the variance components: observed and expected, in the full and in the restricted likelihood."""

from __future__ import annotations

import jax.numpy as jnp

from jaxre.components import Components
from jaxre.eager import compiled_alone
from jaxre.effects import normal_equations
from jaxre.moments import GroupMoments, Strata
from jaxre.profile import Profile, degrees, profile
from jaxre.records import record
from jaxre.rows import Array
from jaxre.status import Status
from jaxre.strata import as_strata


@record
class Information:
    """Fisher information about (within, between) and what follows from it; see `information`."""

    matrix: Array
    """(2, 2) [1/y^4], in the order (within, between)."""
    covariance: Array
    """(2, 2) [y^4], its inverse: the asymptotic covariance of the two estimates."""
    standard_error: Array
    """(2,) [y^2], of (within, between)."""
    log_standard_error: Array
    """(2,) [1], of their logarithms; infinite for a variance of 0."""


@compiled_alone
def information(
    moments: GroupMoments | Strata, components: Components, *, restricted: bool = True, kind: str = "observed"
) -> Information:
    """Observed or expected information about the variance components.

    Beta is profiled out: the observed information is minus the Hessian of the log-likelihood in (within, between), the
    expected one has tr(P V_i P V_j) / 2 in the restricted and tr(V^-1 V_i V^-1 V_j) / 2 in the full likelihood. At
    between = 0 the derivatives are one-sided, and no distribution is normal there: prefer a profile or exact interval.

    Args:
        moments: sufficient statistics, by group or by stratum.
        components: the two variances; within > 0, between >= 0.
        restricted: the restricted or the full likelihood.
        kind: "observed" or "expected".

    Returns:
        Information, each in the order (within, between).

    Errors:
        ValueError for another kind. Degenerate moments, and an information that is not positive definite (observed,
        away from an optimum), give NaN in what follows from it.

    Source: Searle, Casella and McCulloch (1992), Variance Components, sections 6.3 and 6.6.

    Example:
        >>> import jaxre
        >>> moments = jaxre.group_moments([3.0, 5.0, 11.0, 9.0, 7.0, 6.0], [0, 0, 1, 1, 2, 2])
        >>> about = jaxre.information(moments, jaxre.Components(within=1.5, between=8.0), kind="expected")
        >>> print(", ".join(f"{error:.4f}" for error in about.standard_error))
        1.2247, 8.7714
    """
    strata = as_strata(moments)
    matrix, covariance, variances = scaled_information(strata, components, restricted, kind)
    scale_2 = strata.frame.scale * strata.frame.scale
    standard_error = jnp.sqrt(jnp.diagonal(covariance))
    return Information(
        matrix=matrix * scale_2 * scale_2,
        covariance=covariance / scale_2 / scale_2,
        standard_error=standard_error / scale_2,
        log_standard_error=standard_error / variances,
    )


def scaled_information(
    strata: Strata, components: Components, restricted: bool, kind: str
) -> tuple[Array, Array, Array]:
    """The information about (within, between) of the scaled outcome, its inverse, and those two.

    In the user's units both are fourth powers of the outcome's, and soon beyond the range of numbers.
    """
    if kind not in ("observed", "expected"):
        raise ValueError(f"kind must be 'observed' or 'expected', got {kind!r}.")
    at, n = profile(normal_equations(strata), jnp.asarray(components.ratio), restricted), degrees(strata, restricted)
    scale_2 = strata.frame.scale * strata.frame.scale
    within = components.within * scale_2
    matrix = expected(at, n, within) if kind == "expected" else observed(at, n, within)
    matrix = jnp.where(strata.status == Status.INTERIOR, matrix, jnp.nan)
    return matrix, inverse_2(matrix), jnp.stack([within, components.between * scale_2])


def expected(at: Profile, n: Array, within: Array) -> Array:
    """(2, 2) expected information about (within, between) of the scaled outcome; the same that Q has in expectation."""
    a, b = at.ratio * at.log_det_1, -at.ratio * at.ratio * at.log_det_2
    cross = at.log_det_1 + at.ratio * at.log_det_2
    return _symmetric(n - 2 * a + b, cross, -at.log_det_2) / (2 * within * within)


def observed(at: Profile, n: Array, within: Array) -> Array:
    """(2, 2) minus the Hessian of the log-likelihood in (within, between) of the scaled outcome."""
    ratio, first = at.ratio, at.quadratic_1 / within
    second = at.log_det_2 + at.quadratic_2 / within
    slope = at.log_det_1 + first
    of_within = 2 * at.quadratic / within - n + 2 * ratio * (slope + first) + ratio * ratio * second
    cross = -(slope + first + ratio * second)
    return _symmetric(of_within, cross, second) / (2 * within * within)


def _symmetric(a: Array, b: Array, c: Array) -> Array:
    return jnp.stack([jnp.stack([a, b]), jnp.stack([b, c])])


def inverse_2(matrix: Array) -> Array:
    """Inverse of a symmetric positive definite (2, 2), NaN where it is not."""
    a, b, c = matrix[0, 0], matrix[0, 1], matrix[1, 1]
    det = a * c - b * b
    return _symmetric(c, -b, a) / jnp.where((det > 0) & (a > 0), det, jnp.nan)
