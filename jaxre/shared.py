"""Many outcomes over one design: what is computed once for the design, and the kernel that fits a block of outcomes.

The dataset axis is the last one throughout: an operation on one number of every dataset is then one vector operation.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxre.by_group import places_of, sums_by_group
from jaxre.estimate import Estimate, in_user_units
from jaxre.frame import Frame, power_of_two_below, rounding_floor
from jaxre.moments import GroupMoments, moments_of
from jaxre.observations import extremes
from jaxre.optimum import Optimum, anova_ratio, code_of
from jaxre.passes import SAMPLED, Passes
from jaxre.records import record
from jaxre.rows import Array, HostRows
from jaxre.search import KEPT_OPTIMA, quick_search, whole_search
from jaxre.settings import platform
from jaxre.spectrum import Coordinates, Spectrum, spectral_curve, spectral_profile, spectrum_of
from jaxre.status import Status

MOST_GROUPS = 4000  # groups up to which the eigenvalues of a design are worth their time


@record
class SharedDesign:
    """Rows in the order of their groups, and what the fit of an outcome over them needs.

    With X = basis triangle and E = (P0 Z) U nu^-1/2 the directions of the groups beyond X, an outcome's coordinates
    u = E'y are linear in its group sums and in its products with `inner`, a basis of the covariates within groups.
    """

    spectrum: Spectrum
    codes: Array
    """(n,) int32 group of each row, ascending."""
    places: Array | None
    """the rows of each group, see `places_of`."""
    sizes: Array
    """(groups,) [1]."""
    by_group: Array
    """(groups, p) sums over each group of `basis`, orthonormal columns (n, p) that span X."""
    within: Array
    """(w, p) products of `inner` with that basis."""
    inner: Array
    """(n, w) orthonormal columns that span the covariates less their group means."""
    from_groups: Array
    """(r, groups) u from group sums."""
    from_inner: Array
    """(r, w) u from products with `inner`."""
    member: Array
    """(r,) int32, the distinct eigenvalue of each coordinate."""
    member_places: Array | None
    """the coordinates of each distinct eigenvalue, see `places_of`."""
    of_basis: Array
    """(p, p) coefficients of least squares from products with `basis`; for the intercept alone from the sum."""
    shift: Array
    """(p, r) what one unit of lambda S_i u_i takes from the coefficients."""
    cov: Array
    """(p, p) covariance of the coefficients at lambda = 0, in units of within."""
    cov_1: Array
    """(p, p) its part that grows with lambda."""
    cov_2: Array
    """(p, p, distinct) its part that grows with lambda S_i."""
    vectors: Array
    """(groups, r) eigenvectors U."""
    log_volume: Array
    """() [nat], -1/2 log det X'X."""
    rounding: Array
    """(p,) [x], what the last digit of each column of X is worth; of the intercept 0."""
    rank: Array
    """() [1], r: rank[X Z] - p."""
    freedom: Array
    """() [1], n - rank[X Z]."""


def shared_design(codes: np.ndarray, covariates: np.ndarray | None, restricted: bool) -> SharedDesign:
    """The constants of a design that `design_status` passes, on the host; rows with the groups in ascending order."""
    n, sizes = len(codes), np.bincount(codes)
    p = 1 if covariates is None else 1 + covariates.shape[1]
    x = np.ones((n, 1)) if covariates is None else np.column_stack([np.ones(n), covariates])
    rotated, to_x, w = rotated_covariates(codes, covariates)
    groups = len(sizes)
    rank = groups + w - p
    basis, triangle = np.linalg.qr(np.concatenate([np.ones((n, 1)), rotated], axis=1))
    of_basis = to_x @ np.linalg.inv(triangle)
    by_group = np.add.reduceat(basis, np.cumsum(sizes) - sizes)  # Z' basis
    nu, vectors = np.linalg.eigh(np.diag(sizes.astype(float)) - by_group @ by_group.T)
    nu, rest, vectors = nu[-rank:], vectors[:, :-rank], vectors[:, -rank:]
    inside = basis[:, 1:] - (by_group[:, 1:] / sizes[:, None])[codes]
    inner = _span(inside, w)
    root = np.sqrt(nu)
    spectrum, member = spectrum_of(nu, sizes, n, n - (p if restricted else 0), restricted)
    shift = of_basis @ by_group.T @ (vectors * root)
    beyond = of_basis @ by_group.T @ rest
    share = np.einsum("ai,bi->abi", shift, shift / nu)
    cov_2 = np.zeros((p, p, len(spectrum.values)))
    for i, place in enumerate(member):
        cov_2[:, :, place] += share[:, :, i]
    return SharedDesign(
        spectrum=spectrum,
        codes=codes.astype(np.int32),
        places=places_of(codes, groups),
        sizes=sizes.astype(float),
        by_group=by_group,
        within=inner.T @ basis,
        inner=inner,
        from_groups=(vectors * root / sizes[:, None]).T.copy(),
        from_inner=-(inner.T @ basis @ by_group.T @ (vectors / root)).T,
        member=member.astype(np.int32),
        member_places=places_of(member, len(spectrum.values)),
        of_basis=of_basis if p > 1 else np.full((1, 1), 1 / n),
        shift=shift,
        cov=of_basis @ of_basis.T,
        cov_1=beyond @ beyond.T,
        cov_2=cov_2,
        vectors=vectors,
        log_volume=np.linalg.slogdet(of_basis)[1],
        rounding=np.finfo(float).eps * np.append(0, abs(x[:, 1:]).max(axis=0)),
        rank=np.float64(rank),
        freedom=np.float64(n - groups - w),
    )


