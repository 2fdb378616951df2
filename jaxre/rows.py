"""The passes over the n rows: sums by group, once in NumPy for a front door and once in JAX for a traced pipeline.

Everything that is O(n) happens here, in at most three passes, and everything else works on what they return. The two
classes agree to rounding; `TracedRows` is the plain twin that the blocked `HostRows` is tested against.

W is the row (x_1, ..., x_(p-1), y), q = p columns, each multiplied by an exact power of two (`scale`). Sums are of W
less a pilot near every row, and products of W less its group's anchor, the mean rounded to a number like the data:
whatever is added to the data, a sum is rounded at their spread and a residual at the spread within its group. Where
rows have weights, each row counts as often as its weight says, in sums, products and sizes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxre.by_group import places_of, sums_by_group

MANY = 20_000  # rows from which on a pass is worth saving
RUN = 2048  # rows whose products are added up before they join the others
SPREAD = 1e-4  # mean square within groups, as a share of the squared range, from which on means need no correction
NEGLIGIBLE = 2e-3  # eps over the relative error that may be left in a group mean, 1e-13 of its standard error

Array = Any  # a NumPy or a JAX array: these formulas are written once for both


class Rows(Protocol):
    """What the moments need to know of the rows."""

    xp: Any
    """the array library, numpy or jax.numpy."""
    sizes: Any
    """(groups,) sums of the weights in each group; without weights, rows."""
    count: Any
    """() rows in all."""
    log_weights: Any
    """() sum of the logarithms of the weights; None without weights."""
    first: Any
    """(q,) the pilot, before scaling: the first row, or a median of many."""
    extremes: Any
    """(q,), (q,) smallest and largest value of each column."""

    def sums(self, scale: Array) -> Array:
        """(q, groups) sums of W less the pilot over each group."""

    def residual_products(self, scale: Array, anchors: Array, rotation: Array | None) -> tuple[Array | None, Array]:
        """(q, groups) sums and (q, q) cross products of R = (W - anchor of the group), or of R' rotation.

        The sums, 0 but for rounding, correct the means; they may be left at 0 where that is negligible, or be None.
        """

    def triangle(self, scale: Array, anchors: Array) -> Array:
        """Triangular factor of the covariates' columns of R, at most (q-1, q-1)."""


