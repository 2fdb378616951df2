"""Numbers that compare models: information criteria, and the share of the variance that a model explains."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxre.components import Components
from jaxre.eager import compiled_alone
from jaxre.effects import NormalEquations, normal_equations
from jaxre.estimate import Estimate
from jaxre.moments import GroupMoments, Strata
from jaxre.profile import Profile, curvature, degrees, minus_2_log_likelihood, profile, solve
from jaxre.records import record
from jaxre.rows import Array
from jaxre.status import Status
from jaxre.strata import as_strata

METHODS = ("reml", "ml", "anova")


@record
class Criteria:
    """Information criteria and coefficients of determination; see `criteria`."""

    parameters: Array
    """() [1], p + 2: coefficients and variances."""
    aic: Array
    """() [nat], -2 log-likelihood + 2 parameters."""
    bic: Array
    """() [nat], -2 log-likelihood + log(n) parameters, n the rows."""
    effective_parameters: Array
    """() [1], trace of the matrix that takes y to its fitted values at known ratio: p to p + J - 1."""
    conditional_parameters: Array
    """() [1], trace of the derivative of the fitted values in y, the ratio estimated, and 1 for within."""
    conditional_log_likelihood: Array
    """() [nat], log density of y given the predicted group effects."""
    conditional_aic: Array
    """() [nat], -2 conditional_log_likelihood + 2 conditional_parameters."""
    r2_marginal: Array
    """() [1], share of the variance that is of the covariates."""
    r2_conditional: Array
    """() [1], share that is of covariates and groups."""


@compiled_alone
def criteria(moments: GroupMoments | Strata, components: Components | Estimate, *, method: str = "reml") -> Criteria:
    """Information criteria, marginal and conditional, and marginal and conditional R^2 at the estimates.

    AIC and BIC count p + 2 parameters and all n rows, for REML and maximum likelihood alike, as lme4 does (nlme counts
    n - p rows for REML); that of REML is the restricted likelihood's and compares models of the same X only. They are
    about new groups.

    The conditional AIC is about new observations of these groups. Of the versions that there are it is that of Greven
    and Kneib, -2 log f(y | beta, a) + 2 (tr d yhat / d y' + 1): its derivative knows that the ratio is estimated; that
    of Vaida and Blanchard, tr H1 = `effective_parameters`, does not, and prefers the model with groups whenever between
    is estimated above 0. The 1 is for within. Where the ratio is 0 it stays so for nearby data, and the trace is p.

    R^2: with v the variance of X beta over the rows (n - 1 in its denominator), marginal v / (v + between + within) and
    conditional (v + between) / (v + between + within). With weights v is weighted, and within that of a row
    of weight 1.

    Args:
        moments: sufficient statistics, by group or by stratum.
        components: the estimates; an `Estimate` will do.
        method: "reml", "ml" or "anova": how they were estimated.

    Returns:
        Criteria.

    Errors:
        ValueError for an unknown method; degenerate moments give NaN.

    Source: Akaike (1974); Schwarz (1978); Vaida and Blanchard (2005), Biometrika 92, 351-370; Greven and Kneib (2010),
        Biometrika 97, 773-789; Nakagawa and Schielzeth (2013), Methods in Ecology and Evolution 4, 133-142.

    Example:
        >>> import jaxre
        >>> moments = jaxre.group_moments([3.0, 5.0, 11.0, 9.0, 7.0, 6.0], [0, 0, 1, 1, 2, 2])
        >>> found = criteria(moments, jaxre.reml(moments))
        >>> print(f"{found.aic:.4f} {found.conditional_aic:.4f} {found.r2_conditional:.4f}")
        28.9967 24.6252 0.8475
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(map(repr, METHODS))}, got {method!r}.")
    strata = as_strata(moments)
    if strata.frame.known is not None:
        raise ValueError("moments must leave the variance within to be estimated, got a known one.")
    equations, ratio, restricted = normal_equations(strata), jnp.asarray(components.ratio), method == "reml"
    at, gamma, _ = solve(equations, ratio, restricted)
    n, rows, p = degrees(strata, restricted), strata.rows, strata.means.shape[-1] - 1
    scale_2 = strata.frame.scale * strata.frame.scale
    within = components.within * scale_2
    minus_2 = minus_2_log_likelihood(at, n, within, strata.frame, restricted)
    effective = p + ratio * (at if restricted else profile(equations, ratio, True)).log_det_1
    more = _of_the_ratio(equations, at, method)
    residual = at.quadratic + ratio * at.quadratic_1  # of y less its fitted values
    conditional = -(rows * jnp.log(2 * jnp.pi * components.within) + residual / within) / 2
    if strata.frame.log_weights is not None:
        conditional = conditional + strata.frame.log_weights / 2
    explained, whole = _of_covariates(equations, gamma), within * (1 + ratio)
    parameters = jnp.full_like(rows, p + 2.0)
    found = Criteria(
        parameters=parameters,
        aic=minus_2 + 2 * parameters,
        bic=minus_2 + jnp.log(rows) * parameters,
        effective_parameters=effective,
        conditional_parameters=effective + more + 1,
        conditional_log_likelihood=conditional,
        conditional_aic=-2 * conditional + 2 * (effective + more + 1),
        r2_marginal=explained / (explained + whole),
        r2_conditional=(explained + within * ratio) / (explained + whole),
    )
    return jax.tree.map(lambda leaf: jnp.where(strata.status == Status.INTERIOR, leaf, jnp.nan), found)


