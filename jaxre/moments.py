"""The sufficient statistics of the model: per group, then per distinct group size."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxre.observations import encode
from jaxre.records import record
from jaxre.rows import Array, Rows, TracedRows
from jaxre.status import Status
from jaxre.sweep import inverse_and_log_det


@record
class Frame:
    """The coordinates in which the moments are kept, and the way back to the user's.

    Each column of the data is scaled by a power of two and centred; the covariates are rotated to orthonormal columns
    with a diagonal within-group cross product; the outcome is reduced by a first generalised least-squares fit.
    Coefficients gamma in these coordinates mean beta = origin + transform gamma. None of this changes an answer: it
    is what keeps the last digits.
    """

    origin: Array
    """(p,) [y/x], coefficients of the first fit."""
    transform: Array
    """(p, p) [y/x], user's coefficients for each unit of gamma."""
    scale: Array
    """() [1/y], power of two that the outcome was multiplied by."""
    log_volume: Array
    """() [nat], log |det (scale * transform)|."""


@record
class GroupMoments:
    """Sufficient statistics of a dataset, one entry a group; see `group_moments`."""

    rows: Array
    """() [1], n, rows counted."""
    sizes: Array
    """(groups,) [1], n_j; 0 for a group that is only padding."""
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


def group_moments(
    values: ArrayLike,
    groups: ArrayLike | Sequence[Hashable],
    covariates: ArrayLike | None = None,
    *,
    num_groups: int | None = None,
) -> GroupMoments:
    """Sufficient statistics of each group: sizes, means, and the cross products within groups.

    The O(n) step of every fit. Works inside jit and under vmap, and follows the dtype of `values`.
    With W = (1, covariates, y): n_j, W-bar_j, and sum_j sum_i (W_ij - W-bar_j)(W_ij - W-bar_j)', by two passes over
    centred data, in the coordinates that `Frame` describes.

    Args:
        values: (n,) [y] outcome.
        groups: (n,) group of each row. Without `num_groups`, concrete labels of any hashable type, numbered in order of
            first appearance; with it, integers 0 .. num_groups - 1, which may be traced.
        covariates: (n, p - 1) [x], no column of ones; None for the intercept alone.
        num_groups: number of groups, padding included.

    Returns:
        GroupMoments with arrays (groups,), (groups, p + 1) and (p + 1, p + 1).

    Errors:
        ValueError for shapes that do not fit. NaN, infinity, or a label out of range give the status INVALID, and an
        unidentified or degenerate dataset its own status: see `Status`.

    Source: Chan, Golub and LeVeque (1983), The American Statistician 37, 242-247 (two-pass sums).

    Example:
        >>> import jaxre
        >>> moments = jaxre.group_moments([1.0, 3.0, 5.0, 9.0], ["a", "a", "b", "b"])
        >>> print(moments.sizes, moments.within_cross[-1, -1] / moments.frame.scale**2)
        [2. 2.] 10.0
    """
    y = jnp.asarray(values)
    y = y if jnp.issubdtype(y.dtype, jnp.floating) else y.astype(jnp.result_type(float))
    if y.ndim != 1 or y.shape[0] == 0:
        raise ValueError(
            f"values must be one-dimensional with at least one row, got shape {y.shape}; pass one outcome."
        )
    x = None
    if covariates is not None:
        x = jnp.asarray(covariates, y.dtype)
        if x.ndim != 2 or x.shape[0] != y.shape[0]:
            raise ValueError(f"covariates must have shape ({y.shape[0]}, p - 1) like values, got {x.shape}.")
        x = x if x.shape[1] else None
    codes: Any
    if num_groups is None:
        if isinstance(groups, jax.core.Tracer):
            raise ValueError("traced groups need num_groups: pass num_groups=J and integers 0 .. J - 1.")
        encoded = encode(groups)
        codes, count = encoded.codes, len(encoded.labels)
    else:
        codes = groups if isinstance(groups, jax.core.Tracer) else np.asarray(groups)
        count = int(num_groups)
        if not np.issubdtype(codes.dtype, np.integer):
            raise ValueError(f"with num_groups, groups must be integers 0 .. num_groups - 1, got {codes.dtype}.")
    if codes.shape != y.shape:
        raise ValueError(f"values and groups must have one length, got {y.shape} and {codes.shape}.")
    return moments_of(TracedRows(y, codes, x, count))