class HostRows:
    """Rows in host memory, taken in blocks that stay in the cache."""

    xp: Any = np

    def __init__(
        self,
        values: np.ndarray,
        codes: np.ndarray,
        covariates: np.ndarray | None,
        sizes: np.ndarray,
        extremes: tuple[np.ndarray, np.ndarray],
        weights: np.ndarray | None = None,
    ) -> None:
        self.values, self.codes, self.covariates, self.extremes = values, codes, covariates, extremes
        self.weights, self.count, self.log_weights = weights, np.float64(len(values)), None
        self.sizes = sizes
        if weights is not None:
            self.sizes = np.bincount(codes, weights=weights, minlength=len(sizes))
            self.log_weights = np.log(weights).sum()
        self.columns = 1 if covariates is None else 1 + covariates.shape[1]
        self.first = values[:1] if covariates is None else np.append(covariates[0], values[0])
        if len(values) > MANY:  # a median of an odd number is a value of the data too, and no outlier
            middle = np.median(values[:4095], keepdims=True)
            self.first = middle if covariates is None else np.append(np.median(covariates[:4095], axis=0), middle)
        self.block = max(1 << 15, len(sizes) // 2)

    def _blocks(self, scale: np.ndarray) -> Iterable[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
        """(q, rows) scaled columns, codes and weights of each block; the columns are the caller's to write on."""
        if self.covariates is None and len(self.values) <= self.block:
            return (((self.values * scale)[None], self.codes, self.weights),)
        return self._several_blocks(scale)

    def _several_blocks(self, scale: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
        rows, weights = len(self.values), self.weights
        buffer = np.empty((self.columns, min(rows, self.block)))
        for start in range(0, rows, self.block):
            part = slice(start, min(start + self.block, rows))
            block = buffer[:, : part.stop - start]
            if self.covariates is not None:
                np.multiply(self.covariates[part].T, scale[:-1, None], out=block[:-1])
            np.multiply(self.values[part], scale[-1], out=block[-1])
            yield block, self.codes[part], None if weights is None else weights[part]

    def sums(self, scale: np.ndarray) -> np.ndarray:
        total, pilot = np.zeros((self.columns, len(self.sizes))), self.first * scale
        for block, codes, weights in self._blocks(scale):
            block -= pilot[:, None]
            _add_by_group(total, codes, block if weights is None else block * weights, len(self.sizes))
        return total

    def _residuals(
        self, scale: np.ndarray, anchors: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
        gathered = np.empty(min(len(self.values), self.block))
        for block, codes, weights in self._blocks(scale):
            for column, anchor in zip(block, anchors, strict=True):
                column -= anchor.take(codes, out=gathered[: len(codes)], mode="clip")
            yield block, codes, weights

    def residual_products(
        self, scale: np.ndarray, anchors: np.ndarray, rotation: np.ndarray | None
    ) -> tuple[np.ndarray | None, np.ndarray]:
        total, products = None, np.zeros((self.columns, self.columns))
        seen, careful = 0, None
        for block, codes, weights in self._residuals(scale, anchors):
            rotated = block if rotation is None else rotation.T @ block
            weighted = rotated if weights is None else rotated * weights
            _add_products(products, weighted, rotated)
            if seen == 0 and len(self.values) > MANY and rotation is None and weights is None:
                least = products.diagonal() / len(codes)
                careful = (least < SPREAD) | self._lossy(scale, anchors, np.sqrt(least) / NEGLIGIBLE)
            seen += len(codes)
            if careful is None or careful.any():
                total = _add_by_group(total, codes, weighted, len(self.sizes), careful)
        if careful is not None:
            doubtful = ~careful & (products.diagonal() < SPREAD * seen)  # the first block was not like the others
            if doubtful.any():
                for block, codes, _ in self._residuals(scale, anchors):
                    total = _add_by_group(total, codes, block, len(self.sizes), doubtful)
        return total, products

    def _lossy(self, scale: np.ndarray, anchors: np.ndarray, most: np.ndarray) -> np.ndarray:
        """Mask of the columns in which the mean of a group may have lost more than `most` eps sd / sqrt(n_j), sd = 1.

        A sum of m numbers one after the other is off by eps / 4 sqrt(m) times itself, and here they are added up within
        each of b blocks first: sqrt(m / b) + sqrt(b) at most. And the mean itself is rounded.
        """
        blocks = math.ceil(len(self.values) / self.block)
        steps_of = lambda root: root * np.minimum(root, root / math.sqrt(blocks) + math.sqrt(blocks)) / 2
        root, pilot = np.sqrt(self.sizes.max()), (self.first * scale)[:, None]
        reach = np.maximum(anchors.max(axis=1), -anchors.min(axis=1))
        far = np.maximum(steps_of(root) * (reach + abs(pilot[:, 0])), root * reach) > most
        if not far.any():
            return far
        root = np.sqrt(self.sizes)
        steps = steps_of(root)
        for i in np.flatnonzero(far):  # the largest group need not be the one that lies far off
            far[i] = (np.maximum(steps * abs(anchors[i] - pilot[i]), root * abs(anchors[i])) > most[i]).any()
        return far

    def triangle(self, scale: np.ndarray, anchors: np.ndarray) -> np.ndarray:
        triangle = np.zeros((0, self.columns - 1))
        for block, _, weights in self._residuals(scale, anchors):
            rows = block[:-1].T if weights is None else (block[:-1] * np.sqrt(weights)).T
            triangle = np.asarray(np.linalg.qr(np.concatenate([triangle, rows]), mode="r"))
        return triangle


def _add_products(products: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    """Add a b', which is symmetric; in short runs, then a sum of sums, which means less rounding."""
    rows = a.shape[1]
    if rows <= RUN:
        products += a @ b.T
        return
    whole = rows // RUN * RUN
    runs = [(column[:whole].reshape(-1, RUN), column[whole:]) for column in a]
    others = runs if a is b else [(column[:whole].reshape(-1, RUN), column[whole:]) for column in b]
    for i, (left, left_rest) in enumerate(runs):
        for j, (right, right_rest) in enumerate(others[: i + 1]):
            one = np.vecdot(left, right).sum() + left_rest @ right_rest
            products[i, j] += one
            products[j, i] += one if i != j else 0.0


def _add_by_group(
    total: np.ndarray | None, codes: np.ndarray, block: np.ndarray, groups: int, wanted: np.ndarray | None = None
) -> np.ndarray:
    """(q, groups) `total`, made here if there is none, and in it the block's sums by group, of the columns wanted."""
    if total is None:
        total = np.zeros((len(block), groups))
    for i, column in enumerate(block):
        if wanted is None or wanted[i]:
            total[i] += np.bincount(codes, weights=column, minlength=groups)
    return total


class TracedRows:
    """Rows as JAX arrays, whole; labels outside 0 .. groups - 1, and weights that are none, make every sum NaN."""

    xp: Any = jnp

    def __init__(
        self,
        values: jax.Array,
        codes: Array,
        covariates: jax.Array | None,
        groups: int,
        weights: Array | None = None,
    ) -> None:
        columns = [] if covariates is None else list(covariates.T)
        self.table = jnp.stack([*columns, values], axis=1)
        self.codes, self.groups = codes.astype(np.int32), groups  # 32 bits whatever JAX is set to
        self.places = places_of(codes, groups) if isinstance(codes, np.ndarray) else None
        self.first = jax.lax.stop_gradient(self.table[0])  # what is taken from all rows, and put back
        nan = jnp.where(jnp.isfinite(self.table).all(axis=0), 0, jnp.nan)  # XLA's min and max may pass over NaN
        self.extremes = self.table.min(axis=0) + nan, self.table.max(axis=0) + nan
        known = ((codes >= 0) & (codes < groups)).all()
        self.weights = self.log_weights = None
        self.sizes: Any
        self.count: Any
        if weights is not None:
            weights = jnp.asarray(weights, self.table.dtype)
            known = known & ((weights > 0) & jnp.isfinite(weights)).all()
            self.weights, self.log_weights = weights[:, None], jnp.log(weights).sum()
            self.sizes = jnp.where(known, jax.ops.segment_sum(weights, self.codes, groups), jnp.nan)
            self.count = jnp.asarray(codes.size, self.table.dtype)
            return
        if isinstance(codes, np.ndarray):  # concrete labels keep concrete sizes: groups of one size can be merged
            taken = np.bincount(codes[(codes >= 0) & (codes < groups)], minlength=groups)
            self.sizes = taken / (1.0 if known else np.nan)
        else:
            ones = jnp.ones(codes.shape, self.table.dtype)
            self.sizes = jnp.where(known, jax.ops.segment_sum(ones, codes, groups), jnp.nan)
        self.count = self.sizes.sum()

    def _by_group(self, table: jax.Array) -> jax.Array:
        """(q, groups) sums of rows, each as often as its weight says."""
        weighted = table if self.weights is None else table * self.weights
        return sums_by_group(weighted, self.codes, self.groups).T

    def sums(self, scale: jax.Array) -> jax.Array:
        return self._by_group(self.table * scale - self.first * scale)

    def _residuals(self, scale: jax.Array, anchors: jax.Array) -> jax.Array:
        return self.table * scale - anchors.T[self.codes]

    def residual_products(
        self, scale: jax.Array, anchors: jax.Array, rotation: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """The anchors are the group means up to rounding, so the sums are 0 whatever the data, and have no derivative.

        With anchors that are fixed, the products about the means are those about the anchors less the squares of a gap
        of 0: of these the derivatives, of all orders, need no sum over the rows of each group.
        """
        fixed = jax.lax.stop_gradient(anchors)
        residuals, gap = self._residuals(scale, fixed), anchors - fixed
        if rotation is not None:
            residuals, gap = residuals @ rotation, rotation.T @ gap
        q = residuals.shape[1]
        products = (residuals[:, :, None] * residuals[:, None, :]).reshape(len(residuals), q * q)
        weighted = products if self.weights is None else products * self.weights
        total = _sum_by_group_first(weighted, self.codes, self.places, self.groups).reshape(q, q)
        return jax.lax.stop_gradient(self._by_group(residuals)), total - (gap * self.sizes.astype(gap.dtype)) @ gap.T

    def triangle(self, scale: jax.Array, anchors: jax.Array) -> jax.Array:
        residuals = self._residuals(scale, anchors)[:, :-1]
        return jnp.linalg.qr(residuals if self.weights is None else residuals * jnp.sqrt(self.weights), mode="r")


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def _sum_by_group_first(rows: jax.Array, codes: Array, places: Array | None, groups: int) -> jax.Array:
    """The sum of all rows, with less rounding; its derivative is that of a sum."""
    return sums_by_group(rows, codes, groups, places).sum(axis=0)


@_sum_by_group_first.defjvp
def _sum_by_group_first_jvp(groups: int, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    return _sum_by_group_first(*primals, groups), tangents[0].sum(axis=0)


class SingleRows:
    """Rows each of which is a group of its own: nothing varies within groups, and nothing needs summing by group."""

    xp: Any = jnp

    def __init__(self, table: jax.Array, weights: jax.Array, present: jax.Array) -> None:
        """(n, q) table, (n,) weights, and which rows there are; the others become groups of size 0."""
        first = jax.lax.stop_gradient(table[jnp.argmax(present)])
        self.table, self.first = jnp.where(present[:, None], table, first), first
        weights = jnp.where(present, weights, 1)
        real = jnp.isfinite(self.table).all() & (jnp.isfinite(weights) & (weights > 0)).all()
        nan = jnp.where(real & present.any(), 0, jnp.nan)  # XLA's min and max may pass over NaN
        self.extremes = self.table.min(axis=0) + nan, self.table.max(axis=0) + nan
        self.sizes, self.count = jnp.where(present, weights, 0), present.sum()
        self.log_weights = jnp.log(weights).sum()

    def sums(self, scale: jax.Array) -> jax.Array:
        return ((self.table - self.first) * scale * self.sizes[:, None]).T

    def residual_products(
        self, scale: jax.Array, anchors: jax.Array, rotation: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        del scale, rotation
        return jnp.zeros_like(anchors), jnp.zeros((len(anchors), len(anchors)), anchors.dtype)

    def triangle(self, scale: jax.Array, anchors: jax.Array) -> jax.Array:
        del scale
        return jnp.zeros((len(anchors) - 1, len(anchors) - 1), anchors.dtype)
