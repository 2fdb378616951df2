"""Moments of datasets drawn from the model, stacked, and the compiled estimator that fits all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxre

LANE = 512  # datasets whose numbers a CPU works on at once
QUANTITIES = ("status", "between", "within", "icc", "beta", "beta_se", "log_likelihood", "certified")


def draw(count: int, sizes: tuple[int, ...], each: int, dtype: Any = np.float64) -> jaxre.Strata:
    """Stacked strata, datasets last, of `count` datasets with `each` groups of every size, within 1 and between 1/2.

    The means of m groups of size k vary by v = 1/k + 1/2 about 0, so their average has variance v / m and their squares
    about it are v chi2 on m - 1 degrees; the squares within groups are chi2 on n - J.
    """
    rng, k, m = np.random.default_rng(4), np.array(sizes, float), np.full(len(sizes), float(each))
    n, v, strata = float(k @ m), 1 / k + 0.5, len(sizes)
    means, scatter = np.ones((strata, 2, count)), np.zeros((strata, 2, 2, count))
    within_cross = np.zeros((2, 2, count))
    means[:, 1] = (rng.normal(size=(count, strata)) * np.sqrt(v / m)).T
    scatter[:, 1, 1] = (v * rng.chisquare(m - 1, size=(count, strata))).T
    within_cross[1, 1] = rng.chisquare(n - m.sum(), size=count)
    same = lambda value: np.repeat(np.asarray(value, float)[..., None], count, axis=-1)
    stacked = jaxre.Strata(
        rows=same(n),
        sizes=same(k),
        counts=same(m),
        means=means,
        scatter=scatter,
        within_cross=within_cross,
        within_rank=same(0),
        frame=jaxre.Frame(origin=same([0]), transform=same([[1]]), scale=same(1), log_volume=same(0)),
        status=np.full(count, jaxre.Status.INTERIOR, np.int32),
    )
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if leaf.dtype == float else leaf, stacked)


def picked(estimate: jaxre.Estimate) -> dict[str, jax.Array]:
    """The quantities that are timed; what is not asked for is not computed."""
    return {name: getattr(estimate, name) for name in QUANTITIES}


def fitter(one_design: bool = False) -> Callable[[jaxre.Strata], dict[str, jax.Array]]:
    """reml over stacked strata, vmapped over lanes whose numbers stay in a CPU's cache.

    With `one_design`, sizes and counts are those of the first dataset, and no axis of the vmap.
    """

    def run(stacked: jaxre.Strata) -> dict[str, jax.Array]:
        common = {name: getattr(stacked, name)[..., 0] for name in ("rows", "sizes", "counts")} if one_design else {}
        fit = lambda own: picked(jaxre.reml(dataclasses.replace(own, **common)))
        fits = jax.vmap(fit, in_axes=-1, out_axes=-1)
        own = dataclasses.replace(stacked, **dict.fromkeys(common))
        count = len(stacked.status)
        if jax.default_backend() != "cpu" or count <= LANE:
            return fits(own)
        if count % LANE:
            raise ValueError(f"on a CPU the datasets must be a multiple of {LANE}, got {count}.")
        lane = lambda leaf, i: jax.lax.dynamic_slice_in_dim(leaf, i * LANE, LANE, -1)
        found = jax.lax.map(lambda i: fits(jax.tree.map(lambda leaf: lane(leaf, i), own)), jnp.arange(count // LANE))
        return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -2).reshape(*leaf.shape[1:-1], count), found)

    return jax.jit(run)
