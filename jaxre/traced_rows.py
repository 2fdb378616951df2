"""The passes over the n rows in JAX, traced or not; see `rows`."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxre.by_group import places_of, sums_by_group
from jaxre.observations import LEAST_WEIGHT, MOST_WEIGHT
from jaxre.rows import Array


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
        sizes: Array | None = None,
    ) -> None:
        """sizes: rows of each group, where the labels were known before they became an argument of a program."""
        columns = [] if covariates is None else list(covariates.T)
        table = jnp.stack([*columns, values], axis=1)
        self.codes, self.groups = codes.astype(np.int32), groups  # 32 bits whatever JAX is set to
        self.places = places_of(codes, groups) if isinstance(codes, np.ndarray) else None
        finite, known = jnp.isfinite(table), ((codes >= 0) & (codes < groups)).all()
        if weights is not None:
            weights = jnp.asarray(weights, table.dtype)
            known = known & ((weights > 0) & (weights >= LEAST_WEIGHT) & (weights <= MOST_WEIGHT)).all()
            known = known & jnp.isfinite(weights).all()
        # rows without an estimate are replaced, or 0 * NaN would be their share of a derivative
        valid = finite.all() & known
        self.table = jnp.where(valid, table, 0)
        self.first = jax.lax.stop_gradient(self.table[0])  # what is taken from all rows, and put back
        nan = jnp.where(finite.all(axis=0), 0, jnp.nan)  # from which the moments know
        self.extremes = self.table.min(axis=0) + nan, self.table.max(axis=0) + nan
        self.weights = self.log_weights = None
        self.sizes: Any
        self.count: Any
        if weights is not None:
            weights = jnp.where(valid, weights, 1)
            self.weights, self.log_weights = weights[:, None], jnp.log(weights).sum()
            self.sizes = jnp.where(known, jax.ops.segment_sum(weights, self.codes, groups), jnp.nan)
            self.count = jnp.asarray(codes.size, self.table.dtype)
            return
        if sizes is not None:
            self.sizes = jnp.where(known, sizes, jnp.nan)
        elif isinstance(codes, np.ndarray):  # concrete labels keep concrete sizes: groups of one size can be merged
            self.sizes = sizes_of(codes, groups) / (1.0 if known else np.nan)
        else:
            ones = jnp.ones(codes.shape, self.table.dtype)
            self.sizes = jnp.where(known, jax.ops.segment_sum(ones, codes, groups), jnp.nan)
        self.count = self.sizes.sum()

    def _by_group(self, table: jax.Array) -> jax.Array:
        """(q, groups) sums of rows, each as often as its weight says."""
        return sums_by_group(self._weighted(table), self.codes, self.groups, self.places).T

    def _weighted(self, table: jax.Array) -> jax.Array:
        return table if self.weights is None else table * self.weights

    def sums(self, scale: jax.Array) -> tuple[jax.Array, None]:
        return self._by_group(self.table * scale - self.first * scale), None

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
        cross = _sum_by_group_first(self._weighted(products), self.codes, self.places, self.groups).reshape(q, q)
        return jax.lax.stop_gradient(self._by_group(residuals)), cross - (gap * self.sizes.astype(gap.dtype)) @ gap.T

    def triangle(self, scale: jax.Array, anchors: jax.Array) -> jax.Array:
        residuals = self._residuals(scale, anchors)[:, :-1]
        return jnp.linalg.qr(residuals if self.weights is None else residuals * jnp.sqrt(self.weights), mode="r")


def sizes_of(codes: np.ndarray, groups: int) -> np.ndarray:
    """(groups,) numbers of rows, those with other labels left out."""
    return np.bincount(codes[(codes >= 0) & (codes < groups)], minlength=groups)


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
        weights = jnp.where(present, weights, 1)
        real = (jnp.isfinite(table) | ~present[:, None]).all() & (jnp.isfinite(weights) & (weights > 0)).all()
        table, weights = jnp.where(real & present[:, None], table, 0), jnp.where(real, weights, 1)
        first = jax.lax.stop_gradient(table[jnp.argmax(present)])
        self.table, self.first = jnp.where(present[:, None], table, first), first
        nan = jnp.where(real & present.any(), 0, jnp.nan)  # from which the moments know
        self.extremes = self.table.min(axis=0) + nan, self.table.max(axis=0) + nan
        self.sizes, self.count = jnp.where(present, weights, 0), present.sum()
        self.log_weights = jnp.log(weights).sum()

    def sums(self, scale: jax.Array) -> tuple[jax.Array, None]:
        return ((self.table - self.first) * scale * self.sizes[:, None]).T, None

    def residual_products(
        self, scale: jax.Array, anchors: jax.Array, rotation: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        del scale, rotation
        return jnp.zeros_like(anchors), jnp.zeros((len(anchors), len(anchors)), anchors.dtype)

    def triangle(self, scale: jax.Array, anchors: jax.Array) -> jax.Array:
        del scale
        return jnp.zeros((len(anchors) - 1, len(anchors) - 1), anchors.dtype)