def moments_of(rows: Rows) -> GroupMoments:
    """Sufficient statistics from the passes over the rows, host or traced."""
    xp = rows.xp
    low, high = rows.extremes
    dtype = low.dtype
    eps = float(xp.finfo(dtype).eps)
    sizes = rows.sizes.astype(dtype)
    n, p = sizes.sum(), low.shape[0]
    scale = power_of_two_below(high / 2 - low / 2, xp)
    size_or_one = xp.where(sizes > 0, sizes, 1)

    pilot = rows.first * scale
    means = pilot[:, None] + rows.sums(scale, pilot) / size_or_one
    sums, cross = rows.residual_products(scale, means, None)
    correction = sums / size_or_one
    cross = cross - (correction * sizes) @ correction.T
    rough_centre = (means @ sizes) / n
    deviations = (means - rough_centre[:, None]) + correction
    drift = (deviations @ sizes) / n
    deviations = deviations - drift[:, None]
    centre = rough_centre + drift
    rounding = eps * xp.maximum(abs(low), abs(high)) * scale  # (p,) what the last digit of the input is worth

    if p == 1:
        rotation, deficient, slopes = xp.zeros((0, 0), dtype), False, xp.zeros(0, dtype)
        column_noise = xp.zeros(0, dtype)
        noise = n * (1e-4 * rounding[-1]) ** 2
    else:
        rotation, deficient = _rotation(rows, scale, means, cross, deviations, sizes, rounding)
        slopes = _first_slopes(rotation, cross, deviations, sizes, xp)
        turn = xp.concatenate(
            [
                xp.concatenate([rotation, xp.zeros((1, p - 1), dtype)]),
                xp.append(-(rotation @ slopes), xp.ones(1, dtype))[:, None],
            ],
            axis=1,
        )
        column_noise = 4 * abs(rotation).T @ rounding[:-1]
        turned = correction.T @ turn
        shrink = xp.diag(turn.T @ cross @ turn) / n
        exact_enough = (
            xp is np
            and n > 20_000
            and abs(rotation).max() < 100
            and shrink[:-1].min() > 1e-6
            and shrink[-1] * n > 0.1 * cross[-1, -1]
        )
        if exact_enough:  # well-conditioned: turning the products is as good as turning the rows
            cross = turn.T @ cross @ turn
        else:
            _, cross = rows.residual_products(scale, means, turn)
            cross = cross - (turned.T * sizes) @ turned
        deviations = turn.T @ deviations
        reach = rounding[-1] + abs(rotation @ slopes) @ rounding[:-1]
        noise = n * (8 * reach) ** 2

    varies = xp.diag(cross)[:-1] > n * column_noise**2
    keep = xp.append(varies, xp.ones(1, bool))
    cross = xp.where(keep[:, None] & keep[None, :], cross, 0)
    within_rank = varies.sum().astype(dtype) if p > 1 else xp.zeros((), dtype)
    groups = (sizes > 0).sum(dtype=dtype)

    slope_noise = within_slopes(cross[:-1, :-1], cross[:-1, -1], xp)
    residual = cross[-1, -1] - slope_noise @ cross[:-1, -1]
    finite = xp.isfinite(low).all() & xp.isfinite(high).all() & xp.isfinite(n)
    reasons = {
        Status.UNBOUNDED: ~(residual > noise),
        Status.NOT_IDENTIFIED: (groups < 2) | (n - groups - within_rank <= 0) | (groups + within_rank - p <= 0),
        Status.RANK_DEFICIENT: deficient,
        Status.CONSTANT_OUTCOME: (high[-1] == low[-1]) & (n > 1),
        Status.INVALID: ~finite,
    }
    codes = xp.stack([xp.asarray(holds) * np.int32(code) for code, holds in reasons.items()])
    status = codes.max().astype(np.int32)  # where several hold, the later one says more
    nonempty = sizes > 0
    table = xp.concatenate([nonempty[None, :].astype(dtype), deviations]) * nonempty
    with_intercept = xp.zeros((p + 1, p + 1), dtype)
    if xp is np:
        with_intercept[1:, 1:] = cross
    else:
        with_intercept = with_intercept.at[1:, 1:].set(cross)
    return GroupMoments(
        rows=n,
        sizes=sizes,
        means=table.T,
        within_cross=with_intercept,
        within_rank=within_rank,
        frame=_frame(xp, scale, centre, rotation, slopes),
        status=status,
    )


