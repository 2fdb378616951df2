"""Estimators: analysis of variance, maximum likelihood and REML, each from moments to an estimate."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from jaxre.eager import compiled_alone
from jaxre.frame import Frame
from jaxre.moments import GroupMoments, Strata
from jaxre.optimise import Optimizer
from jaxre.optimum import Optimum, anova_optimum, likelihood_optimum, quick_optimum, whole_optimum
from jaxre.profile import minus_2_log_likelihood
from jaxre.records import record
from jaxre.rows import Array
from jaxre.settings import formed_once
from jaxre.status import Status
from jaxre.strata import as_strata


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


@compiled_alone
def reml(moments: GroupMoments | Strata, *, optimizer: Optimizer | None = None) -> Estimate:
    """Restricted maximum likelihood estimate.

    Works inside jit and under vmap. The likelihood of the n - p error contrasts, maximised over the variances, with a
    proof that the optimum is global; beta is the generalised least-squares estimate at those variances.

    Derivatives go through the optimum by the implicit function theorem. On the boundary between, ratio and icc stay 0
    as the data move inwards a little either way, unless the score is exactly 0 there: their derivatives are 0, and the
    others are those of the model without groups.

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
    strata = solvable(as_strata(moments))
    return _of_strata(likelihood_optimum(strata, True, optimizer), strata, restricted=True)


@compiled_alone
def ml(moments: GroupMoments | Strata, *, optimizer: Optimizer | None = None) -> Estimate:
    """Maximum likelihood estimate.

    Works inside jit and under vmap. The full likelihood, maximised over the variances with beta profiled out, with a
    proof that the optimum is global.

    Derivatives go through the optimum by the implicit function theorem. On the boundary between, ratio and icc stay 0
    as the data move inwards a little either way, unless the score is exactly 0 there: their derivatives are 0, and the
    others are those of the model without groups.

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
    strata = solvable(as_strata(moments))
    return _of_strata(likelihood_optimum(strata, False, optimizer), strata, restricted=False)


@compiled_alone
def anova(moments: GroupMoments | Strata) -> Estimate:
    """Analysis-of-variance estimate, Henderson's method 3 when there are covariates.

    Works inside jit and under vmap. With r = rank[X Z] - p and RSS the residual sums of squares on X and on [X Z]:
    within = RSS_XZ / (n - rank[X Z]), between = (RSS_X - RSS_XZ - r within) / tr(Z' P0 Z), P0 = I - X (X'X)^-1 X'.
    Both are unbiased. A negative `between_untruncated` says that the model does not suit the data; between is then 0.
    Without covariates within = SSW / (n - J) and between = n (SSB - (J - 1) within) / (n^2 - sum n_j^2).

    Derivatives are those of the closed form; where between is truncated at 0 those of between, ratio and icc are 0.

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
    strata = solvable(as_strata(moments))
    return _of_strata(anova_optimum(strata), strata, restricted=False)


def estimate_of(strata: Strata, method: str, whole: bool | None) -> tuple[Estimate, Array]:
    """The estimate by the quick or by the whole search, and whether that settled it; None for one after the other."""
    restricted, settled = method == "reml", jnp.ones((), bool)
    if method == "anova":
        found = anova_optimum(strata)
    elif whole is None:
        found = likelihood_optimum(strata, restricted)
    elif whole:
        found = whole_optimum(strata, restricted)
    else:
        found, settled = quick_optimum(strata, restricted)
    return in_user_units(found, strata.frame, strata.rows, strata.status, restricted=restricted), settled


def solvable(strata: Strata) -> Strata:
    """Strata with a harmless stand-in for moments that have no estimate, so that no derivative meets 0 / 0."""
    failed = strata.status >= Status.UNBOUNDED
    put = lambda leaf, other: jnp.where(failed, other, leaf)
    plain = jnp.eye(strata.means.shape[-1], dtype=strata.means.dtype)
    return dataclasses.replace(
        strata,
        means=put(strata.means, 0.0),
        scatter=None if strata.scatter is None else put(strata.scatter, plain),
        within_cross=put(strata.within_cross, plain * (jnp.arange(len(plain)) > 0)),
    )


def _of_strata(optimum: Optimum, strata: Strata, *, restricted: bool) -> Estimate:
    return in_user_units(optimum, strata.frame, strata.rows, strata.status, restricted=restricted)


def in_user_units(
    optimum: Optimum, frame: Frame, rows: Array, status: Array, *, restricted: bool, variances: Array | None = None
) -> Estimate:
    """The estimate that an optimum means, with what the status takes away.

    `variances` (p,) is the diagonal of `gamma_cov` where that is known apart, and the frame the user's but for scale.
    """
    ratio, within = optimum.ratio, optimum.within
    n = rows - (optimum.gamma.shape[-1] if restricted else 0)
    criterion = minus_2_log_likelihood(optimum, n, within, frame, restricted)
    sigma_2 = within / frame.scale / frame.scale
    between = ratio * within / frame.scale / frame.scale
    if jnp.ndim(frame.transform) == 0:  # coefficients in the user's coordinates but for the scale
        unit = within * frame.transform * frame.transform
        beta_cov = unit * optimum.gamma_cov
        variances = unit * (jnp.diagonal(optimum.gamma_cov) if variances is None else variances)
        beta = frame.origin + frame.transform * optimum.gamma
    else:
        assert variances is None
        unit = frame.transform * frame.scale  # of the outcome's size, or small terms would vanish before they are added
        beta_cov = sigma_2 * (unit @ optimum.gamma_cov @ unit.T)
        beta = frame.origin + frame.transform @ optimum.gamma
        variances = jnp.diagonal(beta_cov)

    tiny = jnp.finfo(within.dtype).tiny
    representable = jnp.isfinite(sigma_2 + between + variances.sum() + jnp.abs(beta).sum())
    representable = representable & (sigma_2 >= tiny) & ((ratio == 0) | (between >= tiny)) & (variances.min() >= tiny)
    representable = formed_once(representable)
    found = (status == Status.INTERIOR) & (optimum.code < Status.NOT_CONVERGED)
    status = jnp.maximum(optimum.code, status)
    status = jnp.maximum(status, (found & ~representable) * int(Status.OUT_OF_RANGE))
    failed = formed_once(status >= Status.UNBOUNDED)
    nan = jnp.where(failed, jnp.nan, 0.0).astype(within.dtype)  # added to every number where there is no estimate
    return Estimate(
        within=sigma_2 + nan,
        between=between + nan,
        between_untruncated=optimum.untruncated * within / frame.scale / frame.scale + nan,
        ratio=ratio + nan,
        icc=ratio / (1 + ratio) + nan,
        beta=beta + nan,
        beta_cov=beta_cov + nan,
        beta_se=jnp.sqrt(variances) + nan,
        log_likelihood=nan - criterion / 2,
        status=status.astype(jnp.int32),
        certified=(optimum.certified > 0) & ~failed,
        optima=jnp.where(failed, 0, optimum.optima),
        optima_ratio=optimum.optima_ratio + nan,
        gap=optimum.gap + nan,
        steps=optimum.steps,
        gamma=optimum.gamma + nan,
        gamma_cov=optimum.gamma_cov + nan,
    )
