"""Datasets with designs of their own and the intercept alone: strata by group size 1, 2, ..., K with traced counts.

One program then serves all of them, whatever groups each has. The dataset axis is the last one, as in `shared`.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxre.by_group import sums_by_group
from jaxre.frame import Frame, power_of_two_below, rounding_floor
from jaxre.moments import Strata
from jaxre.passes import GroupSums
from jaxre.profile import WRITTEN_OUT
from jaxre.records import record
from jaxre.rows import Array
from jaxre.settings import platform
from jaxre.status import Status

MOST_CLASSES = WRITTEN_OUT


@record
class Classes:
    """Sufficient statistics by group size; the last axis is the dataset."""

    counts: Array
    """(K, datasets) [1], groups of 1, 2, ..., K rows."""
    means: Array
    """(K, datasets) average of their means, of the scaled outcome less its pilot."""
    scatter: Array
    """(K, datasets) squares of their means about that average."""
    within: Array
    """(datasets,) sum of squares within groups, scaled."""
    scale: Array
    """(datasets,) [1/y], power of two."""
    pilot: Array
    """(datasets,) [y]."""
    status: Array
    """(datasets,) int32 `Status`."""


def sums_of_block(codes: Array, places: Array | None, groups: int, y: Array, dtype: jnp.dtype) -> GroupSums:
    """`sums_on_host` on a device; y less its smallest value in its own precision, then in `dtype`."""
    present = ~jnp.isnan(y)
    low = jnp.where(present, y, jnp.inf).min(axis=0)
    high = jnp.where(present, y, -jnp.inf).max(axis=0)
    scale = power_of_two_below(jnp.where(high > low, high / 2 - low / 2, 0), jnp)
    centred = jnp.where(present, y * scale - low * scale, 0).astype(dtype)
    by_group = lambda rows: sums_by_group(rows, codes, groups, places)
    sizes, sums = by_group(present.astype(dtype)), by_group(centred)
    means = sums / jnp.maximum(sizes, 1)
    residuals = jnp.where(present, centred - means[codes], 0)
    within = (residuals * residuals).sum(axis=0)
    return GroupSums(low=low, high=high, scale=scale, sizes=sizes, sums=sums, within=within)


def by_classes(made: GroupSums, classes: int, dtype: jnp.dtype) -> Classes:
    """Sufficient statistics by group size from those by group, in a precision."""
    sizes, sums, within = made.sizes.astype(dtype), made.sums.astype(dtype), made.within.astype(dtype)
    rows = sizes.sum(axis=0)
    centre = sums.sum(axis=0) / jnp.maximum(rows, 1)
    means = sums / jnp.maximum(sizes, 1) - centre
    kinds = jnp.arange(1, classes + 1, dtype=dtype)[:, None]
    at = lambda size, values: jnp.where(size == kinds, values, 0)  # (K, datasets) of one group
    counts, totals = _over_groups(lambda size, mean: (at(size, jnp.ones_like(mean)), at(size, mean)), sizes, means)
    averages = totals / jnp.maximum(counts, 1)
    (scatter,) = _over_groups(lambda size, mean: (at(size, (mean - averages) ** 2),), sizes, means)
    return Classes(
        counts=counts,
        means=averages,
        scatter=scatter,
        within=within,
        scale=made.scale,
        pilot=made.low + centre / made.scale,
        status=status_of(rows, counts.sum(axis=0), made.low, made.high, within, made.scale, dtype),
    )


def _over_groups(term: Callable[..., tuple[Array, ...]], *columns: Array) -> tuple[Array, ...]:
    """Sum of term(*columns) over the groups, their first axis: on a CPU one after the other, so that all stays in its
    cache; on a GPU all at once, since an iteration is a pass over memory."""
    if platform() != "cpu":
        return tuple(part.sum(axis=0) for part in jax.vmap(term)(*columns))
    first = term(*(column[0] for column in columns))
    add = lambda j, total: jax.tree.map(jnp.add, total, term(*(column[j] for column in columns)))
    return jax.lax.fori_loop(1, len(columns[0]), add, first)


def status_of(rows: Array, groups: Array, low: Array, high: Array, within: Array, scale: Array, dtype: Array) -> Array:
    """Why there is no estimate, from the facts of each dataset; NumPy or JAX."""
    xp = np if isinstance(rows, np.ndarray) else jnp
    noise = rounding_floor(rows, xp.finfo(dtype).eps * xp.maximum(abs(low), abs(high)) * scale, False)
    status = xp.where(within > noise, 0, int(Status.UNBOUNDED))
    status = xp.where((groups < 2) | (rows <= groups), int(Status.NOT_IDENTIFIED), status)
    status = xp.where((high == low) & (rows > 1), int(Status.CONSTANT_OUTCOME), status)
    return xp.where(xp.isfinite(low) & xp.isfinite(high), status, int(Status.INVALID)).astype(xp.int32)


def strata_of_classes(data: Classes) -> Strata:
    """Strata of one dataset, in the units that its scale and pilot say."""
    dtype, count = data.counts.dtype, data.counts.shape[0]
    sizes = jnp.arange(1, count + 1, dtype=dtype)
    zeros = jnp.zeros((count,), dtype)
    squares = jnp.stack([jnp.stack([zeros, zeros], axis=1), jnp.stack([zeros, data.scatter], axis=1)], axis=1)
    nothing, rows = jnp.zeros((), dtype), (data.counts * sizes).sum()
    scale = data.scale.astype(dtype)
    frame = Frame(
        origin=data.pilot.astype(dtype)[None], transform=1 / scale, scale=scale, log_volume=jnp.log(1.0).astype(dtype)
    )
    return Strata(
        rows=rows,
        sizes=sizes,
        counts=data.counts,
        means=jnp.stack([(data.counts > 0).astype(dtype), data.means], axis=1),
        scatter=squares,
        within_cross=jnp.stack([jnp.stack([nothing, nothing]), jnp.stack([nothing, data.within])]),
        within_rank=nothing,
        frame=frame,
        status=data.status,
    )