def _of_the_ratio(equations: NormalEquations, at: Profile, method: str) -> Array:
    """What estimating the ratio adds to the trace of d yhat / d y': -(A' y)' d ratio / d y, yhat = (I - A) y.

    A = H^-1 - H^-1 X (X'H^-1 X)^-1 X'H^-1 and A' its derivative in the ratio; y'A y = Q, y'A'A y = Q' + ratio Q'' / 2,
    |A' y|^2 = Q'' / 2 + ratio Q''' / 6. The ratio is a root of the score, or Henderson's quotient of sums of squares.
    """
    strata, ratio = equations.strata, at.ratio
    if method == "anova":
        flat = profile(equations, jnp.zeros_like(ratio), True)
        freedom = strata.rows - strata.counts.sum() - strata.within_rank
        more = -2 * at.quadratic_1 * freedom / (flat.log_det_1 * equations.floor)
    else:
        n, restricted = degrees(strata, method == "reml"), method == "reml"
        second = lambda moved: profile(equations, moved, restricted).quadratic_2
        _, third = jax.jvp(second, (ratio,), (jnp.ones_like(ratio),))
        squares = at.quadratic_2 / 2 + ratio * third / 6
        product = at.quadratic_1 + ratio * at.quadratic_2 / 2
        bent = curvature(at, n)
        more = 2 * n * (squares - at.quadratic_1 * product / at.quadratic) / at.quadratic / bent
    return jnp.where(ratio > 0, more, 0)


def _of_covariates(equations: NormalEquations, gamma: Array) -> Array:
    """Variance of X beta over the rows, of the scaled outcome."""
    strata, frame, p = equations.strata, equations.strata.frame, len(gamma)
    if p == 1:
        return jnp.zeros_like(gamma[0])
    slopes = gamma[1:] + jnp.linalg.solve(frame.transform[1:, 1:], frame.origin[1:])
    sums = (strata.sizes * strata.counts) @ strata.means[:, 1:p]
    squares = jnp.tensordot(strata.sizes, equations.products[:, 1:p, 1:p], 1) + strata.within_cross[1:p, 1:p]
    total = strata.sizes @ strata.counts  # n, or the sum of the weights
    centred = squares - sums[:, None] * sums / total
    return slopes @ centred @ slopes / total * (strata.rows / (strata.rows - 1))
