"""Datasets drawn over unequal groups in the coordinates of the design's spectrum, in which a refit is quickest.

The intercept alone. With u the coordinates of an outcome (see `spectrum`), independent normal with variances
within + between nu_i, generalised least squares at the model's own ratio is independent of all of them, and so are the
squares within groups. Of equal eigenvalues one coordinate is drawn by itself, turned towards what the mean depends on,
and the others as the sum of their squares.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxre.draws import Freedom
from jaxre.estimate import Estimate
from jaxre.moments import Strata
from jaxre.records import record
from jaxre.rows import Array
from jaxre.shared import Reduced, estimate_one
from jaxre.shared_design import SharedDesign, shared_design
from jaxre.spectrum import Coordinates, spectral_profile
from jaxre.status import Status
from jaxre.variates import bound, normals_and_chi_squares

MOST_GROUPS, MOST_ROWS = 500, 100_000  # up to which the eigenvalues of a design are worth their time


@record
class SpectralSource:
    """The design and the scale of all that is drawn over it; the outcome scaled as in the moments' frame."""

    design: SharedDesign
    """with one coordinate for each distinct eigenvalue, and nothing that has the length of the rows."""
    variance: Array
    """(distinct,) within + between nu_i."""
    others: Array
    """(distinct,) [1], further coordinates with that eigenvalue."""
    shrunk: Array
    """(distinct,) lambda / (1 + lambda nu_i) at the model's ratio."""
    mean_deviation: Array
    """() standard deviation of generalised least squares at the model's ratio."""
    within: Array
    """() variance within groups."""
    scale: Array
    """() [1/y], power of two."""
    origin: Array
    """() [y], the mean of the model."""


def spectral_source(strata: Strata, estimate: Estimate, method: str) -> tuple[SpectralSource, Freedom] | None:
    """What is drawn from, and bounds of the degrees of freedom; None where strata are the better way."""
    sizes, counts = np.asarray(strata.sizes), np.asarray(strata.counts)
    filled = (sizes > 0) & (counts > 0)
    sizes, counts = sizes[filled].astype(int), counts[filled].astype(int)
    if strata.means.shape[-1] > 2 or len(sizes) == 1 or counts.sum() > MOST_GROUPS or strata.rows > MOST_ROWS:
        return None
    design = shared_design(np.repeat(np.arange(counts.sum()), np.repeat(sizes, counts)), None, method == "reml")
    values, member = design.spectrum.values, design.member
    squares = np.zeros(len(values))
    np.add.at(squares, member, design.shift[0] ** 2)
    unused: dict[str, Any] = dict.fromkeys(("sizes", "rounding"), np.zeros(0))
    unused |= dict.fromkeys(("inner", "of_x", "along_x", "to_u", "vectors"), np.zeros((0, 0)))
    unused["codes"] = np.zeros(0, np.int32)
    places = np.arange(len(values), dtype=np.int32)
    design = dataclasses.replace(design, member=places, shift=np.sqrt(squares)[None], **unused)
    ratio, scale = float(estimate.ratio), float(strata.frame.scale)
    within = float(estimate.within) * scale * scale
    shrunk = ratio / (1 + ratio * values)
    covariance = design.cov + ratio * design.cov_1 + design.cov_2 @ shrunk
    others = design.spectrum.counts - 1
    source = SpectralSource(
        design=design,
        variance=within * (1 + ratio * values),
        others=others,
        shrunk=shrunk,
        mean_deviation=np.sqrt(within * covariance[0, 0]),
        within=np.float64(within),
        scale=np.float64(scale),
        origin=np.asarray(estimate.beta)[0],
    )
    return source, Freedom(bound(others), bound(design.freedom))


def refit_spectral(
    key: Array, source: SpectralSource, ratio: Array, most: Freedom, method: str, whole: bool
) -> tuple[Estimate, Array, Array]:
    """The estimate of a dataset drawn, whether the search settled it, and its scores at the model."""
    wanted = [(source.others, most.scatter), (source.design.freedom, most.within)]
    normals, (others, inside) = normals_and_chi_squares(key, len(source.variance) + 1, wanted, source.variance.dtype)
    u = jnp.sqrt(source.variance) * normals[1:]
    squares = u * u + source.variance * others
    floor = source.within * inside
    gls = source.mean_deviation * normals[:1]
    # without a barrier the compiler draws again in every loop that reads a number
    u, squares, floor, gls = jax.lax.optimization_barrier((u, squares, floor, gls))
    outcome = Coordinates(squares=squares, floor=floor, valid=jnp.ones((), bool))
    drawn = Reduced(
        outcome=outcome,
        coordinates=u,
        coefficients=gls + (source.design.shift * source.shrunk * u).sum(axis=1),
        scale=source.scale,
        pilot=source.origin,
        status=jnp.full((), Status.INTERIOR, jnp.int32),
    )
    at = spectral_profile(source.design.spectrum, outcome, ratio)
    estimate, settled = estimate_one(source.design, drawn, method, whole)
    return estimate, settled, jnp.concatenate([jnp.stack([at.quadratic, at.quadratic_1]), gls])
