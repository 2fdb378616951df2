"""Sums of rows by group in JAX: scattered additions on a CPU, and gathered rows elsewhere.

On a GPU scattered additions are slow and come in no certain order; the rows of each group, gathered, are summed in
theirs, and both fuse with what makes the rows.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxre.settings import platform

UNEVEN = 8  # times as many rows as there are, that may be gathered, because every group is filled up to the largest

Array = Any  # a NumPy or a JAX array


def places_of(codes: np.ndarray, groups: int) -> np.ndarray | None:
    """(groups, largest size) int32 the rows of each group, then -1; None where scattered additions do better."""
    if platform() == "cpu" or len(codes) == 0 or codes.min() < 0 or codes.max() >= groups:
        return None
    return rows_of_groups(codes, groups)


def rows_of_groups(codes: np.ndarray, groups: int) -> np.ndarray | None:
    """The same on any platform; None where the groups are too uneven."""
    sizes = np.bincount(codes, minlength=groups)
    if groups * sizes.max() > UNEVEN * len(codes):
        return None
    place = np.arange(sizes.max())
    order = np.append(np.argsort(codes, kind="stable"), -1)
    starts = np.cumsum(sizes) - sizes
    return order[np.where(place < sizes[:, None], starts[:, None] + place, -1)].astype(np.int32)


def sums_by_group(rows: Array, codes: Array, groups: int, places: Array | None = None) -> jax.Array:
    """(groups, ...) sums of rows (n, ...) with integer codes; `places` as by `places_of`, where codes are traced."""
    if places is None and isinstance(codes, np.ndarray):
        places = places_of(codes, groups)
    if places is None:
        return jax.ops.segment_sum(rows, codes, groups)
    there = jnp.expand_dims(places >= 0, tuple(range(2, 1 + np.ndim(rows))))
    return jnp.where(there, jnp.asarray(rows).at[places].get(mode="clip"), 0).sum(axis=1)
