"""Many outcomes over one design: the kernel that fits a block of them.

The dataset axis is the last one throughout: an operation on one number of every dataset is then one vector operation.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxre.by_group import sums_by_group
from jaxre.estimate import Estimate, in_user_units
from jaxre.frame import Frame, power_of_two_below, rounding_floor
from jaxre.optimum import Optimum, anova_ratio, code_of
from jaxre.passes import SAMPLED, Passes
from jaxre.records import record
from jaxre.rows import Array
from jaxre.search import KEPT_OPTIMA, quick_search, whole_search
from jaxre.settings import platform
from jaxre.shared_design import SharedDesign
from jaxre.spectrum import Coordinates, spectral_curve, spectral_profile
from jaxre.status import Status


@record
class Reduced:
    """A block of outcomes over a shared design, in the coordinates of its spectrum; the last axis is the dataset."""

    outcome: Coordinates
    coordinates: Array
    """(r, datasets) u."""
    coefficients: Array
    """(p, datasets) least squares, of the scaled outcome less the pilot."""
    scale: Array
    """(datasets,) [1/y], power of two."""
    pilot: Array
    """(datasets,) [y]."""
    status: Array
    """(datasets,) int32 `Status`."""


def reduce_block(design: SharedDesign, y: Array, dtype: jnp.dtype) -> Reduced:
    """A block (n, datasets) by two passes over it on the device, in its own precision up to the pilot, then `dtype`."""
    return reduce_passes(design, reduce_rows(design, y, dtype), dtype)


def reduce_rows(design: SharedDesign, y: Array, dtype: jnp.dtype) -> Passes:
    """Two passes over a block (n, datasets): centred on a pilot and scaled in its own precision, then in `dtype`.

    The scale comes from a sample of the rows, which suits all but data with rows beyond 1e100 times those: what then
    overflows is INVALID, what vanishes UNBOUNDED or CONSTANT_OUTCOME, and these are to be looked at again.
    """
    pilot = y[0]
    reach = abs(y[:: max(1, len(y) // SAMPLED)] - pilot).max(axis=0)
    scale = power_of_two_below(jnp.where(jnp.isfinite(reach), reach, 0), jnp)
    centred = (y * scale - pilot * scale).astype(dtype)
    if platform() == "cpu":  # made once for all that read it; a GPU makes it again in less time than it takes to read
        centred = jax.lax.optimization_barrier(centred)
    product = lambda a, b: jnp.matmul(a.astype(dtype), b, precision=jax.lax.Precision.HIGHEST)
    sums = sums_by_group(centred, design.codes, len(design.sizes), design.places)
    within = centred - (sums / design.sizes.astype(dtype)[:, None])[design.codes]
    if design.inner.shape[1]:
        inside = product(design.inner.T, within)
        within, sums = within - product(design.inner, inside), jnp.concatenate([sums, inside])
    return Passes(pilot=pilot, scale=scale, sums=sums, floor=(within * within).sum(axis=0))


def reduce_passes(design: SharedDesign, made: Passes, dtype: jnp.dtype) -> Reduced:
    """A block in the coordinates of the spectrum, from the sums over its rows."""
    n, p = len(design.codes), design.of_basis.shape[0]
    product = lambda a, b: jnp.matmul(a.astype(dtype), b, precision=jax.lax.Precision.HIGHEST)
    sums, floor = made.sums.astype(dtype), made.floor.astype(dtype)
    if p == 1:
        along = sums.sum(axis=0, keepdims=True)
        u = product(design.to_u, sums)
    else:  # what X explains is taken away first, because it may be large
        along = product(design.along_x, sums)
        u = product(design.to_u, sums - product(design.of_x, along))
    distinct = design.spectrum.values.shape[0]
    squares = u * u
    if distinct < u.shape[0]:
        squares = sums_by_group(squares, design.member, distinct, design.member_places)
    coefficients = product(design.of_basis, along)
    eps, wide = float(jnp.finfo(dtype).eps), made.pilot.dtype
    explained = (along * along).sum(axis=0) / (n if p == 1 else 1)
    spread = jnp.sqrt(floor + squares.sum(axis=0) + explained)  # at least the largest deviation from the pilot
    rounding = jnp.finfo(wide).eps * (abs(made.pilot) * made.scale + spread) + (eps * spread if dtype != wide else 0.0)
    slopes = abs(product(jnp.diag(design.rounding.astype(dtype)), coefficients)).sum(axis=0)
    noise = rounding_floor(n, rounding + slopes, p > 1)
    status = jnp.where(floor > noise, 0, int(Status.UNBOUNDED))
    status = jnp.where(spread == 0, int(Status.CONSTANT_OUTCOME), status)
    # a row that is no finite number leaves none
    status = jnp.where(jnp.isfinite(floor), status, int(Status.INVALID)).astype(jnp.int32)
    return Reduced(
        outcome=Coordinates(squares=squares, floor=floor, valid=status == Status.INTERIOR),
        coordinates=u,
        coefficients=coefficients,
        scale=made.scale,
        pilot=made.pilot,
        status=status,
    )


def estimate_one(design: SharedDesign, data: Reduced, method: str, whole: bool) -> tuple[Estimate, Array]:
    """The estimate of one outcome in user's units, and whether the search settled it."""
    spectrum, outcome = design.spectrum, data.outcome
    restricted, dtype = method == "reml", outcome.floor.dtype
    if method == "anova":
        trace, rank = (spectrum.values * spectrum.counts).sum(), design.rank.astype(dtype)
        within, untruncated, code = anova_ratio(
            outcome.squares.sum(), outcome.floor, trace, design.freedom.astype(dtype), rank
        )
        ratio, settled = jnp.maximum(untruncated, 0), jnp.ones((), bool)
        facts = {
            "certified": settled,
            "optima": jnp.ones((), jnp.int32),
            "optima_ratio": jnp.where(jnp.arange(KEPT_OPTIMA) == 0, ratio, jnp.nan),
            "gap": jnp.full_like(ratio, jnp.inf),
            "steps": jnp.zeros((), jnp.int32),
        }
    else:
        found = (whole_search if whole else quick_search)(spectral_curve((spectrum, outcome)))
        ratio, settled, code, untruncated = found.ratio, found.settled, code_of(found), found.ratio
        facts = {name: getattr(found, name) for name in ("certified", "optima", "optima_ratio", "gap", "steps")}
    at = spectral_profile(spectrum, outcome, ratio, design.eigenvalues)
    if method != "anova":
        within = at.quadratic / spectrum.degrees
    shrunk = ratio / (1 + ratio * spectrum.values)  # lambda S_i
    product = lambda a, b: jnp.matmul(a.astype(dtype), b, precision=jax.lax.Precision.HIGHEST)
    every = shrunk[design.member] if len(shrunk) < len(design.member) else shrunk
    gamma = data.coefficients - product(design.shift, every * data.coordinates)
    p = gamma.shape[0]

    def spread(places: slice) -> Array:
        """Some of the entries of the covariance of the coefficients, one after the other, in units of within."""
        at_0, growing, falling = (
            table.reshape(p * p, -1)[places].astype(dtype) for table in (design.cov, design.cov_1, design.cov_2)
        )
        return at_0[:, 0] + ratio * growing[:, 0] + product(falling, shrunk)

    optimum = Optimum(
        ratio=ratio,
        within=within,
        untruncated=untruncated,
        gamma=gamma,
        gamma_cov=spread(slice(None)).reshape(p, p),
        log_det=at.log_det,
        quadratic=at.quadratic,
        excess=at.excess,
        code=code,
        **facts,
    )
    scale = data.scale.astype(dtype)
    origin = jnp.where(jnp.arange(p) == 0, data.pilot, 0).astype(dtype)
    frame = Frame(origin=origin, transform=1 / scale, scale=scale, log_volume=design.log_volume.astype(dtype))
    rows = spectrum.rows.astype(dtype)
    variances = spread(slice(None, None, p + 1))  # apart, so that nobody pays for covariances who wants none
    return in_user_units(optimum, frame, rows, data.status, restricted=restricted, variances=variances), settled


def predict_one(design: SharedDesign, data: Reduced, estimate: Estimate) -> tuple[Array, Array]:
    """BLUPs of the groups and their standard errors.

    Z'Py = U nu^1/2 S u, and the variance of the error is between (1 - sum_i U_i^2 (1 - S_i)).
    """
    dtype = data.outcome.floor.dtype
    nu, vectors = design.eigenvalues, design.vectors.astype(dtype)
    product = lambda a, b: jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
    shrunk = 1 / (1 + estimate.ratio * nu)
    effect = estimate.ratio * product(vectors * jnp.sqrt(nu), shrunk * data.coordinates) / data.scale
    rest = 1 - (vectors * vectors).sum(axis=1)
    variance = estimate.between * (rest + product(vectors * vectors, shrunk))
    return effect, jnp.sqrt(variance)
