"""The full and the restricted likelihood through the block structure of V, with derivatives in closed form."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxre.components import Components
from jaxre.effects import Gls, NormalEquations, contract, gls, matmul, normal_equations
from jaxre.moments import GroupMoments, Strata, stratify
from jaxre.records import record
from jaxre.rows import Array


class Profile(NamedTuple):
    """The two functions of lambda that make the likelihood, each with two derivatives in lambda.

    -2 log L = N log(2 pi within) + L(lambda) + Q(lambda) / within, N = n for the full and n - p for the restricted one.
    """

    ratio: Array
    """() lambda."""
    quadratic: Array
    """() Q, the generalised residual sum of squares."""
    quadratic_1: Array
    """() Q' <= 0."""
    quadratic_2: Array
    """() Q'' >= 0."""
    log_det: Array
    """() L: log det H, and log det X' H^-1 X besides in the restricted likelihood."""
    log_det_1: Array
    """() L' > 0."""
    log_det_2: Array
    """() L'' < 0."""
    excess: Array
    """() Q - Q(infinity) without cancellation."""


def degrees(strata: Strata, restricted: bool) -> Array:
    """N: n for the full likelihood, n - p for the restricted one."""
    return strata.rows - (strata.means.shape[-1] - 1 if restricted else 0)


@partial(jax.jit, static_argnums=2)  # traced once for the several loops that evaluate it
def profile(equations: NormalEquations, ratio: Array, restricted: bool) -> Profile:
    """Q and L at a ratio, with derivatives; O(strata p^2 + p^3)."""
    return profile_of(equations, gls(equations, ratio), ratio, restricted)


def profile_of(equations: NormalEquations, fit: Gls, ratio: Array, restricted: bool) -> Profile:
    """Q and L from the generalised least-squares fit at the ratio; every sum over strata in one product of matrices."""
    strata = equations.strata
    w, p = fit.weights, fit.pull.shape[-1]
    w2 = w * w
    powers = jnp.stack([w, w2, w2 * w, jnp.log1p(ratio * strata.sizes)])
    terms = [fit.squares[:, None], strata.counts[:, None], fit.pull]
    if restricted:
        terms.append(equations.products[:, :p, :p].reshape(len(w), p * p))
    first, second, third, logs = matmul(powers, jnp.concatenate(terms, axis=1))
    change = second[2 : 2 + p]
    log_det, log_det_1, log_det_2 = logs[1], first[1], -second[1]
    if restricted:
        a = matmul(fit.inverse, second[2 + p :].reshape(p, p))
        b = fit.inverse * third[2 + p :].reshape(p, p)
        log_det = log_det + fit.log_det
        log_det_1 = log_det_1 - jnp.trace(a)
        log_det_2 = log_det_2 + 2 * b.sum() - (a * a.T).sum()
    return Profile(
        ratio=ratio,
        quadratic=fit.within + first[0],
        quadratic_1=-second[0],
        quadratic_2=2 * (third[0] - contract(contract(fit.inverse, list(change)), list(change))),
        log_det=log_det,
        log_det_1=log_det_1,
        log_det_2=log_det_2,
        excess=fit.beyond + first[0],
    )


def score(at: Profile, n: Array) -> Array:
    """f' = N Q'/Q + L', the derivative of the profile of -2 log L in lambda."""
    return n * at.quadratic_1 / at.quadratic + at.log_det_1


def score_noise(at: Profile, n: Array) -> Array:
    """What rounding may add to f': a few units in the last place of its two terms."""
    eps = jnp.finfo(at.quadratic.dtype).eps
    return 8 * eps * (n * abs(at.quadratic_1) / at.quadratic + at.log_det_1)


def score_root(at: Profile, n: Array) -> Array:
    """F = Q + N Q'/L', which has the sign of f'."""
    return at.quadratic + n * at.quadratic_1 / at.log_det_1


def curvature(at: Profile, n: Array) -> Array:
    """f'', the second derivative of the profile of -2 log L in lambda."""
    return n * (at.quadratic_2 / at.quadratic - (at.quadratic_1 / at.quadratic) ** 2) + at.log_det_2


@record
class LogVarianceDerivatives:
    """The negative log-likelihood at (log within, log between), beta profiled out, up to the constants of the frame."""

    value: Array
    """() [nat]."""
    gradient: Array
    """(2,) [nat]."""
    hessian: Array
    """(2, 2) [nat]."""


