"""Influence of every group on every parameter, by exact refits without it."""

from __future__ import annotations

import dataclasses
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxre.arrays import group_moments
from jaxre.deviations import Deviations, deviations
from jaxre.eager import bucket
from jaxre.estimate import Estimate, anova, ml, reml
from jaxre.frame import Frame
from jaxre.labels import encode
from jaxre.moments import GroupMoments, moments_of
from jaxre.records import record
from jaxre.rows import Array
from jaxre.settings import is_small, options_of, platform, quick_jit

ESTIMATORS = {"reml": reml, "ml": ml, "anova": anova}
PADDED = 256  # groups up to which empty ones are added
ENTRIES = 1 << 24  # of the largest array of a block of deletions,
TRACED_ENTRIES = 1 << 16  # where a vmap may have as many datasets as it likes of them


@record
class Influence:
    """What leaving each group out does; see `influence`."""

    estimate: Estimate
    """the estimate without each group, each field with a leading (groups,) axis; NaN where status says that none is."""
    beta_change: Array
    """(groups, p) [y/x], beta less that without the group."""
    beta_change_standardised: Array
    """(groups, p) [1], the same in standard errors of beta."""
    log_within_change: Array
    """(groups,) [1], log within less that without the group."""
    log_between_change: Array
    """(groups,) [1], the same of between; infinite where one of the two is 0, NaN where both are."""
    cook: Array
    """(groups,) [1], Cook's distance of the coefficients."""


