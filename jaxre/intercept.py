"""The moments of an outcome without covariates on the host: the steps of `moments_of` in as few operations as will do.

What takes the time of a small fit is the number of NumPy's calls, not the rows. `moments_of` is the plain twin.
"""

from __future__ import annotations

import math

import numpy as np

from jaxre.frame import Frame, power_of_two, rounding_floor
from jaxre.moments import GroupMoments, moments_of
from jaxre.rows import RUN, HostRows
from jaxre.status import Status

EPS = float(np.finfo(np.float64).eps)


def host_moments(rows: HostRows) -> GroupMoments:
    """Sufficient statistics of rows on the host, whatever columns they have."""
    return moments_of(rows) if rows.columns > 1 else moments_of_outcome(rows)


def _passes(
    rows: HostRows, scale: float, pilot: float, sizes: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None, float]:
    """Means of the groups less the pilot, and the sums and the product of what the rounded means leave.

    By `HostRows`, or where rows are so few that it would add them up at once, without its blocks, which then take
    longer than the rows.
    """
    if len(rows.values) > RUN or rows.weights is not None:
        scales = np.array([scale])
        means, products = rows.sums(scales)  # in place, since many groups are large arrays
        means /= sizes
        sums = None
        if products is None:
            means += pilot
            sums, products = rows.residual_products(scales, means, None)
            means -= pilot
        return means[0], None if sums is None else sums[0], float(products[0, 0])
    values, codes = rows.values * scale, rows.codes
    anchor = np.bincount(codes, values - pilot, len(sizes)) / sizes + pilot
    values -= anchor[codes]
    anchor -= pilot
    return anchor, np.bincount(codes, values, len(sizes)), float(values @ values)


def moments_of_outcome(rows: HostRows) -> GroupMoments:
    """Sufficient statistics of an outcome alone."""
    low, high = float(rows.extremes[0][0]), float(rows.extremes[1][0])
    finite = math.isfinite(low) and math.isfinite(high)
    scale = power_of_two(high / 2 - low / 2) if finite else 1.0
    pilot = float(rows.first[0]) * scale
    sizes = rows.sizes.astype(np.float64)
    groups, n = int(np.count_nonzero(sizes)), float(sizes.sum())
    size_or_one = sizes if groups == len(sizes) else np.maximum(sizes, sizes == 0)

    means, sums, inner = _passes(rows, scale, pilot, size_or_one)
    rough_centre = float(means @ sizes) / n
    means -= rough_centre
    if sums is not None:
        correction = sums / size_or_one
        inner -= float((correction * correction) @ sizes)
        means += correction
    drift = float(means @ sizes) / n
    means -= drift

    status = Status.INTERIOR
    if not (finite and math.isfinite(n)):
        status = Status.INVALID
    elif high == low and rows.count > 1:
        status = Status.CONSTANT_OUTCOME
    elif groups < 2 or rows.count <= groups:
        status = Status.NOT_IDENTIFIED
    elif not inner > rounding_floor(n, EPS * max(abs(low), abs(high)) * scale, False):
        status = Status.UNBOUNDED
    table, within_cross = np.ones((2, len(sizes))), np.zeros((2, 2))
    table[1], within_cross[1, 1] = means, inner
    if groups < len(sizes):
        table *= sizes > 0
    unit = 1 / scale
    return GroupMoments(
        rows=rows.count,
        sizes=sizes,
        means=table.T,
        within_cross=within_cross,
        within_rank=np.float64(0),
        frame=Frame(
            origin=np.array([(pilot + (rough_centre + drift)) * unit]),
            transform=np.array([[unit]]),
            scale=np.float64(scale),
            log_volume=np.float64(0),
            log_weights=rows.log_weights,
        ),
        status=np.int32(status),
    )