def design_status(codes: np.ndarray, covariates: np.ndarray | None) -> Status:
    """NOT_IDENTIFIED or RANK_DEFICIENT where no outcome over a design has an estimate, else INTERIOR."""
    status = Status(int(_probed(codes, covariates).status))
    return status if status in (Status.NOT_IDENTIFIED, Status.RANK_DEFICIENT) else Status.INTERIOR


def _probed(codes: np.ndarray, covariates: np.ndarray | None) -> GroupMoments:
    """Moments of a random outcome: only the design is asked about."""
    probe = np.random.default_rng(0).normal(size=len(codes))
    with np.errstate(all="ignore"):
        return moments_of(HostRows(probe, codes, covariates, np.bincount(codes), extremes(probe, covariates)))


def rotated_covariates(codes: np.ndarray, covariates: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, int]:
    """Covariates (n, p - 1) in the coordinates of a frame, centred; (p, p) coefficients on X from those on them; and
    how many of them vary within groups."""
    moments = _probed(codes, covariates)
    to_x, rank = moments.frame.transform * moments.frame.scale, int(moments.within_rank)
    if covariates is None:
        return np.zeros((len(codes), 0)), to_x, rank
    turned = (covariates - covariates.mean(axis=0)) @ to_x[1:, 1:]
    return turned - turned.mean(axis=0), to_x, rank


def _span(columns: np.ndarray, rank: int) -> np.ndarray:
    """Orthonormal basis (n, rank) of the span of columns."""
    if rank == 0:
        return columns[:, :0]
    return np.linalg.svd(columns, full_matrices=False)[0][:, :rank]


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
    inside = product(design.inner.T, within)
    if len(inside):
        within = within - product(design.inner, inside)
    return Passes(pilot=pilot, scale=scale, sums=sums, inside=inside, floor=(within * within).sum(axis=0))


def reduce_passes(design: SharedDesign, made: Passes, dtype: jnp.dtype) -> Reduced:
    """A block in the coordinates of the spectrum, from the sums over its rows."""
    n, p = len(design.codes), design.of_basis.shape[0]
    product = lambda a, b: jnp.matmul(a.astype(dtype), b, precision=jax.lax.Precision.HIGHEST)
    sums, inside, floor = made.sums.astype(dtype), made.inside.astype(dtype), made.floor.astype(dtype)
    if p == 1:
        along = sums.sum(axis=0, keepdims=True)
        u = product(design.from_groups, sums)
    else:  # what X explains is taken away first, because it may be large
        along = product((design.by_group / design.sizes[:, None]).T, sums) + product(design.within.T, inside)
        u = product(design.from_groups, sums - product(design.by_group, along))
        u = u + product(design.from_inner, inside - product(design.within, along))
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
    at = spectral_profile(spectrum, outcome, ratio, simple=len(spectrum.values) == len(design.member))
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
    nu, vectors = design.spectrum.values[design.member], design.vectors.astype(dtype)
    product = lambda a, b: jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
    shrunk = 1 / (1 + estimate.ratio * nu)
    effect = estimate.ratio * product(vectors * jnp.sqrt(nu), shrunk * data.coordinates) / data.scale
    rest = 1 - (vectors * vectors).sum(axis=1)
    variance = estimate.between * (rest + product(vectors * vectors, shrunk))
    return effect, jnp.sqrt(variance)
