"""Estimators: analysis of variance, maximum likelihood and REML, each from moments to an estimate."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import optax

from jaxre.certificate import WIDTH, find_basins
from jaxre.components import Components
from jaxre.effects import NormalEquations, gls, normal_equations
from jaxre.likelihood import curvature, degrees, profile, profile_of, score
from jaxre.moments import GroupMoments, Strata, stratify
from jaxre.optimise import minimise
from jaxre.records import record
from jaxre.rows import Array
from jaxre.status import Status

KEPT_OPTIMA = WIDTH + 1


@record
class Estimate:
    """What an estimator returns: the variances, the coefficients, the criterion, and how far they can be trusted.

    Every number is NaN where `status` says that there is no estimate.
    """

    within: Array
    """() [y^2], variance within groups."""
    between: Array
    """() [y^2], variance between groups; exactly 0 on the boundary."""
    between_untruncated: Array
    """() [y^2], analysis of variance before truncation at 0; equal to between for the other methods."""
    ratio: Array
    """() [1], between / within."""
    icc: Array
    """() [1], between / (between + within)."""
    beta: Array
    """(p,) [y/x], coefficients, the intercept first."""
    beta_cov: Array
    """(p, p) [(y/x)^2], their covariance at the estimated variances."""
    beta_se: Array
    """(p,) [y/x], their standard errors."""
    log_likelihood: Array
    """() [nat], the restricted one for REML, else the full one; constants as in lme4."""
    status: Array
    """() int32 `Status`."""
    certified: Array
    """() bool, the optimum is proven to be the global one (a closed form counts)."""
    optima: Array
    """() int32, how many local optima the likelihood has."""
    optima_ratio: Array
    """(17,) [1], lambda at the local optima, first 0 if it is one; NaN where there is none."""
    gap: Array
    """() [nat], -2 log-likelihood of the second-best optimum less that of the best; infinite when there is one."""
    steps: Array
    """() int32, steps of the optimiser."""
    gamma: Array
    """(p,) coefficients in the coordinates of the moments' frame."""
    gamma_cov: Array
    """(p, p) [1], their covariance in units of within."""


def reml(moments: GroupMoments | Strata, *, optimizer: optax.GradientTransformation | None = None) -> Estimate:
    """Restricted maximum likelihood estimate.

    Works inside jit and under vmap. The likelihood of the n - p error contrasts, maximised over the variances, with a
    proof that the optimum is global; beta is the generalised least-squares estimate at those variances.

    Args:
        moments: sufficient statistics, by group or by stratum.
        optimizer: any optax transformation in the place of `newton()`.

    Returns:
        Estimate.

    Errors:
        none are raised; `status` says why there is no estimate, and the numbers are NaN.

    Source: Patterson and Thompson (1971), Biometrika 58, 545-554.

    Example:
        >>> import jax, jaxre
        >>> moments = jaxre.group_moments([3.0, 5.0, 11.0, 9.0, 7.0, 6.0], [0, 0, 1, 1, 2, 2], num_groups=3)
        >>> estimate = jax.jit(jaxre.reml)(moments)
        >>> print(f"{estimate.within:.4f} {estimate.between:.4f} {bool(estimate.certified)}")
        1.5000 8.3333 True
    """
    return _likelihood_estimate(moments, restricted=True, optimizer=optimizer)


def ml(moments: GroupMoments | Strata, *, optimizer: optax.GradientTransformation | None = None) -> Estimate:
    """Maximum likelihood estimate.

    Works inside jit and under vmap. The full likelihood, maximised over the variances with beta profiled out, with a
    proof that the optimum is global.

    Args:
        moments: sufficient statistics, by group or by stratum.
        optimizer: any optax transformation in the place of `newton()`.

    Returns:
        Estimate.

    Errors:
        none are raised; `status` says why there is no estimate, and the numbers are NaN.

    Source: Hartley and Rao (1967), Biometrika 54, 93-108.

    Example:
        >>> import jaxre
        >>> moments = jaxre.group_moments([3.0, 5.0, 11.0, 9.0, 7.0, 6.0], [0, 0, 1, 1, 2, 2])
        >>> estimate = jaxre.ml(moments)
        >>> print(f"{estimate.within:.4f} {estimate.between:.4f}")
        1.5000 5.3056
    """
    return _likelihood_estimate(moments, restricted=False, optimizer=optimizer)