def _rotation(
    rows: Rows, scale: Array, means: Array, cross: Array, deviations: Array, sizes: Array, rounding: Array
) -> tuple[Array, Array]:
    """Rotation to orthogonal covariates of mean square 1 whose products within groups are diagonal too; and whether a
    covariate is, to the precision of the input, a combination of the others.

    Any invertible rotation gives the same answers, so this one is held fixed under differentiation.
    """
    xp = rows.xp
    n = sizes.sum()
    x_cross, x_means = cross[:-1, :-1], deviations[:-1]
    total = x_cross + (x_means * sizes) @ x_means.T
    length = xp.sqrt(xp.diag(total))
    length = xp.where(length > 0, length, 1)
    squares, vectors = xp.linalg.eigh(total / length / length[:, None])
    values = xp.sqrt(xp.maximum(squares, 0))
    within = None
    if xp is not np or values.min() < 1e-4:  # the products have lost the digits that the rows still have
        within = rows.triangle(scale, means)
        between = xp.sqrt(sizes)[:, None] * x_means.T
        _, values, transposed = xp.linalg.svd(xp.concatenate([within, between]) / length, full_matrices=False)
        vectors = transposed.T
    noise = 4 * xp.sqrt(n) * abs(vectors).T @ (rounding[:-1] / length)
    whiten = vectors / length[:, None] / xp.where(values > noise, values, 1)
    if within is None:
        _, turn = xp.linalg.eigh(whiten.T @ x_cross @ whiten)
    else:
        turn = xp.linalg.svd(within @ whiten, full_matrices=False)[2].T
    rotation = whiten @ turn * xp.sqrt(n)
    return _fixed(rotation, xp), (values <= noise).any()


def _first_slopes(rotation: Array, cross: Array, deviations: Array, sizes: Array, xp: Any) -> Array:
    """Slopes of a first fit, in the rotated covariates.

    The moments are then kept of what this fit leaves over, because a residual sum of squares found by subtracting a
    large explained part from a large total has lost its digits. Ordinary least squares will do unless it leaves much
    more variation within groups than there need be; then generalised least squares at a first guess of the ratio. Held
    fixed under differentiation, like the rotation.
    """
    n, groups = sizes.sum(), (sizes > 0).sum(dtype=sizes.dtype)
    cross_xx, cross_xy = rotation.T @ cross[:-1, :-1] @ rotation, rotation.T @ cross[:-1, -1]
    cross_xx = xp.where(xp.diag(cross_xx)[:, None] > 1e-13 * n, cross_xx, 0)
    inner = within_slopes(cross_xx, cross_xy, xp)
    y_means = deviations[-1] * sizes
    ordinary = (cross_xy + rotation.T @ (deviations[:-1] @ y_means)) / n  # the rotated covariates are orthogonal
    eps = xp.finfo(y_means.dtype).eps
    least = xp.maximum(cross[-1, -1] - inner @ cross_xy, eps * cross[-1, -1])
    gap = ordinary - inner
    if xp is np and gap @ cross_xx @ gap < 10 * least:
        return ordinary
    x, y = xp.concatenate([xp.ones_like(sizes)[None], rotation.T @ deviations[:-1]]), deviations[-1]
    between = sizes @ (y - ordinary @ x[1:]) ** 2 + gap @ cross_xx @ gap
    within = xp.maximum(least, eps**2 * between) / xp.maximum(n - groups - len(cross_xy), 1)
    ratio = xp.maximum((between / xp.where(within > 0, within, 1) - groups) / n, 0)
    weights = sizes / (1 + ratio * sizes)
    padded = xp.concatenate([xp.zeros((1, len(cross_xy)), y.dtype), cross_xx])
    normal = (x * weights) @ x.T + xp.concatenate([xp.zeros((len(x), 1), y.dtype), padded], axis=1)
    right = (x * weights) @ y + xp.append(xp.zeros(1, y.dtype), cross_xy)
    return _fixed(xp.linalg.lstsq(normal, right)[0][1:], xp)


def within_slopes(cross_xx: Array, cross_xy: Array, xp: Any) -> Array:
    """Least-squares slopes of the rows about their group means; 0 for a direction that does not vary within groups."""
    if cross_xy.shape[0] == 0:
        return cross_xy
    varies = xp.diag(cross_xx) > 0
    full = cross_xx + xp.diag(xp.where(varies, 0.0, 1.0).astype(cross_xy.dtype))
    right = xp.where(varies, cross_xy, 0)
    return xp.linalg.solve(full, right) if xp is np else inverse_and_log_det(full)[0] @ right


