"""Exact tests and intervals for the variance between groups, at any group sizes and with covariates."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxre.curve import Curve, curve
from jaxre.distributions import chi2_above, f_quantile, f_tails, gamma_quantile, level_of
from jaxre.eager import compiled_alone
from jaxre.effects import normal_equations
from jaxre.moments import GroupMoments, Strata
from jaxre.profile import Profile
from jaxre.records import record
from jaxre.rows import Array
from jaxre.strata import as_strata

SIDES = ("two-sided", "lower", "upper")
STEPS = 60  # of Newton's method; three to six are usual


@record
class FTest:
    """The exact F test of between = 0; see `f_test`."""

    statistic: Array
    """() [1], F."""
    df1: Array
    """() [1], r = rank[X Z] - p; groups - 1 for the intercept alone."""
    df2: Array
    """() [1], n - rank[X Z]; n - groups for the intercept alone."""
    p_value: Array
    """()."""


@record
class ExactInterval:
    """Exact interval for ratio and ICC, truncated at 0 and as it comes; see `exact_interval`."""

    ratio_low: Array
    """() [1], lower end of the interval for between / within; at least 0."""
    ratio_high: Array
    """() [1], upper end; at least 0, infinite for a lower bound alone."""
    icc_low: Array
    """() [1], lower end of the interval for between / (between + within); at least 0."""
    icc_high: Array
    """() [1], upper end; at least 0, 1 for a lower bound alone."""
    ratio_low_untruncated: Array
    """() [1], as it comes: at least -1 / largest size, where the covariance matrix becomes singular."""
    ratio_high_untruncated: Array
    """() [1]."""
    icc_low_untruncated: Array
    """() [1], as it comes: at least -1 / (largest size - 1)."""
    icc_high_untruncated: Array
    """() [1]."""


@compiled_alone
def f_test(moments: GroupMoments | Strata) -> FTest:
    """Exact F test of between = 0, for any group sizes and covariates.

    F = [(RSS_X - RSS_XZ) / r] / [RSS_XZ / (n - p - r)] with r = rank[X Z] - p, which is F(r, n - p - r) where between
    is 0. With covariates (groups - 1, n - groups) would be wrong degrees of freedom. Where within is known, the second
    degrees of freedom are infinite and r F is Cochran's Q, chi-square on r. Works inside jit and under vmap.

    Args:
        moments: sufficient statistics, by group or by stratum.

    Returns:
        FTest.

    Errors:
        TypeError for anything but moments; degenerate ones give NaN.

    Source: Wald (1947), Annals of Mathematical Statistics 18, 586-589; Searle, Casella and McCulloch (1992), Variance
        Components.

    Example:
        >>> import jaxre
        >>> moments = jaxre.group_moments([3.0, 5.0, 11.0, 9.0, 7.0, 6.0], [0, 0, 1, 1, 2, 2])
        >>> test = jaxre.f_test(moments)
        >>> print(f"{test.statistic:.4f} {test.df1:.0f} {test.df2:.0f} {test.p_value:.4f}")
        12.1111 2 3 0.0366
    """
    strata = as_strata(moments)
    test = f_test_of(curve(normal_equations(strata), restricted=False), *degrees_of_freedom(strata))
    if strata.frame.known is None:
        return test
    p_value = chi2_above(test.statistic * test.df1, test.df1).astype(test.statistic.dtype)
    return dataclasses.replace(test, df2=test.df2 + jnp.inf, p_value=p_value)


@compiled_alone
def exact_interval(moments: GroupMoments | Strata, level: float = 0.95, *, side: str = "two-sided") -> ExactInterval:
    """Exact interval for between / within and for the ICC, at any group sizes and with covariates: Wald's pivot.

    H(lambda) = [(Q(lambda) - Q(infinity)) / r] / [Q(infinity) / (n - p - r)], r = rank[X Z] - p, is F(r, n - p - r) at
    the true lambda = between / within and decreases in lambda, so an end of the interval is where H is a quantile of F.
    The model makes sense down to lambda = -1 / largest size, exclusive. Where H stays below the quantile on all of that
    domain, the end is at the end of the domain; an interval of which both ends are there is empty, and of level 0.95
    in 2.5 % of datasets at most. Truncated at 0 the interval covers 97.5 % where between is 0, and it is 0 alone where
    all of it lay below. The balanced intercept-only case is the classical one; where within is known, this is the
    Q-profile interval. Works inside jit and under vmap.

    Args:
        moments: sufficient statistics, by group or by stratum.
        level: [1], probability with which the untruncated interval holds the truth.
        side: "two-sided" with equal tails; "lower" for a lower bound, the interval then reaching to infinity; "upper"
            for an upper bound, the interval then reaching down to the end of the domain.

    Returns:
        ExactInterval.

    Errors:
        ValueError for a level outside (0, 1) or an unknown side; degenerate moments give NaN.

    Source: Wald (1940), Annals of Mathematical Statistics 11, 96-100; Seely and El-Bassiouni (1983), Annals of
        Statistics 11, 197-201; Harville and Fenech (1985), Biometrics 41, 137-152.

    Example:
        >>> import jaxre
        >>> moments = jaxre.group_moments([3.0, 5.0, 11.0, 9.0, 7.0, 6.0], [0, 0, 1, 1, 2, 2])
        >>> interval = jaxre.exact_interval(moments, 0.9)
        >>> print(f"{interval.icc_low:.4f} {interval.icc_high:.4f}")
        0.1181 0.9914
    """
    strata = as_strata(moments)
    freedom = degrees_of_freedom(strata)
    pivot = pivot_of(strata)
    quantiles = pivot_quantiles(*freedom, level, side, known=strata.frame.known is not None)
    return exact_interval_of(pivot, *freedom, *quantiles)


def degrees_of_freedom(strata: Strata) -> tuple[Array, Array]:
    """r = rank[X Z] - p and n - rank[X Z]."""
    rank = strata.counts.sum() + strata.within_rank
    return rank - (strata.means.shape[-1] - 1), strata.rows - rank


def f_test_of(of_data: Curve, df1: Array, df2: Array) -> FTest:
    """The F test from the profile of the data in any form."""
    nan = jnp.where(of_data.valid, 0.0, jnp.nan).astype(of_data.floor.dtype)
    statistic = (_at_zero(of_data).excess / df1) / (of_data.floor / df2) + nan
    p_value = f_tails(statistic, df1, df2)[1].astype(statistic.dtype)
    return FTest(statistic=statistic, df1=df1 + nan, df2=df2 + nan, p_value=p_value + nan)


def pivot_quantiles(df1: Array, df2: Array, level: float, side: str, known: bool = False) -> tuple[Array, Array]:
    """Quantiles of F at which the pivot puts the lower and the upper end; infinity and 0 where a side has none.

    They depend on the degrees of freedom alone, so datasets with the same ones need them once. With a `known` variance
    within, of infinite degrees of freedom, F is chi-square over its degrees of freedom.
    """
    quantile = lambda p: 2 * gamma_quantile(p, df1 / 2) / df1 if known else f_quantile(p, df1, df2)
    if side not in SIDES:
        raise ValueError(f"side must be one of {', '.join(map(repr, SIDES))}, got {side!r}.")
    level = level_of(level)
    if isinstance(level, jax.core.Tracer):
        level = jnp.where((level > 0) & (level < 1), level, jnp.nan)
    if side == "lower":
        return quantile(level), jnp.zeros_like(df1)
    if side == "upper":
        return jnp.full_like(df1, jnp.inf), quantile(1 - jnp.asarray(level))
    of_low, of_high = quantile(jnp.stack([jnp.asarray(1 + level), jnp.asarray(1 - level)]) / 2)
    return of_low, of_high


class Pivot(NamedTuple):
    """The profile of the data, twice: the root is sought on one that has no derivatives, and moved with the other."""

    curve: Curve
    """as a function of the data."""
    fixed: Curve
    """the same without derivatives: a search has none."""


def pivot_of(strata: Strata) -> Pivot:
    """The pivot through strata."""
    moving, still = normal_equations(strata), normal_equations(jax.lax.stop_gradient(strata))
    return Pivot(curve(moving, restricted=False), curve(still, restricted=False, fixed=True))


def exact_interval_of(
    pivot: Pivot, df1: Array, df2: Array, quantile_of_low: Array, quantile_of_high: Array
) -> ExactInterval:
    """The interval from the profile of the data, between given quantiles of F."""
    quantiles = jnp.stack([quantile_of_low, quantile_of_high])
    low, high = jax.lax.map(lambda quantile: pivot_root(pivot, df1, df2, quantile), quantiles)
    clipped_low, clipped_high = jnp.maximum(low, 0), jnp.maximum(high, 0)
    return ExactInterval(
        ratio_low=clipped_low,
        ratio_high=clipped_high,
        icc_low=_icc(clipped_low),
        icc_high=_icc(clipped_high),
        ratio_low_untruncated=low,
        ratio_high_untruncated=high,
        icc_low_untruncated=_icc(low),
        icc_high_untruncated=_icc(high),
    )


def pivot_root(pivot: Pivot, df1: Array, df2: Array, quantile: Array) -> Array:
    """The ratio at which H is the quantile; -1 / largest size where H stays below it, infinity where that is 0.

    1 / (Q - Q(infinity)) is concave and increasing in lambda (it is a harmonic mean of the lines 1 + lambda nu_i), so
    Newton's method on it rises to the root from the second iterate on and needs no bracket; balanced, it is a line.
    Near the end of the domain, where 1 + lambda * largest loses its digits, it is continued by its tangent. A step from
    the root that was found carries the derivatives.
    """
    moving, of_data = pivot
    dtype = of_data.floor.dtype
    eps, unit = jnp.finfo(dtype).eps, 1 / of_data.largest
    goal_of = lambda floor: quantile.astype(dtype) * df1 * (floor / df2)
    goal = jax.lax.stop_gradient(goal_of(of_data.floor))
    sought = of_data.valid & (goal > 0) & jnp.isfinite(goal)
    # with covariates a group that weighs 1e5 times more than the others already costs their coefficients digits
    least = unit * ((eps ** (1 / 3) if of_data.cancels else 8 * eps) - 1)

    def step(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        ratio, count, _ = state
        inside = jnp.maximum(ratio, least)
        at = of_data.at(inside)
        new = inside - (at.excess / goal - 1) * at.excess / at.quadratic_1
        # the error after a step is of the order of its square
        near = eps**0.6 * (unit + inside) + 4 * eps * unit
        return jnp.where(sought, new, 0), count + 1, sought & (abs(new - ratio) > near)

    start = jnp.zeros_like(of_data.floor), jnp.zeros((), jnp.int32), sought
    root = jax.lax.while_loop(lambda state: state[2] & (state[1] < STEPS), step, start)[0]
    moved = sought & (root > least)  # elsewhere the profile may be infinite, and 0 of that a derivative
    at, goal_moved = moving.at(jnp.where(moved, root, 0)), jnp.where(moved, goal_of(moving.floor), 1)
    slope = jnp.where(moved & (at.quadratic_1 < 0), at.quadratic_1, -1)
    last = (at.excess / goal_moved - 1) * at.excess / jax.lax.stop_gradient(slope)
    # of no value: near the end of the domain the profile is only as exact as 1 + ratio * largest is rounded
    root = jnp.where(moved & jnp.isfinite(last), root - (last - jax.lax.stop_gradient(last)), root)
    scattered = _at_zero(of_data).excess > 0
    found = jnp.where(scattered & (goal < jnp.inf), jnp.maximum(root, -unit), -unit)
    found = jnp.where(goal == 0, jnp.inf, jnp.where(jnp.isnan(quantile), jnp.nan, found))
    return jnp.where(of_data.valid, found, jnp.nan).astype(dtype)


def _at_zero(of_data: Curve) -> Profile:
    return of_data.at(jnp.zeros_like(of_data.floor))


def _icc(ratio: Array) -> Array:
    """ratio / (1 + ratio), 1 where the ratio is infinite."""
    finite = jnp.where(ratio == jnp.inf, 0, ratio)
    return jnp.where(ratio == jnp.inf, 1, finite / (1 + finite))