def anova(moments: GroupMoments | Strata) -> Estimate:
    """Analysis-of-variance estimate, Henderson's method 3 when there are covariates.

    Works inside jit and under vmap. With r = rank[X Z] - p and RSS the residual sums of squares on X and on [X Z]:
    within = RSS_XZ / (n - rank[X Z]), between = (RSS_X - RSS_XZ - r within) / tr(Z' P0 Z), P0 = I - X (X'X)^-1 X'.
    Both are unbiased. A negative `between_untruncated` says that the model does not suit the data; between is then 0.
    Without covariates within = SSW / (n - J) and between = n (SSB - (J - 1) within) / (n^2 - sum n_j^2).

    Args:
        moments: sufficient statistics, by group or by stratum.

    Returns:
        Estimate; beta is the generalised least-squares estimate at the truncated variances, and log_likelihood the
        full one there.

    Errors:
        none are raised; `status` says why there is no estimate, and the numbers are NaN.

    Source: Henderson (1953), Biometrics 9, 226-252; Searle, Casella and McCulloch (1992), section 5.5.

    Example:
        >>> import jaxre
        >>> estimate = jaxre.anova(jaxre.group_moments([3.0, 5.0, 11.0, 9.0, 7.0, 6.0], [0, 0, 1, 1, 2, 2]))
        >>> print(f"{estimate.within:.4f} {estimate.between:.4f}")
        1.5000 8.3333
    """
    strata = stratify(moments) if isinstance(moments, GroupMoments) else moments
    equations = normal_equations(strata)
    p = strata.means.shape[-1] - 1
    flat = profile(equations, jnp.zeros_like(strata.rows), restricted=True)
    rank = strata.counts.sum() + strata.within_rank
    within = equations.floor / (strata.rows - rank)
    untruncated = (flat.excess - (rank - p) * within) / flat.log_det_1
    between = jnp.maximum(untruncated, 0)
    code = jnp.where(untruncated < 0, Status.NEGATIVE, jnp.where(between == 0, Status.BOUNDARY, Status.INTERIOR))
    return _finish(
        equations,
        restricted=False,
        ratio=between / within,
        within=within,
        untruncated=untruncated,
        code=code,
        certified=jnp.array(True),
        optima=jnp.ones((), jnp.int32),
        optima_ratio=jnp.full(KEPT_OPTIMA, jnp.nan).at[0].set(between / within).astype(within.dtype),
        gap=jnp.full_like(within, jnp.inf),
        steps=jnp.zeros((), jnp.int32),
    )


def _likelihood_estimate(
    moments: GroupMoments | Strata, restricted: bool, optimizer: optax.GradientTransformation | None
) -> Estimate:
    strata = stratify(moments) if isinstance(moments, GroupMoments) else moments
    equations = normal_equations(strata)
    n = degrees(strata, restricted)
    searched = jax.lax.stop_gradient(equations)  # the search has no derivative; `implicit_root` has it
    basins = find_basins(searched, restricted)
    found = minimise(searched, restricted, basins, optimizer)

    values = jnp.append(jnp.where(basins.zero_is_optimum, 0.0, jnp.inf), found.value)
    ratios = jnp.append(jnp.where(basins.zero_is_optimum, 0.0, jnp.nan), found.ratio)
    best = jnp.argmin(values)
    optimum, ratio = values[best], ratios[best]
    others = jnp.where(jnp.arange(len(values)) == best, jnp.inf, values)
    rounding = 64 * jnp.finfo(n.dtype).eps * n
    certified = basins.complete & found.converged.all() & (optimum <= basins.unresolved - rounding)
    several = basins.count + basins.zero_is_optimum > 1
    code = jnp.where(ratio == 0, Status.BOUNDARY, Status.INTERIOR) + jnp.where(several, 2, 0)
    converged = jnp.append(True, found.converged)[best] & jnp.isfinite(optimum)
    return _finish(
        equations,
        restricted,
        ratio=implicit_root(restricted, equations, ratio),
        within=None,
        untruncated=None,
        code=jnp.where(converged, code, Status.NOT_CONVERGED),
        certified=certified & converged,
        optima=basins.count + basins.zero_is_optimum,
        optima_ratio=ratios,
        gap=others.min() - optimum,
        steps=found.steps,
    )


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def implicit_root(restricted: bool, equations: NormalEquations, ratio: Array) -> Array:
    """The ratio, a root of the score, as a function of the moments.

    The score f'(lambda, moments) = 0 defines lambda, so d lambda = -(d f' / d moments) d moments / f''. On the boundary
    the derivative is 0.
    """
    return ratio


