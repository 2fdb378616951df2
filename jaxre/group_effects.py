"""Predicted group effects and group means with their uncertainty, and the ranking of the groups."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr

from jaxre.components import Components
from jaxre.distributions import level_of
from jaxre.eager import compiled_alone_by_group
from jaxre.effects import group_means
from jaxre.estimate import Estimate
from jaxre.moments import GroupMoments
from jaxre.prediction_error import ends, error, point, squares, where_known
from jaxre.records import record
from jaxre.rows import Array


@record
class GroupEffects:
    """Predicted group effects and group means with what is known of their errors; see `group_effects`."""

    effect: Array
    """(groups,) [y], predicted a_j."""
    mean: Array
    """(groups,) [y], predicted mean of the group at its average covariates, xbar_j' beta + a_j."""
    shrinkage: Array
    """(groups,) [1], n_j between / (within + n_j between)."""
    rank: Array
    """(groups,) [1], rank of the effect, 1 the smallest; ties share the average of their ranks, empty groups NaN."""
    standardised: Array
    """(groups,) [1], effect over its standard deviation from sample to sample; has a limit where between is 0."""
    conditional_variance: Array
    """(groups,) [y^2], g1 = between (1 - shrinkage): of the error, coefficients and variances known."""
    effect_variance: Array
    """(groups,) [y^2], of the error of effect, variances known: g1 + g2."""
    mean_variance: Array
    """(groups,) [y^2], of the error of mean, variances known: g1 + g2."""
    effect_mse: Array
    """(groups,) [y^2], estimated mean square of the error of effect, variances estimated: g1 + g2 + 2 g3."""
    mean_mse: Array
    """(groups,) [y^2], the same for mean."""
    effect_df: Array
    """(groups,) [1], degrees of freedom of the interval for a_j."""
    mean_df: Array
    """(groups,) [1], degrees of freedom of the interval for the mean of the group."""
    effect_low: Array
    """(groups,) [y], lower end of the interval for a_j."""
    effect_high: Array
    """(groups,) [y], upper end."""
    mean_low: Array
    """(groups,) [y], lower end of the interval for the mean of the group."""
    mean_high: Array
    """(groups,) [y], upper end."""


