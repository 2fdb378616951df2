"""Rows about the means of their groups, in the coordinates of the moments: the second pass of a criticism."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxre.frame import Frame
from jaxre.records import record
from jaxre.rows import Array


@record
class Deviations:
    """Rows and group means in the coordinates of a frame, each about a number near it; see `deviations`."""

    codes: Array
    """(n,) int32, group of each row."""
    rows: Array
    """(n, p) rotated covariates and reduced outcome, less their group's mean."""
    weights: Array
    """(n,) [1], precisions of the rows; 1 without weights."""
    counts: Array
    """(groups,) [1], rows in each group."""
    sizes: Array
    """(groups,) [1], sums of the weights in each group."""
    means: Array
    """(groups, p) group means of the same, less those of a middle group; 0 for an empty group."""
    middle: Array
    """(p,) what was taken off, in the user's units: covariates, then the outcome."""
    low: Array
    """(groups, p) smallest value of covariates and outcome in the group, in the user's units; infinite if empty."""
    high: Array
    """(groups, p) the largest."""


def deviations(
    values: ArrayLike,
    codes: ArrayLike,
    covariates: ArrayLike | None,
    weights: ArrayLike | None,
    frame: Frame,
    groups: int,
) -> Deviations:
    """Rows about their group means in the frame's coordinates, twice corrected, so that neither a large mean nor a
    group far from the others costs the digits of those that are not."""
    y = jnp.asarray(values)
    y = y if jnp.issubdtype(y.dtype, jnp.floating) else y.astype(jnp.result_type(float))
    x = jnp.zeros((len(y), 0), y.dtype) if covariates is None else jnp.asarray(covariates, y.dtype)
    if x.shape[:1] != y.shape or x.shape[1:] != (frame.transform.shape[-1] - 1,):
        raise ValueError(
            f"covariates must have shape ({len(y)}, {frame.transform.shape[-1] - 1}) as in the moments, got {x.shape}."
        )
    place = _places(codes, len(y), groups)
    w = None if weights is None else jnp.asarray(weights, y.dtype)
    if w is not None and w.shape != y.shape:
        raise ValueError(f"weights must have shape {y.shape} like values, got {w.shape}.")
    return _about_means(x, y, place, w, frame, groups)


@partial(jax.jit, static_argnums=5)  # operation by operation it would take seconds to compile
def _about_means(x: Array, y: Array, place: Array, weights: Array | None, frame: Frame, groups: int) -> Deviations:
    table = jnp.concatenate([x, (y * frame.scale)[:, None]], axis=1)
    w = jnp.ones_like(y) if weights is None else weights
    counts, sizes = (jax.ops.segment_sum(column, place, groups) for column in (jnp.ones_like(y), w))
    add = lambda rows: jax.ops.segment_sum(rows if weights is None else rows * w[:, None], place, groups)
    size_or_one = jnp.where(sizes > 0, sizes, 1)[:, None]
    anchors = table[0] + add(table - table[0]) / size_or_one
    rows = table - anchors[place]
    correction = add(rows) / size_or_one
    full = (sizes > 0)[:, None]
    middle = jnp.nanmedian(jnp.where(full, anchors, jnp.nan), axis=0)
    p = table.shape[1]
    turn = jnp.eye(p, dtype=y.dtype)
    turn = turn.at[:-1, :-1].set(frame.transform[1:, 1:] * frame.scale)
    turn = turn.at[:-1, -1].set(-frame.origin[1:] * frame.scale)
    unscaled = jnp.append(jnp.ones(p - 1, y.dtype), 1 / frame.scale)
    plain = jnp.concatenate([x, y[:, None]], axis=1)
    return Deviations(
        codes=place,
        rows=_product(rows - correction[place], turn),
        weights=w,
        counts=counts,
        sizes=sizes,
        means=_product(jnp.where(full, (anchors - middle) + correction, 0), turn),
        middle=middle * unscaled,
        low=jax.ops.segment_min(plain, place, groups),
        high=jax.ops.segment_max(plain, place, groups),
    )


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _places(codes: Any, rows: int, groups: int) -> Array:
    """Groups of the rows as int32, checked where they are concrete."""
    if not isinstance(codes, jax.core.Tracer):
        codes = np.asarray(codes)
    if codes.shape != (rows,) or not np.issubdtype(codes.dtype, np.integer):
        raise ValueError(
            f"groups must be {rows} integers 0 .. {groups - 1}, one a row, got {codes.dtype} of shape {codes.shape}; "
            "number the labels in the order of the moments."
        )
    if isinstance(codes, np.ndarray) and not ((codes >= 0) & (codes < groups)).all():
        raise ValueError(f"groups must lie within 0 .. {groups - 1}, got {codes.min()} to {codes.max()}.")
    return codes.astype(np.int32)
