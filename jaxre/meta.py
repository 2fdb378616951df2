"""Random-effects meta-analysis: the one-way model whose variances within groups, of one estimate a study, are known."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxre.arrays import real_array
from jaxre.components import Components
from jaxre.distributions import level_of, t_p_value, t_quantile
from jaxre.eager import in_one_program
from jaxre.effects import NormalEquations, normal_equations
from jaxre.estimate import ml, reml, solvable
from jaxre.exact import degrees_of_freedom, exact_interval, f_test, pivot_of, pivot_root
from jaxre.information import information
from jaxre.moments import GroupMoments, Strata, moments_of
from jaxre.optimum import anova_optimum
from jaxre.profile import minus_2_log_likelihood, profile, solve
from jaxre.records import record
from jaxre.rows import Array
from jaxre.settings import is_small
from jaxre.status import Status
from jaxre.strata import stratify
from jaxre.traced_rows import SingleRows

METHODS = ("reml", "ml", "dl", "he", "pm")
TESTS = ("normal", "knapp-hartung")


@record
class MetaAnalysis:
    """A random-effects meta-analysis or meta-regression; see `meta_analysis`.

    Every number is NaN where `status` says that there is no estimate.
    """

    studies: Array
    """() [1], k, studies with an effect and a variance."""
    tau2: Array
    """() [y^2], variance between studies; exactly 0 on the boundary."""
    tau2_untruncated: Array
    """() [y^2], before truncation at 0, where the method has such a number; else equal to tau2."""
    tau2_se: Array
    """() [y^2], standard error by the expected information of the method's likelihood; NaN for "dl", "he" and "pm"."""
    tau2_low: Array
    """() [y^2], lower end of the Q-profile interval; exactly 0 where the limit is not reached above 0."""
    tau2_high: Array
    """() [y^2], upper end."""
    beta: Array
    """(p,) [y/x], coefficients, the mean effect first."""
    beta_cov: Array
    """(p, p) [(y/x)^2], their covariance, Knapp and Hartung's where that was asked for."""
    beta_se: Array
    """(p,) [y/x], standard errors."""
    statistic: Array
    """(p,) [1], beta / beta_se."""
    df: Array
    """() [1], degrees of freedom of the statistics: infinite, or k - p for Knapp and Hartung's."""
    p_value: Array
    """(p,), of beta = 0, two-sided."""
    beta_low: Array
    """(p,) [y/x], lower ends of intervals."""
    beta_high: Array
    """(p,) [y/x], upper ends."""
    prediction_low: Array
    """() [y], lower end of the prediction interval for the effect in a new study whose covariates are 0."""
    prediction_high: Array
    """() [y], upper end."""
    q: Array
    """() [1], Cochran's Q: residual heterogeneity where there are covariates."""
    q_df: Array
    """() [1], k - p."""
    q_p_value: Array
    """(), of tau2 = 0."""
    i2: Array
    """() [1], share of tau2 in the total variance of a typical study, at the estimate of tau2."""
    i2_of_q: Array
    """() [1], max(0, (Q - df) / Q)."""
    h2: Array
    """() [1], (tau2 + s2) / s2, s2 the variance of a typical study."""
    log_likelihood: Array
    """() [nat], the restricted one for "reml", else the full one."""
    status: Array
    """() int32 `Status`."""
    certified: Array
    """() bool, the optimum is proven to be the global one; True for the methods that are closed forms or roots."""
    optima: Array
    """() int32, how many local optima the likelihood has; 1 for the other methods, 0 without an estimate."""


