"""The passes over the n rows: sums by group, here in NumPy for a front door, in `traced_rows` for a traced pipeline.

Everything that is O(n) happens there, in one pass to three, and everything else works on what they return. The two
agree to rounding; `TracedRows` is the plain twin that the blocked `HostRows` is tested against.

W is the row (x_1, ..., x_(p-1), y), q = p columns, each multiplied by an exact power of two (`scale`). Sums are of W
less a pilot near every row, and products of W less its group's anchor, the mean rounded to a number like the data:
whatever is added to the data, a sum is rounded at their spread and a residual at the spread within its group. Where
rows have weights, each row counts as often as its weight says, in sums, products and sizes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np

MANY = 20_000  # rows from which on a pass is worth saving
TURNED = 4096  # rows of covariates that are turned into columns at a time, while they stay in the cache
RUN = 2048  # rows whose products are added up before they join the others
SHARE = 0.125  # of a sum of squares that must be left, if the rest is to be subtracted: it loses a digit at most
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

    def sums(self, scale: Array) -> tuple[Array, Array | None]:
        """(q, groups) sums of W less the pilot over each group; and the (q, q) cross products of W within groups, where
        the same pass gives them to the last digits and the means need no correction, else None."""

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
                for first in range(0, block.shape[1], TURNED):
                    rows_of = slice(first, first + TURNED)
                    np.multiply(self.covariates[part][rows_of].T, scale[:-1, None], out=block[:-1, rows_of])
            np.multiply(self.values[part], scale[-1], out=block[-1])
            yield block, self.codes[part], None if weights is None else weights[part]

    def sums(self, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        total, pilot = np.zeros((self.columns, len(self.sizes))), self.first * scale
        products = np.zeros((self.columns, self.columns)) if len(self.values) > MANY and self.weights is None else None
        seen = 0
        for block, codes, weights in self._blocks(scale):
            block -= pilot[:, None]
            _add_by_group(total, codes, block if weights is None else block * weights, len(self.sizes))
            if products is not None:
                _add_products(products, block, block)
                if seen == 0 and len(codes) < len(self.values):  # a first look, whether it is worth while
                    sizes = np.bincount(codes, minlength=len(self.sizes))
                    spread = 1 - np.count_nonzero(sizes) / len(codes)  # what means of few rows leave of it
                    products = None if self._within(total, products, sizes, SHARE * spread) is None else products
            seen += len(codes)
        return total, None if products is None else self._within(total, products, self.sizes, SHARE)

    def _within(self, sums: np.ndarray, products: np.ndarray, sizes: np.ndarray, share: float) -> np.ndarray | None:
        """Products within groups: those about the pilot less those of the means; None where that is not good enough."""
        rows, sizes = sizes.sum(), np.maximum(sizes, 1)
        between = sums / np.sqrt(sizes)
        within = products - between @ between.T
        squares = within.diagonal()
        if not (squares > np.maximum(share * products.diagonal(), share / SHARE * SPREAD * rows)).all():
            return None
        means, most = np.divide(sums, sizes, out=between), np.sqrt(squares / rows) / NEGLIGIBLE
        return None if self._lossy(means, np.zeros(self.columns), most).any() else within

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
                careful = (least < SPREAD) | self._lossy(anchors, self.first * scale, np.sqrt(least) / NEGLIGIBLE)
            seen += len(codes)
            if careful is None or careful.any():
                total = _add_by_group(total, codes, weighted, len(self.sizes), careful)
        if careful is not None:
            doubtful = ~careful & (products.diagonal() < SPREAD * seen)  # the first block was not like the others
            if doubtful.any():
                for block, codes, _ in self._residuals(scale, anchors):
                    total = _add_by_group(total, codes, block, len(self.sizes), doubtful)
        return total, products

    def _lossy(self, means: np.ndarray, pilot: np.ndarray, most: np.ndarray) -> np.ndarray:
        """Mask of the columns in which the mean of a group, found from sums of what is left of the rows less a pilot,
        may have lost more than `most` eps sd / sqrt(n_j), sd = 1.

        A sum of m numbers one after the other is off by eps / 4 sqrt(m) times itself, and here they are added up within
        each of b blocks first: sqrt(m / b) + sqrt(b) at most. And the mean itself is rounded.
        """
        blocks = math.ceil(len(self.values) / self.block)
        steps_of = lambda root: root * np.minimum(root, root / math.sqrt(blocks) + math.sqrt(blocks)) / 2
        root = np.sqrt(self.sizes.max())
        reach = np.maximum(means.max(axis=1), -means.min(axis=1))
        far = np.maximum(steps_of(root) * (reach + abs(pilot)), root * reach) > most
        if not far.any():
            return far
        root = np.sqrt(self.sizes)
        steps = steps_of(root)
        for i in np.flatnonzero(far):  # the largest group need not be the one that lies far off
            far[i] = (np.maximum(steps * abs(means[i] - pilot[i]), root * abs(means[i])) > most[i]).any()
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