def derivatives(at: Profile, n: Array, within: Array) -> LogVarianceDerivatives:
    """Value, gradient and Hessian in (log within, log between) from the profile at their ratio.

    With s = ratio (L' + Q' / within) and t = Q / within:
    d/d log between = s / 2 and d/d log within = (N - s - t) / 2.
    """
    t = at.quadratic / within
    t_1 = at.ratio * at.quadratic_1 / within
    s = at.ratio * at.log_det_1 + t_1
    s_1 = s + at.ratio**2 * (at.log_det_2 + at.quadratic_2 / within)  # d s / d log ratio, within held
    cross = -s_1 - t_1
    return LogVarianceDerivatives(
        value=(n * jnp.log(within) + at.log_det + t) / 2,
        gradient=jnp.stack([n - s - t, s]) / 2,
        hessian=jnp.stack([jnp.stack([s_1 + 2 * t_1 + t, cross]), jnp.stack([cross, s_1])]) / 2,
    )


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
        none are raised; variances out of their range give NaN.

    Source: Searle, Casella and McCulloch (1992), section 6.2.

    Example:
        >>> import jaxre
        >>> moments = jaxre.group_moments([3.0, 5.0, 11.0, 9.0], [0, 0, 1, 1])
        >>> print(f"{jaxre.log_likelihood(jaxre.Components(within=2.0, between=3.0), moments):.4f}")
        -9.6983
    """
    return _log_likelihood(components, moments, beta, restricted=False)


def restricted_log_likelihood(components: Components, moments: GroupMoments | Strata) -> Array:
    """Restricted log-likelihood of the variance components: that of n - p error contrasts.

    -2 l = (n - p) log 2 pi + log det V + log det X' V^-1 X + y' P y, with the constant of lme4 and nlme.

    Args:
        components: within > 0, between >= 0.
        moments: sufficient statistics, by group or by stratum.

    Returns:
        () [nat].

    Errors:
        none are raised; variances out of their range give NaN.

    Source: Patterson and Thompson (1971), Biometrika 58, 545-554; Harville (1974), Biometrika 61, 383-385.

    Example:
        >>> import jaxre
        >>> moments = jaxre.group_moments([3.0, 5.0, 11.0, 9.0], [0, 0, 1, 1])
        >>> print(f"{jaxre.restricted_log_likelihood(jaxre.Components(within=2.0, between=3.0), moments):.4f}")
        -8.4328
    """
    return _log_likelihood(components, moments, None, restricted=True)


def _log_likelihood(
    components: Components, moments: GroupMoments | Strata, beta: ArrayLike | None, restricted: bool
) -> Array:
    equations = normal_equations(stratify(moments) if isinstance(moments, GroupMoments) else moments)
    frame, within, n = equations.strata.frame, components.within, degrees(equations.strata, restricted)
    fit = gls(equations, jnp.asarray(components.ratio))
    at = profile_of(equations, fit, jnp.asarray(components.ratio), restricted)
    scaled = within * frame.scale * frame.scale
    minus_2 = n * jnp.log(2 * jnp.pi * within) + at.log_det + at.quadratic / scaled
    if restricted:  # log det X' H^-1 X in the user's coordinates, and its within
        minus_2 = minus_2 - 2 * frame.log_volume
    if beta is not None:
        gap = jnp.linalg.solve(frame.transform, jnp.asarray(beta) - frame.origin) - fit.gamma
        minus_2 = minus_2 + gap @ fit.normal @ gap / scaled
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
        none are raised; variances out of their range give NaN.

    Source: definition; the derivatives of Q and log det are those of `profile`.

    Example:
        >>> import jaxre
        >>> moments = jaxre.group_moments([3.0, 5.0, 11.0, 9.0], [0, 0, 1, 1])
        >>> at = jaxre.log_variance_derivatives(jaxre.Components(within=2.0, between=17.0), moments, restricted=True)
        >>> print(abs(at.gradient).max() < 1e-6)
        True
    """
    equations = normal_equations(stratify(moments) if isinstance(moments, GroupMoments) else moments)
    n, frame = degrees(equations.strata, restricted), equations.strata.frame
    at = profile(equations, jnp.asarray(components.ratio), restricted)
    here = derivatives(at, n, components.within * frame.scale * frame.scale)
    constant = n * (jnp.log(2 * jnp.pi) / 2 - jnp.log(frame.scale)) - (frame.log_volume if restricted else 0)
    return replace(here, value=here.value + constant)
