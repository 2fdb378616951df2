"""Checks of what the model assumes: equal variances within the groups, and normality."""

from __future__ import annotations

import operator
from functools import partial

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr, ndtri
from jax.typing import ArrayLike

from jaxre.distributions import f_tails
from jaxre.records import record
from jaxre.rows import Array


@record
class HomogeneityCheck:
    """A test of equal variances within groups; see `homogeneity_check`."""

    statistic: Array
    """() [1], F of the absolute deviations."""
    df1: Array
    """() [1], groups of at least three rows, less 1."""
    df2: Array
    """() [1], their rows less the groups."""
    p_value: Array
    """()."""
    spread: Array
    """(groups,) [y], mean absolute deviation from the group's median; NaN for a group of fewer than three rows."""


@record
class NormalityCheck:
    """A test of normality; see `normality_check`."""

    statistic: Array
    """() [1], W', squared correlation of the ordered values with normal scores; 1 is a straight quantile plot."""
    p_value: Array
    """() of independent values; NaN for fewer than 5 or more than 5,000."""
    skewness: Array
    """() [1], third standardised moment; 0 under normality."""
    excess_kurtosis: Array
    """() [1], fourth standardised moment less 3; 0 under normality."""
    scores: Array
    """(m,) [1], normal score of each value, for a quantile plot; NaN for a missing one."""


def homogeneity_check(residuals: ArrayLike, groups: ArrayLike, num_groups: int) -> HomogeneityCheck:
    """Brown and Forsythe's test that the variance within groups is the same in all groups.

    An analysis of variance of the absolute deviations from the median of the group. It says whether the spread of the
    rows differs between groups by more than chance; a large p-value is no proof that it does not, with few rows a group
    least of all. It says nothing of spread that changes with a covariate. The level is approximate, and robust against
    long tails. Groups of one row have no spread, and the two deviations of a pair are always equal: both are left out.

    Args:
        residuals: (n,) [y]; conditional or marginal ones differ by a constant in each group, which drops out.
        groups: (n,) integers 0 .. num_groups - 1.
        num_groups: how many.

    Returns:
        HomogeneityCheck.

    Errors:
        ValueError for shapes that do not fit. Fewer than two groups of three rows, or deviations that do not vary, give
        NaN.

    Source: Brown and Forsythe (1974), Journal of the American Statistical Association 69, 364-367.

    Example:
        >>> found = homogeneity_check([-1.0, 0.0, 1.0, -5.0, 2.0, 6.0], [0, 0, 0, 1, 1, 1], 2)
        >>> print(f"{found.statistic:.4f} {found.df1:.0f} {found.df2:.0f} {found.p_value:.4f}", found.spread.round(4))
        2.1316 1 4 0.2181 [0.6667 3.6667]
    """
    r, j = jnp.asarray(residuals), jnp.asarray(groups)
    if r.ndim != 1 or j.shape != r.shape:
        raise ValueError(
            f"residuals and groups must be one-dimensional and of one length, got {r.shape} and {j.shape}."
        )
    r = r if jnp.issubdtype(r.dtype, jnp.floating) else r.astype(jnp.result_type(float))
    return _homogeneity(r, j, operator.index(num_groups))


