"""Moments of many outcomes over one design with covariates, of which each has its own rows missing.

The covariates are rotated once, for all rows, so that their cross products over the rows of any one outcome are nearly
diagonal; these and the group means are then matrix products with the mask of what is there. Where an outcome lacks so
much that they are not, or has no estimate, it is left to the moments of one dataset at a time.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from jaxre.frame import Frame, rounding_floor
from jaxre.moments import Strata
from jaxre.passes import NARROWEST, Missing, count_true, less_pilot, scaling, slices, tiles
from jaxre.shared_design import rotated_covariates
from jaxre.status import Status

LEAST_PIVOT = 1e-4  # of the cross products, of a diagonal that is 1 for all rows; half of the digits are then lost
MOST_NOISE = 1e4  # roundings of a row, from which on an outcome varies within groups beyond doubt
MOST_COVARIATES = 30  # whose cross products are formed row by row
MOST_EXCESS = 10.0  # times the least variation within groups, that a first fit may leave


@dataclasses.dataclass(frozen=True)
class MaskedDesign:
    """What the moments of all outcomes over a design have in common; rows in the order of their groups."""

    sizes: np.ndarray
    """(groups,) [1], rows."""
    inner: np.ndarray
    """(n, q) covariates, rotated, less their group means; 0 where they do not vary within groups."""
    means: np.ndarray
    """(groups, q) the group means of the rotated covariates."""
    varies: np.ndarray
    """(q,) bool, which of them vary within groups."""
    pairs: tuple[np.ndarray, np.ndarray]
    """places (i, j), i <= j, of the q (q + 1) / 2 cross products."""
    products: np.ndarray
    """(n, q (q + 1) / 2) those of each row of `inner`."""
    total: np.ndarray
    """(q,) squares of `inner`."""
    to_x: np.ndarray
    """(p, p) coefficients on the covariates from those on the rotated ones."""
    log_volume: float
    """[nat], log |det to_x|."""
    rounding: np.ndarray
    """(q,) [x], what the last digit of each covariate is worth."""


def masked_design(codes: np.ndarray, covariates: np.ndarray) -> MaskedDesign:
    """The constants of a design that `design_status` passes."""
    sizes = np.bincount(codes)
    rotated, to_x, rank = rotated_covariates(codes, covariates)
    means = np.add.reduceat(rotated, np.cumsum(sizes) - sizes) / sizes[:, None]
    inner = rotated - means[codes]
    total = np.einsum("ni,ni->i", inner, inner)
    varies = np.zeros(len(total), bool)
    varies[np.argsort(total)[len(total) - rank :]] = True
    inner[:, ~varies] = 0
    pairs = np.triu_indices(inner.shape[1])
    return MaskedDesign(
        sizes=sizes,
        inner=inner,
        means=means,
        varies=varies,
        pairs=pairs,
        products=inner[:, pairs[0]] * inner[:, pairs[1]],
        total=np.where(varies, total, 0),
        to_x=to_x,
        log_volume=float(np.linalg.slogdet(to_x)[1]),
        rounding=np.finfo(float).eps * abs(covariates).max(axis=0),
    )


def masked_strata(design: MaskedDesign, y: np.ndarray) -> tuple[Strata, np.ndarray, Missing]:
    """Moments of y (n, datasets), NaN where a value is missing; the last axis is the dataset.

    And which datasets they suit, of which the others have the status INVALID; and how much each lacks.
    """
    (groups, q), asked = design.means.shape, y.shape[1]
    if asked % NARROWEST:  # a matrix product may round the last few columns otherwise
        y = np.pad(y, ((0, 0), (0, -asked % NARROWEST)), mode="edge")
    p, count = q + 1, y.shape[1]
    made = Strata(
        rows=np.empty(count),
        sizes=np.empty((groups, count)),
        counts=np.empty((groups, count)),
        means=np.empty((groups, p + 1, count)),
        scatter=None,
        within_cross=np.zeros((p + 1, p + 1, count)),
        within_rank=np.full(count, float(design.varies.sum())),
        frame=Frame(
            origin=np.empty((p, count)),
            transform=np.empty((p, p, count)),
            scale=np.empty(count),
            log_volume=np.full(count, design.log_volume),
        ),
        status=np.full(count, int(Status.INVALID), np.int32),
    )
    suits = np.zeros(count, bool)
    with np.errstate(all="ignore"):
        for part, room in tiles(len(y), count, 3):
            suits[part] = _tile(design, y[:, part], part, made, room)
    made.status[suits] = Status.INTERIOR
    present, taken = made.rows[:asked].astype(int), made.counts[:, :asked].sum(axis=0).astype(int)
    missing = Missing(values=len(y) - present, groups=groups - taken)
    if 2 * design.sizes.max() <= groups:  # else the products of so many sizes take as long as those of the groups
        made = _by_size(made, int(design.sizes.max()))
    return jax.tree.map(lambda leaf: leaf[..., :asked], made), suits[:asked], missing


def _tile(design: MaskedDesign, y: np.ndarray, part: slice, made: Strata, room: np.ndarray) -> np.ndarray:
    """One tile, in place; which of its datasets it suits."""
    (groups, q), width = design.means.shape, y.shape[1]
    block, mask, work = room[: 3 * y.size].reshape(3, *y.shape)
    missing = np.isnan(y)
    np.logical_not(missing, out=mask, casting="unsafe")
    low, high = np.fmin.reduce(y, axis=0), np.fmax.reduce(y, axis=0)
    scale, now, later = scaling(np.where(high > low, high / 2 - low / 2, 0))
    less_pilot(y, low, now, block)
    gone = np.flatnonzero(missing)
    flat = block.reshape(-1)
    flat[gone] = 0
    if (later != 1).any():
        block *= later
    sizes, y_means, shifts = np.empty((groups, width)), np.empty((groups, width)), np.empty((groups, q, width))
    for j, rows in enumerate(slices(design.sizes)):
        np.subtract(rows.stop - rows.start, count_true(missing[rows]), out=sizes[j])
        some = np.maximum(sizes[j], 1)
        block[rows] -= np.divide(np.add.reduce(block[rows], axis=0), some, out=y_means[j])
        np.divide(design.inner[rows].T @ mask[rows], some, out=shifts[j])
    flat[gone] = 0
    x_means = design.means[:, :, None] + shifts
    within_x = design.products.T @ mask
    for place, (i, j) in enumerate(zip(*design.pairs, strict=True)):
        within_x[place] -= np.einsum("gd,gd,gd->d", sizes, shifts[:, i], shifts[:, j])
    within_xy = design.inner.T @ block

    least = np.einsum("nd,nd->d", block, block)
    inside, pivots = _solved(_full(design, within_x, design.varies), within_xy)
    suits = (pivots > LEAST_PIVOT * np.where(design.varies, design.total, 1)[:, None]).all(axis=0)
    least -= (inside * within_xy).sum(axis=0)
    slopes, pivots = _first_fit(design, within_x, within_xy, sizes, x_means, y_means, np.zeros(width))
    suits &= (pivots > LEAST_PIVOT * len(y)).all(axis=0)
    excess = _form(design, within_x, slopes - inside)
    far = np.flatnonzero(suits & ~(excess < MOST_EXCESS * least))
    rows, present = sizes.sum(axis=0), (sizes > 0).sum(axis=0)
    freedom = rows - present - design.varies.sum()
    if len(far):
        gap = y_means[:, far] - np.einsum("gqd,qd->gd", x_means[:, :, far], slopes[:, far])
        gap -= (sizes[:, far] * gap).sum(axis=0) / rows[far]
        between = (sizes[:, far] * gap * gap).sum(axis=0) + excess[far]
        variance = np.maximum(least[far], 1e-30 * between) / np.maximum(freedom[far], 1)
        ratio = np.maximum(between / variance - present[far], 0) / rows[far]
        at = [table[..., far] for table in (within_x, within_xy, sizes, x_means, y_means)]
        slopes[:, far] = _first_fit(design, at[0], at[1], at[2], at[3], at[4], ratio)[0]

    block -= np.matmul(design.inner, slopes, out=work)
    for j, rows_of in enumerate(slices(design.sizes)):
        y_means[j] -= np.einsum("qd,qd->d", x_means[j], slopes)
        block[rows_of] += np.einsum("qd,qd->d", shifts[j], slopes)
    flat[gone] = 0
    centre = (sizes * y_means).sum(axis=0) / rows
    there = sizes > 0
    made.rows[part], made.sizes[:, part], made.counts[:, part] = rows, sizes, there
    made.means[:, 0, part], made.means[:, 1:-1, part] = there, x_means * there[:, None]
    made.means[:, -1, part] = (y_means - centre) * there
    cross = made.within_cross[..., part]
    for place, (i, j) in enumerate(zip(*design.pairs, strict=True)):
        cross[1 + i, 1 + j] = cross[1 + j, 1 + i] = within_x[place]
    cross[1:-1, -1] = cross[-1, 1:-1] = design.inner.T @ block
    residual = cross[-1, -1] = np.einsum("nd,nd->d", block, block)
    frame, unit = made.frame, 1 / scale
    frame.scale[part] = scale
    frame.transform[..., part] = design.to_x[:, :, None] * unit
    frame.origin[:, part] = np.einsum("ab,bd->ad", design.to_x, np.concatenate([centre[None], slopes])) * unit
    frame.origin[0, part] += low
    rounding = np.finfo(float).eps * (1 + np.maximum(abs(low), abs(high)) * scale)
    rounding += design.rounding @ abs(design.to_x[1:, 1:] @ slopes)
    noise = rounding_floor(rows, MOST_NOISE * rounding, True)
    return suits & (freedom > 0) & (present + design.varies.sum() > q + 1) & (residual > noise) & np.isfinite(residual)


def _by_size(strata: Strata, largest: int) -> Strata:
    """The groups of one size, 1 to `largest`, put together; those of size 0 are left out."""
    groups, columns, count = strata.means.shape
    here = np.where(strata.counts > 0, strata.sizes - 1, largest).astype(np.intp) * count + np.arange(count)
    total = lambda weights: np.bincount(here.ravel(), weights.ravel(), (largest + 1) * count)
    of_each = lambda weights: total(weights)[: largest * count].reshape(largest, count)
    counts = of_each(strata.counts)
    means = np.empty((largest, columns, count))
    scatter = np.zeros((largest, columns, columns, count))
    gaps = np.zeros((columns, groups, count))
    means[:, 0] = counts > 0
    for i in range(1, columns):
        means[:, i] = of_each(strata.means[:, i]) / np.maximum(counts, 1)
        gaps[i] = strata.means[:, i] - np.append(means[:, i].ravel(), np.zeros(count)).take(here)
        for j in range(1, i + 1):
            scatter[:, i, j] = scatter[:, j, i] = of_each(gaps[i] * gaps[j])
    sizes = np.broadcast_to(np.arange(1.0, largest + 1)[:, None], counts.shape)
    return dataclasses.replace(strata, sizes=sizes, counts=counts, means=means, scatter=scatter)


def _full(design: MaskedDesign, products: np.ndarray, varies: np.ndarray) -> np.ndarray:
    """(q, q, datasets) from the pairs; 1 on the diagonal for a covariate that does not vary."""
    full = np.empty((len(varies), len(varies), products.shape[1]))
    for place, (i, j) in enumerate(zip(*design.pairs, strict=True)):
        full[i, j] = full[j, i] = products[place] if varies[i] and varies[j] else float(i == j)
    return full


def _form(design: MaskedDesign, products: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """slopes' C slopes of the cross products C."""
    terms = zip(products, *design.pairs, strict=True)
    return np.sum([(1 if i == j else 2) * product * slopes[i] * slopes[j] for product, i, j in terms], axis=0)


