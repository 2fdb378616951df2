"""The two passes over many outcomes of one design, on the host: what `shared.reduce_rows` does, by NumPy.

On a CPU, XLA adds up rows by group at several cycles a number; NumPy's sums of a few long rows take one. The result is
the same but for the order of the additions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jaxre.records import record
from jaxre.rows import Array

TILE = 1 << 19  # numbers that are worked on at once, so that they stay in the cache
NARROWEST = 64
SAMPLED = 16  # rows that say how an outcome is scaled
MODEST = 400  # binary exponents of the scale up to which squares neither overflow nor vanish without it


@record
class Passes:
    """Sums over the rows of a block of outcomes, scaled and less their pilot; the last axis is the dataset."""

    pilot: Array
    """(datasets,) [y], the first row."""
    scale: Array
    """(datasets,) [1/y], power of two."""
    sums: Array
    """(groups, datasets) over the rows of each group."""
    inside: Array
    """(w, datasets) products with an orthonormal basis of the covariates less their group means."""
    floor: Array
    """(datasets,) squares of what neither X nor the groups explain, Q(infinity)."""


@record
class GroupSums:
    """What the rows of outcomes with missing values come to, scaled and less `low`; the last axis is the dataset."""

    low: Array
    """(datasets,) [y], the smallest value."""
    high: Array
    """(datasets,) [y], the largest."""
    scale: Array
    """(datasets,) [1/y], power of two."""
    sizes: Array
    """(groups, datasets) rows that are not missing."""
    sums: Array
    """(groups, datasets) over them."""
    within: Array
    """(datasets,) squares about the group means."""


def passes_on_host(inner: np.ndarray, sizes: np.ndarray, y: np.ndarray, wanted: np.ndarray | None = None) -> Passes:
    """The passes over y (n, datasets), whose rows are in the order of their groups, of these sizes.

    `inner` (n, w) is the basis of the covariates less their group means. Columns that are not `wanted` may be left as
    if they were missing.
    """
    rows, count = y.shape
    groups = slices(sizes)
    made = Passes(
        pilot=y[0].copy(),
        scale=np.empty(count),
        sums=np.empty((len(groups), count)),
        inside=np.empty((inner.shape[1], count)),
        floor=np.empty(count),
    )
    with np.errstate(all="ignore"):  # what is missing, infinite or overflows ends in a status
        for part, room in tiles(rows, count, 2 if inner.shape[1] else 1):
            if wanted is None or wanted[part].any():
                _passes(inner, groups, y[:, part], part, made, room)
            else:
                for leaf in (made.pilot, made.scale, made.sums, made.inside, made.floor):
                    leaf[..., part] = np.nan
    return made


def slices(sizes: np.ndarray) -> list[slice]:
    """The rows of each group."""
    ends = np.cumsum(sizes).astype(int).tolist()
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def tiles(rows: int, count: int, rooms: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Tiles of so many columns that they stay in the cache, and memory (rooms, rows, columns) to work in."""
    width = min(count, max(NARROWEST, TILE // rows // NARROWEST * NARROWEST))
    room = np.empty(rooms * rows * width)
    for start in range(0, count, width):
        columns = min(width, count - start)
        yield slice(start, start + columns), room[: rooms * rows * columns].reshape(rooms, rows, columns)


def _passes(inner: np.ndarray, groups: list[slice], y: np.ndarray, part: slice, made: Passes, room: np.ndarray) -> None:
    """One tile of the passes, in place."""
    block, pilot = room[0], made.pilot[part]
    reach = abs(y[:: max(1, len(y) // SAMPLED)] - pilot).max(axis=0)
    made.scale[part], later = centred(y, pilot, np.where(np.isfinite(reach), reach, 0), block)
    sums, mean = made.sums[:, part], np.empty(block.shape[1])
    for total, rows in zip(sums, groups, strict=True):
        np.add.reduce(block[rows], axis=0, out=total)
        block[rows] -= np.divide(total, rows.stop - rows.start, out=mean)
    if inner.shape[1]:
        inside = inner.T @ block
        block -= np.matmul(inner, inside, out=room[1])
        made.inside[:, part] = inside * later
    made.floor[part] = np.einsum("ij,ij->j", block, block) * later * later
    sums *= later


def centred(y: np.ndarray, pilot: np.ndarray, reach: np.ndarray, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """y less the pilot in `block`; the power of two that brings `reach` below 1, and what of it is still to be applied:
    it may as well multiply the sums, unless they could overflow."""
    exponent = np.clip(-np.frexp(reach)[1], -1022, 1022)
    scale = np.ldexp(1.0, exponent)
    if abs(exponent).max() <= MODEST:
        np.subtract(y, pilot, out=block)
        return scale, scale
    now = np.where(abs(exponent) > MODEST, scale, 1.0)
    np.multiply(y, now, out=block)
    block -= pilot * now
    return scale, scale / now


def sums_on_host(sizes: np.ndarray, y: np.ndarray) -> GroupSums:
    """The sums of y (n, datasets), NaN where a value is missing; rows in the order of their groups, of these sizes."""
    rows, count = y.shape
    groups = slices(sizes)
    made = GroupSums(
        low=np.empty(count),
        high=np.empty(count),
        scale=np.empty(count),
        sizes=np.empty((len(groups), count)),
        sums=np.empty((len(groups), count)),
        within=np.empty(count),
    )
    with np.errstate(all="ignore"):
        for part, room in tiles(rows, count, 1):
            _sums(groups, y[:, part], part, made, room[0])
    return made


def _sums(groups: list[slice], y: np.ndarray, part: slice, made: GroupSums, block: np.ndarray) -> None:
    """One tile of the sums, in place."""
    missing = np.isnan(y)
    low = made.low[part] = np.fmin.reduce(y, axis=0)
    high = made.high[part] = np.fmax.reduce(y, axis=0)
    made.scale[part], later = centred(y, low, np.where(high > low, high / 2 - low / 2, 0), block)
    gone, sums, sizes, mean = np.flatnonzero(missing), made.sums[:, part], made.sizes[:, part], np.empty(len(low))
    flat = block.reshape(-1)
    flat[gone] = 0
    for total, size, rows in zip(sums, sizes, groups, strict=True):
        np.add.reduce(block[rows], axis=0, out=total)
        np.subtract(rows.stop - rows.start, count_true(missing[rows]), out=size)
        block[rows] -= np.divide(total, np.maximum(size, 1, out=mean), out=mean)
    flat[gone] = 0
    made.within[part] = np.einsum("ij,ij->j", block, block) * later * later
    sums *= later


class Missing(NamedTuple):
    """How much each dataset lacks."""

    values: np.ndarray
    """(datasets,) [1]."""
    groups: np.ndarray
    """(datasets,) [1], groups without a value."""


def missing_of(sizes: np.ndarray, y: np.ndarray) -> Missing:
    """What is missing of each column of y (n, datasets); rows in the order of their groups, of these sizes."""
    values, whole = np.zeros(y.shape[1], int), np.zeros(y.shape[1], int)
    for part, _ in tiles(len(y), y.shape[1], 0):
        missing = np.isnan(y[:, part])
        for rows in slices(sizes):
            of_group = count_true(missing[rows])
            values[part] += of_group
            whole[part] += of_group == rows.stop - rows.start
    return Missing(values, whole)


def count_true(mask: np.ndarray) -> np.ndarray:
    """How many of each column are true; in bytes, which are added up eight times as fast as integers."""
    parts = [np.add.reduce(mask[i : i + 255].view(np.uint8), axis=0, dtype=np.uint8) for i in range(0, len(mask), 255)]
    return parts[0] if len(parts) == 1 else np.sum(parts, axis=0, dtype=int)
