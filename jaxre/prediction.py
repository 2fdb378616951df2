"""Predictions at given covariates, in the groups of the data and in new ones, with intervals."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxre.columns import Covariates, covariates_again, refuse_missing
from jaxre.components import Components
from jaxre.distributions import level_of
from jaxre.eager import compiled_alone_by_group
from jaxre.estimate import Estimate
from jaxre.labels import encode
from jaxre.moments import GroupMoments
from jaxre.observations import precisions
from jaxre.prediction_error import ends, error, point, where_known
from jaxre.records import record
from jaxre.rows import Array


@record
class Predictions:
    """Predicted means of groups and predicted observations; see `predictions`."""

    value: Array
    """(m,) [y], x' beta + a_j, or x' beta in a new group; of the mean and of an observation alike."""
    mean_mse: Array
    """(m,) [y^2], estimated mean square of its error as a prediction of the group's mean at x."""
    mean_df: Array
    """(m,) [1], degrees of freedom of the interval for that mean."""
    mean_low: Array
    """(m,) [y], lower end of the interval for the group's mean at x."""
    mean_high: Array
    """(m,) [y], upper end."""
    observation_mse: Array
    """(m,) [y^2], of its error as a prediction of one new observation: mean_mse + within."""
    observation_df: Array
    """(m,) [1], degrees of freedom of the interval for that observation."""
    low: Array
    """(m,) [y], lower end of the interval for a new observation of the group at x."""
    high: Array
    """(m,) [y], upper end."""


@compiled_alone_by_group
def predictions(
    moments: GroupMoments,
    components: Components | Estimate,
    index: ArrayLike,
    covariates: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    *,
    method: str = "reml",
    level: float = 0.95,
) -> Predictions:
    """Predictions at given covariates in known groups and in new ones, with intervals.

    The error of x' beta + a_j as a prediction of the group's mean at x has variance g1 + d' C d, d = x - s_j xbar_j and
    C the covariance of beta, and the terms of `group_effects` for estimated variances; a new group is one of size 0. An
    observation adds within. The intervals are of Student's t with Satterthwaite's degrees of freedom for that variance,
    from the expected information (for the analysis of variance, from the sampling variances of its sums of squares),
    at least r / 2 of them, r = rank[X Z] - p: a new group knows of between what the groups seen have told, so that a
    normal quantile would be far too short. Nominal 95 % for the mean of a new group are 94 to 97 % with six groups, and
    close to all where between is 0.

    Args:
        moments: sufficient statistics by group.
        components: the estimates; an `Estimate` will do.
        index: (m,) integers, places of the groups asked for in the moments; -1 is a new group.
        covariates: (m, p - 1) [x]; None for the intercept alone.
        weights: (m,) [1], > 0, of the observations asked for, whose variance within is within / weight; None for 1.
        method: "reml", "ml" or "anova": how the components were estimated.
        level: [1], of the intervals.

    Returns:
        Predictions with arrays (m,).

    Errors:
        TypeError for anything but GroupMoments; ValueError for an unknown method, a level outside (0, 1), or covariates
        of another shape. An index beyond the groups, a weight that is not
        positive (in the intervals of the observation), and degenerate moments give NaN.

    Source: Henderson (1975), Biometrics 31, 423-447; Prasad and Rao (1990); Francq, Lin and Hoyer (2019), Statistics in
        Medicine 38, 5603-5622 (prediction intervals with Satterthwaite's degrees of freedom).

    Example:
        >>> import jaxre
        >>> moments = jaxre.group_moments([3.0, 5.0, 11.0, 9.0, 7.0, 6.0], [0, 0, 1, 1, 2, 2])
        >>> found = predictions(moments, jaxre.reml(moments), [1, -1])
        >>> for value, mse in zip(found.value, found.mean_mse):
        ...     print(f"{value:.4f} {mse:.4f}")
        9.7385 0.9151
        6.8333 11.3611
    """
    at, level, frame = point(moments, components, method), level_of(level), moments.frame
    places, groups = jnp.asarray(index), len(moments.sizes)
    if places.ndim != 1 or not jnp.issubdtype(places.dtype, jnp.integer):
        raise ValueError(f"index must be integers of shape (m,), got {places.dtype} of shape {places.shape}.")
    x = _rows(covariates, len(places), len(at.gamma) - 1, at.gamma.dtype)
    seen, wrong = (places >= 0) & (places < groups), (places < -1) | (places >= groups)
    place = jnp.where(seen, places, 0)
    noise: Any = 1.0
    if weights is not None:
        noise = 1 / jnp.asarray(weights, at.gamma.dtype)
        if noise.shape != places.shape:
            raise ValueError(f"weights must have shape {places.shape} like index, got {noise.shape}.")
        noise = jnp.where((noise > 0) & jnp.isfinite(noise), noise, jnp.nan)
    n = jnp.where(seen, jnp.asarray(moments.sizes)[place], 0)
    table = jnp.where(seen[:, None], jnp.asarray(moments.means)[place], 0)
    xbar, y = table[:, :-1], table[:, -1]
    gap = (y - xbar @ at.gamma) / frame.scale
    value = x @ (frame.origin + frame.transform @ at.gamma) + at.ratio * n / (1 + at.ratio * n) * gap
    beyond = x @ (frame.transform * frame.scale) - xbar
    contrast = lambda rest, shrinkage: beyond + rest * xbar
    of_mean, of_observation = error(at, n, contrast), error(at, n, contrast, noise)
    mean_low, mean_high = ends(value, of_mean, level)
    low, high = ends(value, of_observation, level)
    found = Predictions(
        value=value,
        mean_mse=of_mean.mse,
        mean_df=of_mean.df,
        mean_low=mean_low,
        mean_high=mean_high,
        observation_mse=of_observation.mse,
        observation_df=of_observation.df,
        low=low,
        high=high,
    )
    nan = jnp.where(wrong, jnp.nan, 0)
    return jax.tree.map(lambda leaf: leaf + nan, where_known(found, moments, at))