def _first_fit(
    design: MaskedDesign,
    within_x: np.ndarray,
    within_xy: np.ndarray,
    sizes: np.ndarray,
    x_means: np.ndarray,
    y_means: np.ndarray,
    ratio: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Slopes (q, datasets) by generalised least squares at a ratio, and the pivots of their equations."""
    weights = sizes / (1 + ratio * sizes)
    every = np.concatenate([x_means, y_means[:, None]], axis=1)
    every = every - np.einsum("gd,gqd->qd", weights / weights.sum(axis=0), every)
    normal = within_x.copy()
    for place, (i, j) in enumerate(zip(*design.pairs, strict=True)):
        normal[place] += np.einsum("gd,gd,gd->d", weights, every[:, i], every[:, j])
    right = within_xy + np.einsum("gd,gqd,gd->qd", weights, every[:, :-1], every[:, -1])
    return _solved(_full(design, normal, np.ones(len(right), bool)), right)


def _solved(matrix: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Solutions (q, datasets) of symmetric positive definite systems (q, q, datasets), and their pivots; by elimination
    of every dataset at once. `matrix` is written on."""
    q, solution = len(matrix), right.copy()
    for k in range(q):
        for i in range(k + 1, q):
            factor = matrix[i, k] / matrix[k, k]
            matrix[i, k + 1 :] -= factor * matrix[k, k + 1 :]
            solution[i] -= factor * solution[k]
    for k in range(q - 1, -1, -1):
        for j in range(k + 1, q):
            solution[k] -= matrix[k, j] * solution[j]
        solution[k] /= matrix[k, k]
    return solution, np.array([matrix[k, k] for k in range(q)])