def meta_analysis(
    effects: ArrayLike,
    variances: ArrayLike,
    covariates: ArrayLike | None = None,
    *,
    method: str = "reml",
    test: str = "normal",
    level: float = 0.95,
) -> MetaAnalysis:
    """Random-effects meta-analysis, or meta-regression: y_i = x_i' beta + a_i + e_i, Var(e_i) = v_i known.

    The variance between studies tau2 by REML, maximum likelihood, or the method of DerSimonian and Laird, of Hedges, or
    of Paule and Mandel; the coefficients by generalised least squares. This is the one-way model with a group a study
    and a known variance within, and all of it comes from that model's moments: DerSimonian and Laird's estimate is its
    analysis of variance, the Q-profile interval its exact interval. A pure function: works inside jit, under vmap and
    grad, and follows the dtype of `effects`; `fit_meta` is the front door in double precision.

    Args:
        effects: (k,) [y], estimate of each study; NaN where there is none.
        variances: (k,) [y^2], their sampling variances, > 0; NaN where there is none.
        covariates: (k, p - 1) [x], no column of ones, of studies (moderators); None for the mean effect alone.
        method: "reml", "ml", "dl" (DerSimonian-Laird), "he" (Hedges) or "pm" (Paule-Mandel).
        test: "normal", or "knapp-hartung" for standard errors scaled by the residual heterogeneity at tau2, as it comes
            (also below 1), and t on k - p degrees of freedom.
        level: [1], of all intervals.

    Returns:
        MetaAnalysis.

    Errors:
        ValueError for an unknown method or test, a level outside (0, 1), or shapes that do not fit. A variance that is
        not positive, infinity, fewer than p + 1 studies, or rank-deficient covariates: `status` says so, and the
        numbers are NaN.

    Source: DerSimonian and Laird (1986), Controlled Clinical Trials 7, 177-188; Hedges and Olkin (1985), Statistical
        Methods for Meta-Analysis; Paule and Mandel (1982), Journal of Research of the NBS 87, 377-385; Viechtbauer
        (2005), Journal of Educational and Behavioral Statistics 30, 261-293, and (2007), Statistics in Medicine 26,
        37-52 (Q-profile); Knapp and Hartung (2003), Statistics in Medicine 22, 2693-2710; Higgins, Thompson and
        Spiegelhalter (2009), Journal of the Royal Statistical Society A 172, 137-159 (prediction).

    Example:
        >>> import jaxre
        >>> found = jaxre.meta_analysis([0.10, 0.30, 0.35, 0.65, 0.45, 0.15], [0.03, 0.03, 0.05, 0.01, 0.05, 0.02])
        >>> print(f"{found.tau2:.4f} {found.beta[0]:.4f} {found.beta_se[0]:.4f}")
        0.0331 0.3463 0.1012
    """
    refuse_words(method=(method, METHODS), test=(test, TESTS))
    level, (y, v, x) = level_of(level), _arrays(effects, variances, covariates)
    words: dict[str, Any] = {"method": method, "test": test}
    given: dict[str, Any] = {"y": y, "v": v, "x": x, "level": level}
    return in_one_program(_analysis, words, given, is_small(len(y), 1 if x is None else x.shape[1] + 1))


def refuse_words(**options: tuple[str, tuple[str, ...]]) -> None:
    """An error for the first option whose word is not one of those that there are."""
    for option, (given, known) in options.items():
        if given not in known:
            raise ValueError(f"{option} must be one of {', '.join(map(repr, known))}, got {given!r}.")


def _analysis(y: Array, v: Array, x: Array | None, level: Array, method: str, test: str) -> MetaAnalysis:
    moments, within = _study_moments(y, v, x)
    strata, status = _standing(stratify(moments))
    within = jnp.where(status >= Status.UNBOUNDED, 1, within)
    equations, scale_2 = normal_equations(strata), strata.frame.scale * strata.frame.scale
    heterogeneity, interval = f_test(strata), exact_interval(strata, level)
    df1, q = heterogeneity.df1, heterogeneity.statistic * heterogeneity.df1
    typical = df1 / profile(equations, jnp.zeros_like(within), True).log_det_1 * within

    estimate = ml(strata) if method == "ml" else reml(strata)
    code, certified, optima = estimate.status, estimate.certified, estimate.optima
    tau2 = untruncated = estimate.between
    if method not in ("reml", "ml"):
        untruncated = _by_moments(method, equations, moments, within)
        tau2 = jnp.maximum(untruncated, 0)
        code = jnp.where(untruncated < 0, Status.NEGATIVE, jnp.where(tau2 == 0, Status.BOUNDARY, Status.INTERIOR))
        code = jnp.where(jnp.isfinite(untruncated), code, Status.OUT_OF_RANGE)
        certified, optima = jnp.ones((), bool), jnp.ones((), jnp.int32)
    status = jnp.maximum(status, code.astype(jnp.int32))
    failed = status >= Status.UNBOUNDED
    nan = jnp.where(failed, jnp.nan, 0.0).astype(within.dtype)

    tau2 = jnp.where(failed, 0, tau2)
    at, gamma, gamma_cov = solve(equations, tau2 / within, method == "reml")
    frame = strata.frame
    cov = within * scale_2 * (frame.transform @ gamma_cov @ frame.transform.T)
    beta, df = frame.origin + frame.transform @ gamma, jnp.full_like(within, jnp.inf)
    if test == "knapp-hartung":
        cov, df = cov * (at.excess / (within * scale_2) / df1), df1
    cov = jnp.where(failed, jnp.eye(len(beta), dtype=cov.dtype), cov)
    se = jnp.sqrt(jnp.diagonal(cov))
    reach = t_quantile(level, df).astype(within.dtype)
    spread = reach * jnp.sqrt(tau2 + cov[0, 0])
    error = jnp.full_like(within, jnp.nan)
    if method in ("reml", "ml"):
        at_optimum = Components(within=within, between=tau2)
        error = information(strata, at_optimum, restricted=method == "reml", kind="expected").standard_error[1]
    return MetaAnalysis(
        studies=jnp.sum(jnp.asarray(moments.sizes) > 0),
        tau2=tau2 + nan,
        tau2_untruncated=untruncated + nan,
        tau2_se=error + nan,
        tau2_low=interval.ratio_low * within + nan,
        tau2_high=interval.ratio_high * within + nan,
        beta=beta + nan,
        beta_cov=cov + nan,
        beta_se=se + nan,
        statistic=beta / se + nan,
        df=df + nan,
        p_value=t_p_value(beta / se, df).astype(within.dtype) + nan,
        beta_low=beta - reach * se + nan,
        beta_high=beta + reach * se + nan,
        prediction_low=beta[0] - spread + nan,
        prediction_high=beta[0] + spread + nan,
        q=q + nan,
        q_df=df1 + nan,
        q_p_value=heterogeneity.p_value + nan,
        i2=tau2 / (tau2 + typical) + nan,
        i2_of_q=jnp.maximum(1 - df1 / q, 0) + nan,
        h2=(tau2 + typical) / typical + nan,
        log_likelihood=nan - minus_2_log_likelihood(at, df1, within * scale_2, frame, method == "reml") / 2,
        status=status,
        certified=certified & ~failed,
        optima=jnp.where(failed, 0, optima),
    )


