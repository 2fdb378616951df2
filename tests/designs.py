"""Designs that are hard in different ways, datasets drawn from the model over them, and their moments."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from jaxre.moments import Strata, moments_of
from jaxre.rows import HostRows
from jaxre.strata import stratify

SIZES = {
    "one giant": [1, 1, 1, 1, 40],
    "three groups": [2, 3, 100],
    "unequal": [4, 2, 3, 4, 3, 5],
    "balanced": [5] * 6,
    "pairs of sizes": [1, 1, 5, 5, 9, 9],
    "a continent and islands": [20_000] + [2] * 30,
}
PADDED = 4  # strata in every compiled function of the tests, so that all designs share one


def labels(sizes):
    return np.repeat(np.arange(len(sizes)), sizes)


def simulate(seed, sizes, ratio=1.0, p=1):
    """y, group labels and covariates (None when p = 1), drawn from the model with within = 1."""
    rng = np.random.default_rng(seed)
    groups = labels(sizes)
    covariates = rng.normal(size=(len(groups), p - 1)) + rng.normal(size=(len(sizes), p - 1))[groups]
    effects = np.sqrt(ratio) * rng.normal(size=len(sizes))
    y = 3 + covariates.sum(axis=1) + effects[groups] + rng.normal(size=len(groups))
    return y, groups, covariates if p > 1 else None


def rows(y, groups, covariates=None):
    """The host's passes over the rows."""
    table = y[:, None] if covariates is None else np.column_stack([covariates, y])
    return HostRows(y, groups, covariates, np.bincount(groups), (table.min(axis=0), table.max(axis=0)))


def moments(y, groups, covariates=None):
    """GroupMoments in NumPy: nothing to compile."""
    with np.errstate(all="ignore"):
        return moments_of(rows(y, groups, covariates))


def strata(y, groups, covariates=None, size=PADDED):
    """Strata in NumPy, padded with strata of size 0."""
    found = stratify(moments(y, groups, covariates))
    missing = size - len(found.sizes)
    pad = lambda leaf: np.pad(leaf, [(0, missing)] + [(0, 0)] * (leaf.ndim - 1))
    padded = {name: pad(getattr(found, name)) for name in ("sizes", "counts", "means", "scatter")}
    return Strata(**{field.name: getattr(found, field.name) for field in dataclasses.fields(found)} | padded)


def stack(records):
    """Records of one shape as one record with a leading axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *records)
