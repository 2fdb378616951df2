"""ICC(1,1) and ICC(1,k), with intervals by the exact pivot."""

from __future__ import annotations

import jax.numpy as jnp

from jaxre.eager import compiled_alone
from jaxre.effects import normal_equations
from jaxre.exact import degrees_of_freedom, exact_interval_of, f_test_of, pivot_of, pivot_quantiles
from jaxre.moments import GroupMoments, Strata
from jaxre.profile import profile
from jaxre.records import record
from jaxre.rows import Array
from jaxre.strata import as_strata


@record
class IccMeasures:
    """Intraclass correlations of single and of averaged measurements, with their F test; see `icc_measures`."""

    measurements: Array
    """() [1], k: the group size; n0 where sizes differ or there are covariates."""
    single: Array
    """() [1], ICC(1,1)."""
    single_low: Array
    """() [1], lower end of its interval; below 0 where the data say so."""
    single_high: Array
    """() [1], upper end."""
    average: Array
    """() [1], ICC(1,k)."""
    average_low: Array
    """() [1], lower end of its interval; below 0 where the data say so, and without bound."""
    average_high: Array
    """() [1], upper end."""
    statistic: Array
    """() [1], F; see `FTest`."""
    df1: Array
    """() [1]."""
    df2: Array
    """() [1]."""
    p_value: Array
    """()."""


@compiled_alone
def icc_measures(moments: GroupMoments | Strata, level: float = 0.95) -> IccMeasures:
    """ICC(1,1) and ICC(1,k): reliability of a single measurement and of an average of k, in a one-way design.

    ICC(1,1) = lambda / (1 + lambda) and ICC(1,k) = k lambda / (1 + k lambda) = 1 - 1 / F at the analysis-of-variance
    estimate lambda = (F - 1) / k, untruncated, as in its definition: (MSB - MSW) / (MSB + (k - 1) MSW) and
    (MSB - MSW) / MSB. Where sizes differ, k is n0 = (n - sum n_j^2 / n) / (groups - 1), and with covariates
    n0 = tr(Z' P0 Z) / r, so that the estimates stay those of the analysis of variance, adjusted for the covariates; the
    intervals are then those of the exact pivot, as in `exact_interval`, for the reliability of a single measurement and
    of an average of n0. Balanced, without covariates, they are the classical ones. Works inside jit and under vmap.

    Args:
        moments: sufficient statistics, by group or by stratum.
        level: [1], of the intervals, with equal tails.

    Returns:
        IccMeasures.

    Errors:
        ValueError for a level outside (0, 1); degenerate moments give NaN.

    Source: Shrout and Fleiss (1979), Psychological Bulletin 86, 420-428; McGraw and Wong (1996), Psychological Methods
        1, 30-46; for unequal sizes Donner (1986), International Statistical Review 54, 67-82.

    Example:
        >>> import jaxre
        >>> moments = jaxre.group_moments([3.0, 5.0, 11.0, 9.0, 7.0, 6.0], [0, 0, 1, 1, 2, 2])
        >>> icc = jaxre.icc_measures(moments)
        >>> print(f"{icc.single:.4f} {icc.average:.4f}")
        0.8475 0.9174
    """
    strata = as_strata(moments)
    equations, freedom = normal_equations(strata), degrees_of_freedom(strata)
    pivot = pivot_of(strata)
    test = f_test_of(pivot.curve, *freedom)
    between = exact_interval_of(pivot, *freedom, *pivot_quantiles(*freedom, level, "two-sided"))
    k = profile(equations, jnp.zeros_like(strata.rows), True).log_det_1 / freedom[0]  # tr(Z' P0 Z) / r
    if strata.means.shape[-1] == 2:
        k = jnp.where(((strata.sizes == equations.largest) | (strata.counts == 0)).all(), equations.largest, k)
    average_of = lambda ratio: k * ratio / jnp.maximum(1 + k * ratio, 0)  # k is at most the largest size
    return IccMeasures(
        measurements=k + 0 * test.statistic,
        single=(test.statistic - 1) / (test.statistic - 1 + k),
        single_low=between.icc_low_untruncated,
        single_high=between.icc_high_untruncated,
        average=1 - 1 / test.statistic,
        average_low=average_of(between.ratio_low_untruncated),
        average_high=average_of(between.ratio_high_untruncated),
        statistic=test.statistic,
        df1=test.df1,
        df2=test.df2,
        p_value=test.p_value,
    )
