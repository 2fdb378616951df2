"""The full and the restricted likelihood through the block structure of V."""

from __future__ import annotations

import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxre.components import Components
from jaxre.eager import compiled_alone
from jaxre.effects import gls, normal_equations
from jaxre.moments import GroupMoments, Strata
from jaxre.profile import degrees, derivatives, minus_2_log_likelihood, profile, profile_of
from jaxre.records import record
from jaxre.rows import Array
from jaxre.strata import as_strata


@record
class LogVarianceDerivatives:
    """The negative log-likelihood at (log within, log between), beta profiled out."""

    value: Array
    """() [nat]."""
    gradient: Array
    """(2,) [nat]."""
    hessian: Array
    """(2, 2) [nat]."""


def log_likelihood(components: Components, moments: GroupMoments | Strata, beta: ArrayLike | None = None) -> Array:
    """Full log-likelihood of the variance components, and of the coefficients where they are given.

    -2 l = n log 2 pi + log det V + (y - X beta)' V^-1 (y - X beta), through the block structure of V; without `beta`,
    beta is profiled out by generalised least squares. An ordinary differentiable JAX function.

    Args:
        components: within > 0, between >= 0.
        moments: sufficient statistics, by group or by stratum.
        beta: (p,) [y/x] or None.

    Returns:
        () [nat].

    Errors:
        none are raised, and variances are not checked: the number means something where V is positive definite.

    Source: Searle, Casella and McCulloch (1992), section 6.2.

    Example:
        >>> import jaxre
        >>> moments = jaxre.group_moments([3.0, 5.0, 11.0, 9.0], [0, 0, 1, 1])
        >>> print(f"{jaxre.log_likelihood(jaxre.Components(within=2.0, between=3.0), moments):.4f}")
        -9.6983
    """
    return _log_likelihood(moments, components, None if beta is None else jnp.asarray(beta), restricted=False)


def restricted_log_likelihood(components: Components, moments: GroupMoments | Strata) -> Array:
    """Restricted log-likelihood of the variance components: that of n - p error contrasts.

    -2 l = (n - p) log 2 pi + log det V + log det X' V^-1 X + y' P y, with the constant of lme4 and nlme.

    Args:
        components: within > 0, between >= 0.
        moments: sufficient statistics, by group or by stratum.

    Returns:
        () [nat].

    Errors:
        none are raised, and variances are not checked: the number means something where V is positive definite.

    Source: Patterson and Thompson (1971), Biometrika 58, 545-554; Harville (1974), Biometrika 61, 383-385.

    Example:
        >>> import jaxre
        >>> moments = jaxre.group_moments([3.0, 5.0, 11.0, 9.0], [0, 0, 1, 1])
        >>> print(f"{jaxre.restricted_log_likelihood(jaxre.Components(within=2.0, between=3.0), moments):.4f}")
        -8.4328
    """
    return _log_likelihood(moments, components, None, restricted=True)


@compiled_alone
def _log_likelihood(
    moments: GroupMoments | Strata, components: Components, beta: Array | None, restricted: bool
) -> Array:
    equations = normal_equations(as_strata(moments))
    frame, n = equations.strata.frame, degrees(equations.strata, restricted)
    fit = gls(equations, jnp.asarray(components.ratio))
    at = profile_of(equations, fit, jnp.asarray(components.ratio), restricted)
    within = components.within * frame.scale * frame.scale
    minus_2 = minus_2_log_likelihood(at, n, within, frame, restricted)
    if beta is not None:
        gap = jnp.linalg.solve(frame.transform, beta - frame.origin) - fit.gamma
        minus_2 = minus_2 + gap @ fit.normal @ gap / within
    return -minus_2 / 2


def log_variance_derivatives(
    components: Components, moments: GroupMoments | Strata, *, restricted: bool
) -> LogVarianceDerivatives:
    """Negative log-likelihood in the log-variances, with its gradient and Hessian in closed form.

    What the optimiser sees: beta profiled out, one evaluation for all three, no automatic differentiation.

    Args:
        components: within > 0, between > 0.
        moments: sufficient statistics, by group or by stratum.
        restricted: the restricted or the full likelihood.

    Returns:
        LogVarianceDerivatives in (log within, log between); minus the score and the observed information on that scale.

    Errors:
        none are raised, and variances are not checked: the number means something where V is positive definite.

    Source: definition; the derivatives of Q and log det are those of `profile`.

    Example:
        >>> import jaxre
        >>> moments = jaxre.group_moments([3.0, 5.0, 11.0, 9.0], [0, 0, 1, 1])
        >>> at = jaxre.log_variance_derivatives(jaxre.Components(within=2.0, between=17.0), moments, restricted=True)
        >>> print(abs(at.gradient).max() < 1e-6)
        True
    """
    return _log_variance_derivatives(moments, components, restricted)


@compiled_alone
def _log_variance_derivatives(
    moments: GroupMoments | Strata, components: Components, restricted: bool
) -> LogVarianceDerivatives:
    equations = normal_equations(as_strata(moments))
    n, frame = degrees(equations.strata, restricted), equations.strata.frame
    at = profile(equations, jnp.asarray(components.ratio), restricted)
    within = components.within * frame.scale * frame.scale
    _, gradient, (first, second) = derivatives(at, n, within)
    return LogVarianceDerivatives(
        value=minus_2_log_likelihood(at, n, within, frame, restricted) / 2,
        gradient=jnp.stack(gradient),
        hessian=jnp.stack([jnp.stack(first), jnp.stack(second)]),
    )
