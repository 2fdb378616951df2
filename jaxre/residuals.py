"""Residuals of the rows, marginal and conditional, with their exact standard deviations, and leverage."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxre.components import Components
from jaxre.deviations import Deviations, deviations
from jaxre.effects import gls, normal_equations
from jaxre.estimate import Estimate
from jaxre.moments import GroupMoments
from jaxre.prediction_error import squares
from jaxre.records import record
from jaxre.rows import Array
from jaxre.status import Status
from jaxre.strata import stratify


@record
class Residuals:
    """Residuals, fitted values and leverage of every row; see `residuals`."""

    marginal: Array
    """(n,) [y], y - X beta."""
    conditional: Array
    """(n,) [y], y - X beta - Z a."""
    marginal_standardised: Array
    """(n,) [1], over its standard deviation; NaN for a row that the fit meets whatever its value."""
    conditional_standardised: Array
    """(n,) [1], over its standard deviation; NaN for a row that the fit meets whatever its value."""
    marginal_fitted: Array
    """(n,) [y], X beta."""
    conditional_fitted: Array
    """(n,) [y], X beta + Z a."""
    fixed_leverage: Array
    """(n,) [1], d (X beta)_i / d y_i; sums to p."""
    leverage: Array
    """(n,) [1], d (X beta + Z a)_i / d y_i at known ratio; sums to the effective number of parameters."""


def residuals(
    moments: GroupMoments,
    components: Components | Estimate,
    values: ArrayLike,
    groups: ArrayLike,
    covariates: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> Residuals:
    """Marginal and conditional residuals, standardised, and the leverage of every row, in O(n).

    With M = X' H^-1 X, v_i row i of H^-1 X and n_j the size of its group: var (y - X beta)_i = within (1 + ratio -
    x_i' M^-1 x_i), var (y - X beta - Z a)_i = within (1 - h_i) with the leverage h_i = ratio / (1 + ratio n_j) +
    v_i' M^-1 v_i, and that of the fixed effects x_i' M^-1 v_i; all at known components. Residuals of one group are
    correlated, the marginal ones much: their quantile plot is of fewer independent points than it shows. With weights
    n_j is their sum in the group, the variances have 1 / w_i in the place of the first 1, and leverages are w_i
    times as large.

    Args:
        moments: sufficient statistics by group.
        components: the estimates; an `Estimate` will do.
        values: (n,) [y], the outcome that the moments are of.
        groups: (n,) integers, place of each row's group in the moments.
        covariates: (n, p - 1) [x]; None for the intercept alone.
        weights: (n,) [1], those of the moments, if they have any.

    Returns:
        Residuals with arrays (n,).

    Errors:
        TypeError for anything but GroupMoments; ValueError for rows that are not those of the moments. Degenerate
        moments give NaN.

    Source: Haslett and Haslett (2007), International Statistical Review 75, 1-24; Demidenko and Stukel (2005),
        Statistics in Medicine 24, 893-909.

    Example:
        >>> import jaxre
        >>> y, groups = [3.0, 5.0, 11.0, 9.0, 7.0, 6.0], [0, 0, 1, 1, 2, 2]
        >>> moments = jaxre.group_moments(y, groups)
        >>> found = residuals(moments, jaxre.reml(moments), y, groups)
        >>> print(found.conditional.round(4), found.leverage.round(4))
        [-1.2339  0.7661  1.2615 -0.7385  0.4725 -0.5275] [0.4725 0.4725 0.4725 0.4725 0.4725 0.4725]
    """
    if not isinstance(moments, GroupMoments):
        raise TypeError(f"moments must be by group, of group_moments, got {type(moments).__name__}.")
    frame, ratio = moments.frame, jnp.asarray(components.ratio)
    about = deviations(values, groups, covariates, weights, frame, len(moments.sizes))
    if (weights is None) != (frame.log_weights is None):
        raise ValueError(
            f"weights must be those of the moments, which have {'none' if weights is not None else 'some'}."
        )
    _same_sizes(about.sizes, moments.sizes)
    return _of_rows(moments, ratio, jnp.asarray(components.within), about, jnp.asarray(values))


@jax.jit  # operation by operation it would take seconds to compile
def _of_rows(moments: GroupMoments, ratio: Array, within: Array, about: Deviations, y: Array) -> Residuals:
    frame = moments.frame
    fit = gls(normal_equations(stratify(moments)), ratio)
    means, n, j, w = jnp.asarray(moments.means), jnp.asarray(moments.sizes), about.codes, about.weights
    rest = 1 / (1 + ratio * n)
    gap = means[:, -1] - means[:, :-1] @ fit.gamma
    own = about.rows[:, -1] - about.rows[:, :-1] @ fit.gamma[1:]
    marginal, conditional = (own + gap[j]) / frame.scale, (own + (rest * gap)[j]) / frame.scale

    beyond = jnp.pad(about.rows[:, :-1], [(0, 0), (1, 0)])
    x, v = means[j, :-1] + beyond, (rest[:, None] * means[:, :-1])[j] + beyond
    of_mean = squares(fit.inverse, v)
    smoothed = w * ((ratio * rest)[j] + of_mean)
    spared = (1 + ratio * (n[j] - w)) * rest[j] / w - of_mean  # (1 - leverage) / weight
    spread = 1 / w + ratio - squares(fit.inverse, x)
    found = Residuals(
        marginal=marginal,
        conditional=conditional,
        marginal_standardised=_over(marginal, within, spread, 1 / w + ratio),
        conditional_standardised=_over(conditional, within, spared, 1 / w),
        marginal_fitted=y - marginal,
        conditional_fitted=y - conditional,
        fixed_leverage=w * ((x @ fit.inverse) * v).sum(axis=1),
        leverage=smoothed,
    )
    return jax.tree.map(lambda leaf: jnp.where(moments.status == Status.INTERIOR, leaf, jnp.nan), found)


def _over(residual: Array, within: Array, variance: Array, unit: Array) -> Array:
    """A residual in standard deviations; the variance, in units of within, is a difference of numbers near `unit`."""
    known = variance > 64 * jnp.finfo(variance.dtype).eps * unit
    return residual / jnp.sqrt(within) / jnp.sqrt(jnp.where(known, variance, jnp.nan))


def _same_sizes(found: Array, expected: Array) -> None:
    if isinstance(found, jax.core.Tracer) or isinstance(expected, jax.core.Tracer):
        return
    same = np.isclose(found, expected, rtol=1e-12 if found.dtype == np.float64 else 1e-5, atol=0)  # sums of weights
    if not same.all():
        wrong = int(np.flatnonzero(~same)[0])
        raise ValueError(
            f"values and groups must be the rows of the moments, got {found[wrong]:g} rows of group {wrong} where "
            f"the moments have {expected[wrong]:g}; pass the rows that were used, in the numbering of the moments."
        )
