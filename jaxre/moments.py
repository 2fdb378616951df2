"""The sufficient statistics of the model: per group, then per distinct group size."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxre.frame import (
    FREEDOM_OF_KNOWN,
    Frame,
    Known,
    first_slopes,
    frame_of,
    power_of_two_below,
    rotation_of,
    rounding_floor,
    within_slopes,
)
from jaxre.records import record
from jaxre.rows import MANY, Array, Rows
from jaxre.status import Status


@record
class GroupMoments:
    """Sufficient statistics of a dataset, one entry a group; see `group_moments`."""

    rows: Array
    """() [1], n, rows counted."""
    sizes: Array
    """(groups,) [1], n_j, or the sum of the group's weights; 0 for a group that is only padding."""
    means: Array
    """(groups, p + 1) group means of (1, rotated covariates, reduced outcome); 0 where n_j = 0."""
    within_cross: Array
    """(p + 1, p + 1) sums of squares and products within groups, of the same columns."""
    within_rank: Array
    """() [1], how many directions of the covariates vary within groups."""
    frame: Frame
    """the coordinates of means and within_cross."""
    status: Array
    """() int32 `Status`: INTERIOR where an estimate exists, else the reason why none does."""


@record
class Strata:
    """Sufficient statistics with groups of one size put together: all that the likelihood needs; see `stratify`.

    A stratum of size 0 adds exactly nothing, so strata can be padded.
    """

    rows: Array
    """() [1], n."""
    sizes: Array
    """(strata,) [1], distinct group sizes k."""
    counts: Array
    """(strata,) [1], m_k, groups of that size."""
    means: Array
    """(strata, p + 1), average of the group means in the stratum."""
    scatter: Array | None
    """(strata, p + 1, p + 1), cross products of the group means about that average; None when every count is 1."""
    within_cross: Array
    """(p + 1, p + 1), as in GroupMoments."""
    within_rank: Array
    """() [1], as in GroupMoments."""
    frame: Frame
    """as in GroupMoments."""
    status: Array
    """() int32 `Status`, as in GroupMoments."""


def moments_of(rows: Rows, known: Array | None = None) -> GroupMoments:
    """Sufficient statistics from the passes over the rows, host or traced; `known` is the variance within, if it is."""
    xp = rows.xp
    low, high = rows.extremes
    dtype = low.dtype
    eps = float(xp.finfo(dtype).eps)
    sizes = rows.sizes.astype(dtype)
    n, p = sizes.sum(), low.shape[0]  # n counts each row as often as its weight says
    count = rows.count.astype(dtype)
    scale = power_of_two_below(high / 2 - low / 2, xp)
    size_or_one = xp.where(sizes > 0, sizes, 1)

    pilot = rows.first * scale
    deviations, cross = rows.sums(scale)  # in place, since many groups are large arrays; JAX arrays are replaced
    deviations /= size_or_one
    anchors, correction = deviations + pilot[:, None], None
    if cross is None:
        correction, cross = rows.residual_products(scale, anchors, None)
        deviations = anchors - pilot[:, None]  # as it is after rounding
    if correction is not None:
        correction /= size_or_one
        cross = cross - (correction * sizes) @ correction.T
    rough_centre = (deviations @ sizes) / n
    deviations -= rough_centre[:, None]
    if correction is not None:
        deviations += correction
    # what rounding leaves of 0, whatever the data
    drift_of = lambda means: (means @ sizes) / n if xp is np else jax.lax.stop_gradient((means @ sizes) / n)
    drift = drift_of(deviations)
    deviations -= drift[:, None]
    centre = pilot + (rough_centre + drift)
    rounding = eps * xp.maximum(abs(low), abs(high)) * scale  # (p,) what the last digit of the input is worth

    groups, turned_means = (sizes > 0).sum(dtype=dtype), deviations
    if p == 1:
        frame = frame_of(xp, scale, centre, None, None)
        within_rank, deficient, residual = xp.zeros((), dtype), False, cross[0, 0]
        noise = rounding_floor(n, rounding[0], False)
    else:
        rotation, deficient = rotation_of(rows, scale, anchors, cross, deviations, sizes, rounding)
        slopes = first_slopes(rotation, cross, deviations, sizes, xp)
        frame = frame_of(xp, scale, centre, rotation, slopes)
        turn, cross, rest = _turn(rows, scale, anchors, cross, sizes, rotation, slopes)
        if rest is None or correction is None:
            turned_means = turn.T @ deviations
        else:  # nearly collinear columns leave more digits in the rows than in the means of each
            turned_means = turn.T @ (anchors - pilot[:, None] - rough_centre[:, None]) + rest / size_or_one
            turned_means = turned_means - drift_of(turned_means)[:, None]
        varies = xp.diag(cross)[:-1] > n * (4 * abs(rotation).T @ rounding[:-1]) ** 2
        keep = xp.append(varies, xp.ones(1, bool))
        cross = xp.where(keep[:, None] & keep[None, :], cross, 0)
        within_rank = varies.sum().astype(dtype)
        noise = rounding_floor(n, rounding[-1] + abs(rotation @ slopes) @ rounding[:-1], True)
        residual = cross[-1, -1] - within_slopes(cross[:-1, :-1], cross[:-1, -1], xp) @ cross[:-1, -1]

    finite = xp.isfinite(low).all() & xp.isfinite(high).all() & xp.isfinite(n)
    reasons = {
        Status.UNBOUNDED: ~(residual > noise),
        Status.NOT_IDENTIFIED: (groups < 2) | (count - groups - within_rank <= 0) | (groups + within_rank - p <= 0),
        Status.RANK_DEFICIENT: deficient,
        Status.CONSTANT_OUTCOME: (high[-1] == low[-1]) & (count > 1),
        Status.INVALID: ~finite,
    }
    if known is not None:
        frame = dataclasses.replace(frame, known=Known(rows=count, floor=residual))
        count, total = xp.full_like(count, FREEDOM_OF_KNOWN), known * frame.scale * frame.scale * FREEDOM_OF_KNOWN
        cross = xp.concatenate([cross[:-1], xp.append(cross[-1, :-1], total)[None]])
        reasons = {
            Status.NOT_IDENTIFIED: (groups < 2) | (groups + within_rank - p <= 0),
            Status.RANK_DEFICIENT: deficient,
            Status.OUT_OF_RANGE: known * frame.scale * frame.scale < float(xp.finfo(dtype).tiny) ** 0.45,  # its square
            Status.INVALID: ~(finite & (known > 0) & xp.isfinite(known)),
        }
    table = _table(xp, sizes > 0, turned_means)
    with_intercept = xp.zeros((p + 1, p + 1), dtype)
    if xp is np:
        with_intercept[1:, 1:] = cross
    else:
        with_intercept = with_intercept.at[1:, 1:].set(cross)
    if rows.log_weights is not None:
        frame = dataclasses.replace(frame, log_weights=rows.log_weights)
    return GroupMoments(
        rows=count,
        sizes=sizes,
        means=table.T,
        within_cross=with_intercept,
        within_rank=within_rank,
        frame=frame,
        status=_status(reasons, xp),
    )