@implicit_root.defjvp
def _implicit_root_jvp(
    restricted: bool, primals: tuple[NormalEquations, Array], tangents: tuple[NormalEquations, Array]
) -> tuple[Array, Array]:
    equations, ratio = primals
    root = implicit_root(restricted, equations, ratio)
    n = degrees(equations.strata, restricted)
    at = profile(equations, root, restricted)
    _, change = jax.jvp(lambda moved: score(profile(moved, root, restricted), n), (equations,), (tangents[0],))
    interior = root > 0
    return root, jnp.where(interior, -change / jnp.where(interior, curvature(at, n), 1), 0)


def _finish(
    equations: NormalEquations,
    restricted: bool,
    ratio: Array,
    within: Array | None,
    untruncated: Array | None,
    code: Array,
    certified: Array,
    optima: Array,
    optima_ratio: Array,
    gap: Array,
    steps: Array,
) -> Estimate:
    """The estimate in the user's units, with what the status takes away."""
    strata = equations.strata
    frame, p = strata.frame, strata.means.shape[-1] - 1
    fit = gls(equations, ratio)
    at = profile_of(equations, fit, ratio, restricted)
    n = degrees(strata, restricted)
    within = at.quadratic / n if within is None else within
    criterion = n * (jnp.log(2 * jnp.pi * within) - 2 * jnp.log(frame.scale)) + at.log_det + at.quadratic / within
    criterion = criterion - (2 * frame.log_volume if restricted else 0)

    to_user = lambda variance: variance / frame.scale / frame.scale
    inverse = fit.solve(jnp.eye(p, dtype=n.dtype))
    beta_cov = within * (frame.transform @ inverse @ frame.transform.T)
    between = ratio * within
    components = Components(within=to_user(within), between=to_user(between))
    tiny = jnp.finfo(n.dtype).tiny
    in_range = (
        jnp.isfinite(components.total)
        & (components.within >= tiny)
        & ((between == 0) | (components.between >= tiny))
        & jnp.isfinite(beta_cov).all()
        & (jnp.diagonal(beta_cov) >= tiny).all()
        & jnp.isfinite(frame.origin).all()
    )
    status = jnp.where(strata.status == Status.INTERIOR, code, strata.status)
    status = jnp.where((status < Status.NOT_CONVERGED) & ~in_range, Status.OUT_OF_RANGE, status).astype(jnp.int32)
    failed = status >= Status.NOT_IDENTIFIED
    known = lambda x: jnp.where(failed, jnp.nan, x)
    untruncated = components.between if untruncated is None else to_user(untruncated)
    return Estimate(
        within=known(components.within),
        between=known(components.between),
        between_untruncated=known(untruncated),
        ratio=known(ratio),
        icc=known(ratio / (1 + ratio)),
        beta=known(frame.origin + frame.transform @ fit.gamma),
        beta_cov=known(beta_cov),
        beta_se=known(jnp.sqrt(jnp.diagonal(beta_cov))),
        log_likelihood=known(-criterion / 2),
        status=status,
        certified=certified & ~failed,
        optima=jnp.where(failed, 0, optima),
        optima_ratio=known(optima_ratio),
        gap=known(gap),
        steps=steps,
        gamma=known(fit.gamma),
        gamma_cov=known(inverse),
    )