def places_of(
    labels: Sequence[Hashable] | np.ndarray, asked: ArrayLike | Sequence[Hashable], *, allow_new: bool
) -> np.ndarray:
    """(m,) place of each label asked for among the labels; -1 for a new one where those are allowed."""
    known = {label: place for place, label in enumerate(np.asarray(labels).tolist())}
    encoded = encode(asked)
    if encoded.missing and not allow_new:
        raise ValueError(
            f"groups must have no missing labels, got {encoded.missing}; leave those rows out, or pass allow_new=True, "
            "for which they are new groups."
        )
    wanted = np.asarray(encoded.labels).tolist()
    new = [label for label in wanted if label not in known]
    if new and not allow_new:
        named = ", ".join(map(repr, new[:5])) + (f" and {len(new) - 5} more" if len(new) > 5 else "")
        raise ValueError(
            f"groups must be labels of the {len(known)} known groups, got {named}; "
            "pass allow_new=True to predict new groups."
        )
    return np.array([*(known.get(label, -1) for label in wanted), -1], np.intp)[encoded.codes]  # the last one of -1


def rows_asked(
    labels: Sequence[Hashable] | np.ndarray,
    known: Covariates,
    groups: ArrayLike | Sequence[Hashable],
    covariates: Any,
    weights: ArrayLike | None,
    *,
    allow_new: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(m,) places of the groups, (m, p - 1) covariates and (m,) weights of the rows that predictions are asked of, from
    whatever the user has; `labels` and `known` are those of the fit."""
    place = places_of(labels, groups, allow_new=allow_new)
    if covariates is not None:
        x = covariates_again(covariates, known)
    elif known.names:
        raise ValueError(f"covariates must have the columns {', '.join(known.names)}, got None.")
    else:
        x = np.zeros((len(place), 0))
    if len(x) != len(place):
        raise ValueError(f"groups and covariates must have one length, got {len(place)} and {len(x)} rows.")
    if weights is None:
        return place, x, np.ones(len(place))
    w = precisions(weights, len(place))
    refuse_missing(np.isnan(w), "weights")
    return place, x, w


def _rows(covariates: ArrayLike | None, m: int, columns: int, dtype: Any) -> Array:
    """X (m, p) of the rows asked for, in the user's units."""
    given = jnp.zeros((m, 0), dtype) if covariates is None else jnp.asarray(covariates, dtype)
    if given.shape != (m, columns):
        wanted = f"shape ({m}, {columns}), a row for each prediction" if columns else "no columns, or be None"
        raise ValueError(f"covariates must have {wanted}, got {'None' if covariates is None else given.shape}.")
    return jnp.concatenate([jnp.ones((m, 1), dtype), given], axis=1)