def _status(reasons: dict[Status, Array], xp: Any) -> Array:
    """The code of the last reason that holds: where several do, the later one says more."""
    if xp is np:
        return np.int32(max((code for code, holds in reasons.items() if holds), default=Status.INTERIOR))
    codes = jnp.stack([jnp.asarray(holds) * np.int32(code) for code, holds in reasons.items()])
    return codes.max().astype(np.int32)


def _turn(
    rows: Rows,
    scale: Array,
    anchors: Array,
    cross: Array,
    sizes: Array,
    rotation: Array,
    slopes: Array,
) -> tuple[Array, Array, Array | None]:
    """What turns columns into rotated covariates and a reduced outcome, the products within groups of these, and their
    sums over the groups if the rows were turned: of what the anchors leave."""
    xp, n, dtype = rows.xp, sizes.sum(), sizes.dtype
    left = xp.concatenate([rotation, xp.zeros((1, len(rotation)), dtype)])
    turn = xp.concatenate([left, xp.append(-(rotation @ slopes), xp.ones(1, dtype))[:, None]], axis=1)
    turned = turn.T @ cross @ turn
    cancelled = abs(turn).T @ abs(cross) @ abs(turn)
    if xp is np and n > MANY and (xp.diag(cancelled) < 100 * xp.diag(turned)).all():
        return turn, turned, None  # two digits lost to cancellation, at most, and one where they are differences
    rest, turned = rows.residual_products(scale, anchors, turn)
    assert rest is not None
    size_or_one = xp.where(sizes > 0, sizes, 1)
    return turn, turned - (rest / size_or_one) @ rest.T, rest


def _table(xp: Any, nonempty: Array, means: Array) -> Array:
    """(p + 1, groups) the group means of (1, x, y), less their centre and turned; 0 where a group is empty."""
    if xp is not np:
        return xp.concatenate([nonempty[None, :].astype(means.dtype), means]) * nonempty
    table = np.empty((1 + len(means), len(nonempty)))
    table[0], table[1:] = nonempty, means
    if not nonempty.all():
        table *= nonempty
    return table


def in_order(moments: GroupMoments, order: np.ndarray | None) -> GroupMoments:
    """Moments with the groups in an order; None leaves them in their own."""
    if order is None:
        return moments
    return dataclasses.replace(moments, sizes=moments.sizes[order], means=moments.means[order])
