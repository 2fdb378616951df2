"""The two passes over many outcomes of one design, on the host: what `shared.reduce_rows` does, by NumPy.

On a CPU, XLA adds up rows by group at several cycles a number; NumPy's sums of a few long rows take one. The result is
the same but for the order of the additions.
"""

from __future__ import annotations

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


def passes_on_host(inner: np.ndarray, sizes: np.ndarray, y: np.ndarray) -> Passes:
    """The passes over y (n, datasets), whose rows are in the order of their groups, of these sizes.

    `inner` (n, w) is the basis of the covariates less their group means.
    """
    rows, count = y.shape
    width = min(count, max(NARROWEST, TILE // rows // NARROWEST * NARROWEST))
    ends = np.cumsum(sizes).astype(int).tolist()
    groups = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
    made = Passes(
        pilot=y[0].copy(),
        scale=np.empty(count),
        sums=np.empty((len(groups), count)),
        inside=np.empty((inner.shape[1], count)),
        floor=np.empty(count),
    )
    room = np.empty((2 if inner.shape[1] else 1, rows, width))
    with np.errstate(all="ignore"):  # what is missing, infinite or overflows ends in a status
        for start in range(0, count, width):
            part = slice(start, min(start + width, count))
            _passes(inner, groups, y[:, part], part, made, room[..., : part.stop - start])
    return made


def _passes(inner: np.ndarray, groups: list[slice], y: np.ndarray, part: slice, made: Passes, room: np.ndarray) -> None:
    """One tile of the passes, in place."""
    block, pilot = room[0], made.pilot[part]
    reach = abs(y[:: max(1, len(y) // SAMPLED)] - pilot).max(axis=0)
    exponent = np.clip(-np.frexp(np.where(np.isfinite(reach), reach, 0))[1], -1022, 1022)
    scale = made.scale[part] = np.ldexp(1.0, exponent)
    later = scale  # a power of two may as well multiply the sums, unless they could overflow
    if abs(exponent).max() <= MODEST:
        np.subtract(y, pilot, out=block)
    else:
        now = np.where(abs(exponent) > MODEST, scale, 1.0)
        later = scale / now
        np.multiply(y, now, out=block)
        block -= pilot * now
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
