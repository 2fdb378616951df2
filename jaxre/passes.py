"""The two passes over many outcomes of one design, on the host: what `shared.reduce_rows` does, by NumPy.

On a CPU, XLA adds up rows by group at several cycles a number; NumPy's sums of a few long rows take one. The result is
the same but for the order of the additions.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jaxre.records import record
from jaxre.rows import SHARE, Array

TILE = 1 << 19  # numbers that are kept at once, so that they stay in the cache
SLAB = 1 << 16  # and of those, that all that can be done is done on before the next
NARROWEST, WIDEST = 64, 8192  # columns of a tile
STRIP = 512  # of them, that are looked at by themselves
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
    """(groups + w, datasets) over the rows of each group, then products with an orthonormal basis of the covariates
    less their group means."""
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
    count, width = y.shape[1], inner.shape[1]
    slabs = slabs_of(sizes, count, 2 * width)
    made = Passes(
        pilot=y[0].copy(),
        scale=np.empty(count),
        sums=np.empty((len(sizes) + width, count)),
        floor=np.empty(count),
    )
    with np.errstate(all="ignore"):  # what is missing, infinite or overflows ends in a status
        for tile, room in tiles(largest_slab(slabs), count):
            for part in _strips(tile) if wanted is not None and width == 0 else [tile]:
                if wanted is None or wanted[part].any():
                    _passes(inner, slabs, y[:, part], part, made, room)
                else:
                    for leaf in (made.pilot, made.scale, made.sums, made.floor):
                        leaf[..., part] = np.nan
    return made


def _strips(tile: slice) -> list[slice]:
    """Parts of a tile, of about one width: where no product of matrices is formed, the width changes no bit."""
    count = tile.stop - tile.start
    ends = tile.start + np.arange(1 + -(-count // STRIP)) * count // -(-count // STRIP)
    return [slice(int(start), int(end)) for start, end in itertools.pairwise(ends)]


def slices(sizes: np.ndarray) -> list[slice]:
    """The rows of each group."""
    ends = np.cumsum(sizes).astype(int).tolist()
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


Slab = tuple[slice, list[tuple[int, slice]]]


def slabs_of(sizes: np.ndarray, columns: int, rows_at_least: int = 0) -> list[Slab]:
    """Groups one after the other, as many at a time as have few rows: their rows; and of each its place, and its rows
    among those."""
    most, slabs = max(rows_at_least, SLAB // max(1, min(columns, WIDEST))), list[Slab]()
    for place, rows in enumerate(slices(sizes)):
        if not slabs or rows.stop - slabs[-1][0].start > most:
            slabs.append((rows, []))
        whole, members = slabs[-1]
        members.append((place, slice(rows.start - whole.start, rows.stop - whole.start)))
        slabs[-1] = slice(whole.start, rows.stop), members
    return slabs


def largest_slab(slabs: list[Slab]) -> int:
    """Its rows."""
    return max(rows.stop - rows.start for rows, _ in slabs)


def tiles(rows: int, count: int, rooms: int = 1) -> Iterator[tuple[slice, np.ndarray]]:
    """Tiles of so many columns that rows of them stay in the cache, and memory for `rooms` times that to work in."""
    most = min(WIDEST, max(NARROWEST, TILE // rows))
    width = -(-count // max(1, -(-count // most)))  # all of about one width
    width = max(1, min(count, -(-width // NARROWEST) * NARROWEST))
    room = np.empty(rooms * rows * width)
    for start in range(0, count, width):
        yield slice(start, min(start + width, count)), room


def _passes(inner: np.ndarray, slabs: list[Slab], y: np.ndarray, part: slice, made: Passes, room: np.ndarray) -> None:
    """One tile of the passes, in place."""
    pilot = made.pilot[part]
    reach = abs(y[:: max(1, len(y) // SAMPLED)] - pilot).max(axis=0)
    made.scale[part], now, later = scaling(np.where(np.isfinite(reach), reach, 0))
    groups = len(made.sums) - inner.shape[1]
    centring, inside = Centring(pilot, now, made.sums[:groups, part]), made.sums[groups:, part]
    inside[:], floor = 0, np.zeros(y.shape[1])
    for rows, block in _less_means(slabs, y, centring, room):
        floor += _squares(block)
        if len(inside):
            inside += inner[rows].T @ block
    if len(inside):
        explained = _squares(inside)
        doubtful = explained > (1 - SHARE) * floor
        floor -= explained
        for start in range(0, len(floor), STRIP):
            strip = slice(start, start + STRIP)
            if doubtful[strip].any():  # a number depends on its place in the tile, but never on its company
                exact = _beyond(inner, inside[:, strip], slabs, y[:, strip], centring.of(strip), room)
                floor[strip] = np.where(doubtful[strip], exact, floor[strip])
    made.floor[part] = floor * later * later
    made.sums[:, part] *= later


class Centring(NamedTuple):
    """What is taken from the values of some columns."""

    pilot: np.ndarray
    """(columns,) [y]."""
    now: np.ndarray | None
    """(columns,) powers of two that the values are multiplied by at once; None if these are 1."""
    sums: np.ndarray
    """(groups, columns) of what is left, over each group; found on the way."""

    def of(self, part: slice) -> Centring:
        """The same of some columns, with sums of their own."""
        now = None if self.now is None else self.now[part]
        return Centring(self.pilot[part], now, np.empty_like(self.sums[:, part]))


def _less_means(
    slabs: list[Slab], y: np.ndarray, centring: Centring, room: np.ndarray
) -> Iterator[tuple[slice, np.ndarray]]:
    """The rows of each slab, and their values less the means of their groups."""
    mean = np.empty(y.shape[1])
    for rows, members in slabs:
        block = _block(room, rows, y.shape[1])
        less_pilot(y[rows], centring.pilot, centring.now, block)
        for place, of_group in members:
            total = np.add.reduce(block[of_group], axis=0, out=centring.sums[place])
            block[of_group] -= np.multiply(total, 1 / (of_group.stop - of_group.start), out=mean)  # up to rounding
        yield rows, block


def _block(room: np.ndarray, rows: slice, columns: int) -> np.ndarray:
    """(rows, columns) of the memory at hand."""
    count = rows.stop - rows.start
    return room[: count * columns].reshape(count, columns)


def _squares(block: np.ndarray) -> np.ndarray:
    """(columns,) sums of squares."""
    return np.asarray(np.einsum("ij,ij->j", block, block))


def _beyond(
    inner: np.ndarray, inside: np.ndarray, slabs: list[Slab], y: np.ndarray, centring: Centring, room: np.ndarray
) -> np.ndarray:
    """Squares of what neither X nor the groups explain, from the rows: where little is left of them."""
    floor = np.zeros(y.shape[1])
    for rows, block in _less_means(slabs, y, centring, room):
        block -= inner[rows] @ inside
        floor += _squares(block)
    return floor


def scaling(reach: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """The power of two that brings `reach` below 1; what of it is to be applied at once, None if it is 1; and later: it
    may as well multiply the sums, unless they could overflow."""
    exponent = np.clip(-np.frexp(reach)[1], -1022, 1022)
    scale = np.ldexp(1.0, exponent)
    if abs(exponent).max() <= MODEST:
        return scale, None, scale
    now = np.where(abs(exponent) > MODEST, scale, 1.0)
    return scale, now, scale / now


def less_pilot(y: np.ndarray, pilot: np.ndarray, now: np.ndarray | None, block: np.ndarray) -> None:
    """Rows less the pilot in `block`, times `now`."""
    if now is None:
        np.subtract(y, pilot, out=block)
        return
    np.multiply(y, now, out=block)
    block -= pilot * now


def sums_on_host(sizes: np.ndarray, y: np.ndarray) -> GroupSums:
    """The sums of y (n, datasets), NaN where a value is missing; rows in the order of their groups, of these sizes."""
    count, slabs = y.shape[1], slabs_of(sizes, y.shape[1])
    made = GroupSums(
        low=np.empty(count),
        high=np.empty(count),
        scale=np.empty(count),
        sizes=np.empty((len(sizes), count)),
        sums=np.empty((len(sizes), count)),
        within=np.empty(count),
    )
    with np.errstate(all="ignore"):
        for part, room in tiles(largest_slab(slabs), count):
            _sums(slabs, y[:, part], part, made, room)
    return made


def _sums(slabs: list[Slab], y: np.ndarray, part: slice, made: GroupSums, room: np.ndarray) -> None:
    """One tile of the sums, in place."""
    low, high = made.low[part], made.high[part]
    low[:], high[:] = np.nan, np.nan
    for rows, _ in slabs:
        np.fmin(low, np.fmin.reduce(y[rows], axis=0), out=low)
        np.fmax(high, np.fmax.reduce(y[rows], axis=0), out=high)
    made.scale[part], now, later = scaling(np.where(high > low, high / 2 - low / 2, 0))
    sums, sizes, mean, within = made.sums[:, part], made.sizes[:, part], np.empty(len(low)), np.zeros(len(low))
    for rows, members in slabs:
        block, missing = _block(room, rows, y.shape[1]), np.isnan(y[rows])
        less_pilot(y[rows], low, now, block)
        gone, flat = np.flatnonzero(missing), block.reshape(-1)
        flat[gone] = 0
        for place, of_group in members:
            np.add.reduce(block[of_group], axis=0, out=sums[place])
            np.subtract(of_group.stop - of_group.start, count_true(missing[of_group]), out=sizes[place])
            block[of_group] -= np.divide(sums[place], np.maximum(sizes[place], 1, out=mean), out=mean)
        flat[gone] = 0
        within += _squares(block)
    made.within[part] = within * later * later
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