def influence(
    values: ArrayLike,
    groups: ArrayLike,
    covariates: ArrayLike | None = None,
    *,
    weights: ArrayLike | None = None,
    num_groups: int | None = None,
    method: str = "reml",
) -> Influence:
    """Influence of each group: exact estimates of all parameters without it, and Cook's distance.

    Every deletion is a whole fit, with its own status and certificate, and all are one batch. The rows are passed over
    twice; the moments without a group are then sums over the others, the group's size set to 0: nothing is subtracted.
    Cook's distance is (beta - beta_(j))' C^-1 (beta - beta_(j)) / p with C the covariance of beta from all groups.
    O(n + groups^2).

    Args:
        values: (n,) [y] outcome.
        groups: (n,) group of each row; labels, or with `num_groups` integers 0 .. num_groups - 1, which may be traced.
        covariates: (n, p - 1) [x], no column of ones; None for the intercept alone.
        weights: (n,) [1] precision of each row: its variance within groups is within / weight. All > 0; None for 1.
        num_groups: number of groups, padding included.
        method: "reml", "ml" or "anova".

    Returns:
        Influence with one entry a group, in order of first appearance of the labels.

    Errors:
        ValueError for an unknown method or shapes that do not fit. A deletion that leaves no estimate (a single group,
        or covariates that then span the groups or each other) is NaN with its status; one that leaves less than 1e-7 of
        the spread of some direction of the covariates counts as rank-deficient. Where the data as a whole have no
        estimate, all is NaN but the statuses.

    Source: Cook (1977), Technometrics 19, 15-18; Christensen, Pearson and Johnson (1992), Technometrics 34, 38-45.

    Example:
        >>> import jaxre
        >>> import numpy as np
        >>> found = influence([3.0, 5.0, 11.0, 9.0, 7.0, 6.0, 5.0, 8.0], [0, 0, 1, 1, 2, 2, 3, 3])
        >>> print(np.array_str(found.estimate.between, precision=3), np.array_str(found.cook, precision=3))
        [2.917 0.917 7.667 8.333] [0.553 0.772 0.005 0.005]
    """
    if method not in ESTIMATORS:
        raise ValueError(f"method must be one of {', '.join(map(repr, ESTIMATORS))}, got {method!r}.")
    codes: Any = groups
    if num_groups is None:
        encoded = encode(groups)
        codes, num_groups = encoded.codes, len(encoded.labels)
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in (values, codes, covariates, weights))
    room = num_groups if traced or num_groups > PADDED else bucket(num_groups)  # few numbers of groups are compiled for
    moments = group_moments(values, codes, covariates, weights=weights, num_groups=room)
    about = deviations(values, codes, covariates, weights, moments.frame, room)
    cross, log_weights = _sums(about, weights is not None)
    data, refits = (
        (about, cross, log_weights, moments.frame),
        partial(_refits, method) if traced else _program(method, is_small(room, cross.shape[-1] - 1)),
    )
    asked, entries = 1 + num_groups, TRACED_ENTRIES if traced else ENTRIES  # first all groups, with -1 left out
    # in blocks, the last one filled up, so that memory does not grow with the square of the groups
    block = max(1, min(asked if traced else room, entries // (room * cross.shape[-1] ** 2)))
    places = jnp.arange(-(-asked // block) * block).reshape(-1, block) % asked - 1
    if traced:
        every = jax.lax.map(lambda part: refits(data, part), places)
    else:
        every = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[refits(data, part) for part in places])
    every = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:asked], every)
    return _influence(every, about, moments.frame)


@partial(jax.jit, static_argnums=1)  # operation by operation it would take seconds to compile
def _sums(about: Deviations, weighted: bool) -> tuple[Array, Array | None]:
    """Of each group the cross products of its rows, and the logarithms of its weights."""
    add = lambda column: jax.ops.segment_sum(column, about.codes, len(about.sizes))
    products = (about.weights[:, None] * about.rows)[:, :, None] * about.rows[:, None, :]
    return add(products), add(jnp.log(about.weights)) if weighted else None


@jax.jit
def _influence(every: tuple[Estimate, Array, Frame], about: Deviations, frame: Frame) -> Influence:
    """From the refits without each of some groups, the first without none."""
    whole, of_whole, frame_of_whole = jax.tree.map(lambda leaf: leaf[0], every)
    found, coefficients, _ = jax.tree.map(lambda leaf: leaf[1:], every)
    change = of_whole - coefficients
    inner = jnp.linalg.solve(frame_of_whole.transform, change.T).T  # in the coordinates of gamma
    weighed = jnp.linalg.solve(whole.gamma_cov, inner.T).T
    scale = frame.scale * frame_of_whole.scale
    beta_change = change @ _to_user(about, frame).transform.T
    return Influence(
        estimate=found,
        beta_change=beta_change,
        beta_change_standardised=beta_change / whole.beta_se,
        log_within_change=jnp.log(whole.within / found.within),
        log_between_change=jnp.log(whole.between) - jnp.log(found.between),
        cook=(inner * weighed).sum(axis=1) / (change.shape[1] * whole.within * scale * scale),
    )


class GroupRows:
    """Groups in the place of rows: enough of them to form the moments of all groups but one.

    Their columns are the covariates and the outcome in the coordinates of `deviations`. Products of rows are good to
    sqrt(eps) of a direction's spread, so that is what the precision of the covariates is said to be.
    """

    xp: Any = jnp

    def __init__(
        self, about: Deviations, cross: Array, log_weights: Array | None, frame: Frame, left_out: Array
    ) -> None:
        keep = (jnp.arange(len(about.sizes)) != left_out) & (about.sizes > 0)
        self.sizes = jnp.where(keep, about.sizes, 0)
        self.count = jnp.where(keep, about.counts, 0).sum()
        self.log_weights = None if log_weights is None else jnp.where(keep, log_weights, 0).sum()
        self.means = jnp.where(keep[:, None], about.means, 0)
        self.cross = jnp.where(keep[:, None, None], cross, 0).sum(axis=0)
        self.first = jnp.zeros_like(about.means[0])
        low = jnp.where(keep[:, None], about.low, jnp.inf).min(axis=0)
        high = jnp.where(keep[:, None], about.high, -jnp.inf).max(axis=0)
        most, eps = jnp.maximum(abs(low), abs(high)), jnp.finfo(low.dtype).eps
        turn = abs(frame.transform[1:, 1:]) * frame.scale
        top = jnp.maximum(most[:-1] @ turn, 2 / jnp.sqrt(eps))
        top = jnp.append(top, (most[-1] + most[:-1] @ abs(frame.origin[1:])) * frame.scale)
        spread = jnp.append(jnp.ones_like(top[:-1]), (high - low)[-1] * frame.scale)
        # their difference is the scale, their size what the last digit is worth, and equal are those of a constant
        bottom = jnp.where(spread > 0, jnp.minimum(top - spread, jnp.nextafter(top, -jnp.inf)), top)
        self.extremes = bottom, top

    def sums(self, scale: Array) -> tuple[Array, None]:
        return (self.sizes * self.means.T) * scale[:, None], None

    def residual_products(self, scale: Array, anchors: Array, rotation: Array | None) -> tuple[Array, Array]:
        gap = self.means.T * scale[:, None] - anchors * (self.sizes > 0)
        total, products = gap * self.sizes, self.cross * scale * scale[:, None] + (gap * self.sizes) @ gap.T
        return (total, products) if rotation is None else (rotation.T @ total, rotation.T @ products @ rotation)

    def triangle(self, scale: Array, anchors: Array) -> Array:
        values, vectors = jnp.linalg.eigh((self.cross * scale * scale[:, None])[:-1, :-1])
        return jnp.sqrt(jnp.maximum(values, 0))[:, None] * vectors.T


@cache
def _program(method: str, small: bool) -> Any:
    """`_refits`, compiled."""
    return quick_jit(partial(_refits, method), platform(), options_of(small))


def _refits(
    method: str, data: tuple[Deviations, Array, Array | None, Frame], left_out: Array
) -> tuple[Estimate, Array, Frame]:
    """Estimates without each of some groups; with their coefficients, and their frames, in those of the whole."""
    about, cross, log_weights, frame = data
    back = _to_user(about, frame)

    def moments_without(j: Array) -> tuple[GroupMoments, Frame]:
        moments = moments_of(GroupRows(about, cross, log_weights, frame, j))
        inner = moments.frame
        joined = Frame(
            origin=back.origin + back.transform @ inner.origin,
            transform=back.transform @ inner.transform,
            scale=back.scale * inner.scale,
            log_volume=back.log_volume + inner.log_volume,
            log_weights=inner.log_weights,
        )
        return dataclasses.replace(moments, frame=joined), inner

    moments, inner = jax.vmap(moments_without)(left_out)
    estimate = jax.vmap(ESTIMATORS[method])(moments)
    coefficients = inner.origin + (inner.transform @ estimate.gamma[:, :, None])[:, :, 0]
    return estimate, coefficients, inner


def _to_user(about: Deviations, frame: Frame) -> Frame:
    """The way from coefficients in the coordinates of `deviations` to the user's."""
    x, y = about.middle[:-1], about.middle[-1]
    slopes, turn = frame.origin[1:], frame.transform[1:, 1:]
    top = jnp.append(1 / frame.scale, -x @ turn)
    rest = jnp.concatenate([jnp.zeros_like(x)[:, None], turn], axis=1)
    return Frame(
        origin=jnp.append(y - x @ slopes, slopes),
        transform=jnp.concatenate([top[None], rest]),
        scale=frame.scale,
        log_volume=frame.log_volume,
    )