def _standing(strata: Strata) -> tuple[Strata, Array]:
    """The strata, and in the place of those that have no estimate some that do, so that what is computed of them leaves
    the derivatives of others; and the status that there was."""
    failed = strata.status >= Status.UNBOUNDED
    put = lambda leaf, other: jnp.where(failed, other, leaf)
    return dataclasses.replace(
        solvable(strata),
        sizes=put(strata.sizes, jnp.arange(1, 1 + len(strata.sizes), dtype=strata.sizes.dtype)),
        counts=put(strata.counts, 2.0 * strata.means.shape[-1]),
        within_rank=put(strata.within_rank, 0.0),
        status=put(strata.status, int(Status.INTERIOR)),
    ), strata.status


def study_moments(
    effects: ArrayLike, variances: ArrayLike, covariates: ArrayLike | None = None
) -> tuple[GroupMoments, Array]:
    """Moments of studies, a group each, and the known variance within, of which the weights are in units.

    Args:
        effects: (k,) [y]; NaN where there is none.
        variances: (k,) [y^2]; NaN where there is none.
        covariates: (k, p - 1) [x].

    Returns:
        GroupMoments, a study that is not there as a group of size 0, and () [y^2], the largest variance.

    Errors:
        ValueError for shapes that do not fit.

    Source: definition; the moments are those of `group_moments` with weights and a known variance within.

    Example:
        >>> from jaxre.meta import study_moments
        >>> moments, within = study_moments([1.0, 3.0, 2.0], [2.0, 1.0, 4.0])
        >>> print(moments.sizes, within)
        [2. 4. 1.] 4.0
    """
    y, v, x = _arrays(effects, variances, covariates)
    return in_one_program(_study_moments, {}, {"y": y, "v": v, "x": x}, True)


def _arrays(
    effects: ArrayLike, variances: ArrayLike, covariates: ArrayLike | None
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    y, v = real_array(effects, "effects"), real_array(variances, "variances")
    v = v.astype(y.dtype)
    if y.ndim != 1 or y.shape[0] == 0 or v.shape != y.shape:
        raise ValueError(f"effects and variances must be one-dimensional of one length, got {y.shape} and {v.shape}.")
    if covariates is None:
        return y, v, None
    x = real_array(covariates, "covariates").astype(y.dtype)
    if x.ndim != 2 or x.shape[0] != y.shape[0]:
        raise ValueError(f"covariates must have shape ({y.shape[0]}, p - 1) like effects, got {x.shape}.")
    return y, v, x


def _study_moments(y: Array, v: Array, x: Array | None) -> tuple[GroupMoments, Array]:
    table = y[:, None] if x is None else jnp.concatenate([x, y[:, None]], axis=1)
    present = ~(jnp.isnan(table).any(axis=1) | jnp.isnan(v))
    unit = jax.lax.stop_gradient(jnp.where(present, v, -jnp.inf).max())
    within = jnp.where((unit > 0) & jnp.isfinite(unit), unit, jnp.nan)
    usable = present & (v > 0)  # or 0 * NaN would be the share of the others in a derivative
    weights = jnp.where(usable, within / jnp.where(usable, v, 1), jnp.nan)
    return moments_of(SingleRows(table, weights, present), within), within


def _by_moments(method: str, equations: NormalEquations, moments: GroupMoments, within: Array) -> Array:
    """tau2 by a method that equates sums of squares to their expectations, before truncation at 0."""
    strata = equations.strata
    if method == "dl":  # the analysis of variance of the model
        return anova_optimum(strata).untruncated * within
    df1, df2 = degrees_of_freedom(strata)
    if method == "pm":
        return pivot_root(pivot_of(strata), df1, df2, jnp.ones_like(within)) * within
    # Hedges': ordinary least squares of the effects, whose residual sum of squares has expectation tr(M (tau2 + V))
    present = (moments.sizes > 0).astype(within.dtype)
    x, y = moments.means[:, :-1], moments.means[:, -1] / strata.frame.scale
    leverage_of = jnp.linalg.pinv(x)
    residual = y - x @ (leverage_of @ y)
    leverage = (x * leverage_of.T).sum(axis=1)
    known = jnp.where(moments.sizes > 0, within / jnp.where(moments.sizes > 0, moments.sizes, 1), 0)
    return ((residual * residual).sum() - ((present - leverage) * known).sum()) / df1
