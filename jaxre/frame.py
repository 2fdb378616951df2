"""The coordinates in which moments keep their last digits, and the way back to the user's."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np

from jaxre.records import record
from jaxre.rows import Array, Rows
from jaxre.sweep import inverse_and_log_det

FREEDOM_OF_KNOWN = 2.0**100  # degrees of freedom of a variance within groups that is known: as good as infinite


@record
class Known:
    """What the moments of data whose variance within groups is known would else have lost; see `group_moments`."""

    rows: Array
    """() [1], n, the number of rows."""
    floor: Array
    """() residual sum of squares of the scaled outcome on [X Z]."""


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
    log_weights: Array | None = None
    """() [nat], sum of the logarithms of the rows' weights; None without weights."""
    known: Known | None = None
    """None unless the variance within groups is known."""


def rotation_of(
    rows: Rows, scale: Array, anchors: Array, cross: Array, deviations: Array, sizes: Array, rounding: Array
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
        within = rows.triangle(scale, anchors)
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
    return fixed(rotation, xp), (values <= noise).any()


def first_slopes(rotation: Array, cross: Array, deviations: Array, sizes: Array, xp: Any) -> Array:
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
    return fixed(xp.linalg.lstsq(normal, right)[0][1:], xp)


def within_slopes(cross_xx: Array, cross_xy: Array, xp: Any) -> Array:
    """Least-squares slopes of the rows about their group means; 0 for a direction that does not vary within groups."""
    if cross_xy.shape[0] == 0:
        return cross_xy
    varies = xp.diag(cross_xx) > 0
    full = cross_xx + xp.diag(xp.where(varies, 0.0, 1.0).astype(cross_xy.dtype))
    right = xp.where(varies, cross_xy, 0)
    if xp is not np:
        return inverse_and_log_det(full)[0] @ right
    try:
        return np.linalg.solve(full, right)
    except np.linalg.LinAlgError:  # rank-deficient covariates, which the status will say
        return np.linalg.lstsq(full, right)[0]


def frame_of(xp: Any, scale: Array, centre: Array, rotation: Array, slopes: Array) -> Frame:
    """The way back from gamma: scale_y y = centre_y + gamma_0 + (scale_x x - centre_x)' rotation (slopes + gamma)."""
    by_x, by_y = scale[:-1], scale[-1]
    if len(by_x) == 0:
        unit = 1 / by_y
        return Frame(origin=centre * unit, transform=unit.reshape(1, 1), scale=by_y, log_volume=xp.zeros_like(by_y))
    back = by_x[:, None] * rotation / by_y
    intercept = -(centre[:-1] @ rotation) / by_y
    first = xp.append(centre[-1] / by_y + intercept @ slopes, back @ slopes)
    top = xp.append(1 / by_y, intercept)
    left = xp.zeros((len(by_x), 1), by_y.dtype)
    transform = xp.concatenate([top[None], xp.concatenate([left, back], axis=1)])
    volume = xp.log(by_x).sum() + xp.linalg.slogdet(rotation)[1]
    return Frame(origin=first, transform=transform, scale=by_y, log_volume=volume)


def rounding_floor(rows: Array, rounding: Array, covariates: bool) -> Array:
    """The residual sum of squares within groups up to which an outcome counts as explained by covariates and groups.

    `rounding` is what the last digit of a row is worth. Without covariates equal values leave exactly 0; with them the
    rounding of the input and of the arithmetic leaves up to about that much a row.
    """
    return rows * ((2.0 if covariates else 1e-4) * rounding) ** 2


def fixed(x: Array, xp: Any) -> Array:
    return x if xp is np else jax.lax.stop_gradient(x)


def power_of_two_below(size: Array, xp: Any) -> Array:
    """The power of two s with s * size in [1/2, 1), exact to multiply by; 1 where size is 0."""
    if xp is np:
        return np.array([power_of_two(column) for column in size.tolist()])
    _, exponent = xp.frexp(size)
    limit = xp.finfo(size.dtype).maxexp - 2
    return xp.ldexp(xp.ones_like(size), xp.minimum(xp.maximum(-exponent, -limit), limit))


def power_of_two(size: float) -> float:
    """The same of one double."""
    return math.ldexp(1.0, min(max(-math.frexp(size)[1], -1022), 1022))