def _frame(xp: Any, scale: Array, centre: Array, rotation: Array, slopes: Array) -> Frame:
    """The way back from gamma: scale_y y = centre_y + gamma_0 + (scale_x x - centre_x)' rotation (slopes + gamma)."""
    by_x, by_y = scale[:-1], scale[-1]
    back = by_x[:, None] * rotation / by_y
    intercept = -(centre[:-1] @ rotation) / by_y
    first = xp.append(centre[-1] / by_y + intercept @ slopes, back @ slopes)
    top = xp.append(1 / by_y, intercept)
    left = xp.zeros((len(by_x), 1), by_y.dtype)
    transform = xp.concatenate([top[None], xp.concatenate([left, back], axis=1)])
    volume = xp.log(by_x).sum()
    if len(by_x):
        volume = volume + xp.linalg.slogdet(rotation)[1]
    return Frame(origin=first, transform=transform, scale=by_y, log_volume=volume)


def _fixed(x: Array, xp: Any) -> Array:
    return x if xp is np else jax.lax.stop_gradient(x)


def power_of_two_below(size: Array, xp: Any) -> Array:
    """The power of two s with s * size in [1/2, 1), exact to multiply by; 1 where size is 0."""
    _, exponent = xp.frexp(size)
    limit = xp.finfo(size.dtype).maxexp - 2
    return xp.ldexp(xp.ones_like(size), xp.minimum(xp.maximum(-exponent, -limit), limit))


def stratify(moments: GroupMoments) -> Strata:
    """Moments with the groups of one size put together.

    Where the sizes are concrete, one stratum for each distinct size, so that the cost of the likelihood no longer
    depends on the number of groups; where they are traced, one stratum for each group.

    Args:
        moments: sufficient statistics by group.

    Returns:
        Strata, largest possible reduction that tracing allows.

    Errors:
        none are raised.

    Source: definition.

    Example:
        >>> import jaxre
        >>> strata = jaxre.stratify(jaxre.group_moments([1.0, 3.0, 5.0, 9.0, 4.0], [0, 0, 1, 1, 2]))
        >>> print(strata.sizes, strata.counts)
        [1. 2.] [1. 2.]
    """
    shared: dict[str, Any] = {
        name: getattr(moments, name) for name in ("rows", "within_cross", "within_rank", "frame", "status")
    }
    if isinstance(moments.sizes, jax.core.Tracer):
        single = (moments.sizes > 0).astype(moments.sizes.dtype)
        return Strata(sizes=moments.sizes, counts=single, means=moments.means, scatter=None, **shared)
    every = np.asarray(moments.sizes)
    if every.min() == every.max():
        sizes, stratum, taken = every[:1], np.zeros(len(every), np.intp), np.array([len(every)])
    else:
        sizes, stratum, taken = np.unique(every, return_inverse=True, return_counts=True)
    counts = (taken * (sizes > 0)).astype(sizes.dtype)
    means: Any
    scatter: Any
    if isinstance(moments.means, np.ndarray):
        means, scatter = _stratum_products(moments.means, stratum, len(sizes))
    else:
        total = jax.ops.segment_sum(moments.means, stratum, len(sizes))
        means = total / np.maximum(counts, 1)[:, None]
        gap = moments.means - means[stratum]
        scatter = jax.ops.segment_sum(gap[:, :, None] * gap[:, None, :], stratum, len(sizes))
    return Strata(sizes=sizes, counts=counts, means=means, scatter=scatter, **shared)


def _stratum_products(table: np.ndarray, stratum: np.ndarray, strata: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and scatter of the rows of `table` in each stratum, with the rows sorted by stratum once."""
    if strata > 1:
        table = table[np.argsort(stratum, kind="stable")]
    ends = np.cumsum(np.bincount(stratum, minlength=strata)).tolist()
    means = np.empty((strata, table.shape[1]))
    scatter = np.empty((strata, table.shape[1], table.shape[1]))
    for k, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        part = table[start:end]
        means[k] = part.sum(axis=0) / (end - start)
        gap = part - means[k]
        scatter[k] = gap.T @ gap
    return means, scatter