@partial(jax.jit, static_argnums=2)  # operation by operation it would take seconds to compile
def _homogeneity(r: Array, j: Array, num_groups: int) -> HomogeneityCheck:
    add = lambda rows: jax.ops.segment_sum(rows, j, num_groups)
    counts = jax.ops.segment_sum(jnp.ones(j.shape, jnp.int32), j, num_groups)
    ordered, first = r[jnp.lexsort((r, j))], jnp.cumsum(counts) - counts
    at = lambda place: ordered[jnp.clip(first + place, 0, len(r) - 1)]
    middle = (at((counts - 1) // 2) + at(counts // 2)) / 2
    away, used = abs(r - middle[j]), counts >= 3
    n = jnp.where(used, counts, 0).astype(r.dtype)
    spread = jnp.where(used, add(away) / jnp.maximum(n, 1), jnp.nan)
    level = jnp.where(used, spread, 0)
    rows, k = n.sum(), used.sum().astype(r.dtype)
    between = (n * (level - (n @ level) / jnp.maximum(rows, 1)) ** 2).sum()
    within = jnp.where(used[j], (away - level[j]) ** 2, 0).sum()
    df1, df2 = k - 1, rows - k
    enough = (df1 > 0) & (within > 0)
    statistic = jnp.where(enough, (between / df1) / (within / df2), jnp.nan)
    p_value = f_tails(statistic, df1, df2)[1]
    df1, df2 = (jnp.where(k > 1, df, jnp.nan) for df in (df1, df2))
    return HomogeneityCheck(statistic=statistic, df1=df1, df2=df2, p_value=p_value, spread=spread)


def normality_check(values: ArrayLike) -> NormalityCheck:
    """Shapiro and Francia's test of normality with the skewness and the kurtosis: a quantile plot as a number.

    W' is the squared correlation of the ordered values with Blom's normal scores, its p-value Royston's. For residuals
    take standardised conditional ones: they are correlated within groups, so the p-value is approximate, and with many
    rows it is small for departures that do no harm: look at the plot. For standardised group effects it can refuse a
    distribution but never confirm one: predictions are made under normality and shrunk, the more so the smaller the
    groups, and look normal also where the effects are not. Estimates of beta and of the variances do not need
    normality; intervals for the variances do.

    Args:
        values: (m,), NaN where there is none, such as the effect of an empty group.

    Returns:
        NormalityCheck.

    Errors:
        ValueError for another shape; values that are all equal give NaN.

    Source: Shapiro and Francia (1972), Journal of the American Statistical Association 67, 215-216; Royston (1993),
        Statistics in Medicine 12, 181-184; Verbeke and Lesaffre (1996), Journal of the American Statistical
        Association 91, 217-221 (why predictions look normal).

    Example:
        >>> found = normality_check([-2.0, -1.0, -0.5, 0.0, 0.4, 1.1, 9.0])
        >>> print(f"{found.statistic:.4f} {found.p_value:.4f} {found.skewness:.4f}")
        0.6931 0.0064 1.7266
    """
    x = jnp.asarray(values)
    x = x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.result_type(float))
    if x.ndim != 1 or x.shape[0] == 0:
        raise ValueError(f"values must be one-dimensional with at least one entry, got shape {x.shape}.")
    return _normality(x)


@jax.jit
def _normality(x: Array) -> NormalityCheck:
    real = ~jnp.isnan(x)
    m = real.sum().astype(x.dtype)
    order = jnp.argsort(x)  # NaN last
    place = jnp.zeros(x.shape, x.dtype).at[order].set(jnp.arange(1, len(x) + 1, dtype=x.dtype))
    scores = jnp.where(real, ndtri(jnp.where(real, place - 0.375, 0.5) / (m + 0.25)), jnp.nan)
    mean = lambda terms: jnp.where(real, terms, 0).sum() / m
    gap = x - mean(x)
    gap = gap / jnp.sqrt(mean(gap * gap))
    correlation = mean(gap * scores) / jnp.sqrt(mean(scores * scores))
    statistic = correlation * correlation
    u = jnp.log(jnp.clip(m, 5, 5000))
    v = jnp.log(u)
    z = (jnp.log1p(-statistic) - (1.0521 * (v - u) - 1.2725)) / (1.0308 - 0.26758 * (v + 2 / u))
    return NormalityCheck(
        statistic=statistic,
        p_value=jnp.where((m >= 5) & (m <= 5000), ndtr(-z), jnp.nan),
        skewness=mean(gap**3),
        excess_kurtosis=mean(gap**4) - 3,
        scores=scores,
    )