@compiled_alone_by_group
def group_effects(
    moments: GroupMoments, components: Components | Estimate, *, method: str = "reml", level: float = 0.95
) -> GroupEffects:
    """Best linear unbiased predictions of the group effects and group means, with the mean squared errors of both.

    With s_j the shrinkage, C the covariance of beta and xbar_j the average covariates (1 among them) of the group:
    g1 = between (1 - s_j) is what remains unknown of a_j when all parameters are known; g2 = s_j^2 xbar_j' C xbar_j for
    a_j, and (1 - s_j)^2 xbar_j' C xbar_j for the group's mean, comes of estimating beta;
    g3 = within Var(ratio) n_j / (1 + ratio n_j)^3 of estimating the variances, and g1 at estimated variances is too
    small by as much again: g1 + g2 + 2 g3 estimates the mean squared error. Maximum likelihood underestimates the
    variances, by b to first order, and -b' grad g1 is added. The intervals are of Student's t, as in `predictions`.

    All this is asymptotic in the number of groups. With six groups and nominal 95 % the intervals cover 94 to 97 %
    where between is at least half of within, and more below that, up to all where between is 0. All effects are 0 where
    the estimate of between is 0: 2 g3 alone gives their intervals a width.

    Args:
        moments: sufficient statistics by group.
        components: the estimates; an `Estimate` will do.
        method: "reml", "ml" or "anova": how they were estimated.
        level: [1], of the intervals.

    Returns:
        GroupEffects with arrays (groups,).

    Errors:
        TypeError for anything but GroupMoments; ValueError for an unknown method or a level outside (0, 1). Degenerate
        moments give NaN.

    Source: Prasad and Rao (1990), Journal of the American Statistical Association 85, 163-171; for maximum likelihood
        Datta and Lahiri (2000), Statistica Sinica 10, 613-627.

    Example:
        >>> import jaxre
        >>> import numpy as np
        >>> moments = jaxre.group_moments([3.0, 5.0, 11.0, 9.0, 7.0, 6.0], [0, 0, 1, 1, 2, 2])
        >>> found = group_effects(moments, jaxre.reml(moments))
        >>> print(np.array_str(found.effect, precision=4), found.rank)
        [-2.5994  2.9052 -0.3058] [1. 3. 2.]
    """
    at, level = point(moments, components, method), level_of(level)
    x, n = jnp.asarray(moments.means)[:, :-1], jnp.asarray(moments.sizes)
    rest = 1 / (1 + at.ratio * n)
    gap = (moments.means[:, -1] - x @ at.gamma) / moments.frame.scale
    effect = at.ratio * n * rest * gap + 0.0  # no -0
    mean = group_means(moments) - rest * gap
    of_effect = error(at, n, lambda rest, shrinkage: -shrinkage * x)
    of_mean = error(at, n, lambda rest, shrinkage: rest * x)
    full = jnp.where(n > 0, n, jnp.nan)
    spread = at.within * (1 / rest / full - squares(at.inverse, x))
    effect_low, effect_high = ends(effect, of_effect, level)
    mean_low, mean_high = ends(mean, of_mean, level)
    found = GroupEffects(
        effect=effect,
        mean=mean,
        shrinkage=at.ratio * n * rest,
        rank=_ranks(effect, n > 0),
        standardised=gap / jnp.sqrt(spread),
        conditional_variance=at.between * rest,
        effect_variance=of_effect.variance,
        mean_variance=of_mean.variance,
        effect_mse=of_effect.mse,
        mean_mse=of_mean.mse,
        effect_df=of_effect.df,
        mean_df=of_mean.df,
        effect_low=effect_low,
        effect_high=effect_high,
        mean_low=mean_low,
        mean_high=mean_high,
    )
    return where_known(found, moments, at)


def expected_ranks(effects: GroupEffects) -> Array:
    """Expected rank of each group's effect, 1 the smallest: 1 + sum over the others of P(a_k < a_j).

    The effects are taken as independent normal given the data, with means the predictions and variances g1, which they
    are at known coefficients and variances. Where little is known of the groups all ranks are near the middle, unlike
    the ranks of the predictions, which are always 1 to J. O(groups^2).

    Args:
        effects: from `group_effects`.

    Returns:
        (groups,) [1]; NaN for an empty group.

    Errors:
        none are raised; where between is 0 all ranks are (J + 1) / 2.

    Source: Laird and Louis (1989), Journal of Educational Statistics 14, 29-46.

    Example:
        >>> import jaxre
        >>> import numpy as np
        >>> moments = jaxre.group_moments([3.0, 5.0, 11.0, 9.0, 7.0, 6.0], [0, 0, 1, 1, 2, 2])
        >>> print(np.array_str(expected_ranks(group_effects(moments, jaxre.reml(moments))), precision=4))
        [1.0253 2.9969 1.9778]
    """
    return _expected_ranks(effects.effect, effects.conditional_variance, ~jnp.isnan(effects.rank))


@jax.jit
def _expected_ranks(effect: Array, variance: Array, real: Array) -> Array:
    def one(j: Array) -> Array:
        gap, scale = effect[j] - effect, jnp.sqrt(variance[j] + variance)
        below = jnp.where(scale > 0, ndtr(gap / jnp.where(scale > 0, scale, 1)), 0.5)
        return 1 + jnp.where(real & (jnp.arange(len(effect)) != j), below, 0).sum()

    return jnp.where(real, jax.lax.map(one, jnp.arange(len(effect))), jnp.nan)


def _ranks(effect: Array, real: Array) -> Array:
    """Ranks from 1 among the real entries, ties by their average."""
    ordered = jnp.sort(jnp.where(real, effect, jnp.inf))
    low, high = (jnp.searchsorted(ordered, effect, side=side, method="sort") for side in ("left", "right"))
    return jnp.where(real, (low + high + 1) / 2, jnp.nan)
