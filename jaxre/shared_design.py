"""One design that many outcomes share: what is computed of it once, on the host, for the kernel that fits them."""

from __future__ import annotations

import numpy as np

from jaxre.by_group import places_of
from jaxre.moments import GroupMoments, moments_of
from jaxre.observations import extremes
from jaxre.records import record
from jaxre.rows import Array, HostRows
from jaxre.spectrum import Spectrum, spectrum_of
from jaxre.status import Status

MOST_GROUPS = 4000  # groups up to which the eigenvalues of a design are worth their time


@record
class SharedDesign:
    """Rows in the order of their groups, and what the fit of an outcome over them needs.

    With X = basis triangle and E = (P0 Z) U nu^-1/2 the directions of the groups beyond X, an outcome's coordinates
    u = E'y are linear in its products with Z and with `inner`, a basis of the covariates within groups: [Z inner]'y.
    """

    spectrum: Spectrum
    codes: Array
    """(n,) int32 group of each row, ascending."""
    places: Array | None
    """the rows of each group, see `places_of`."""
    sizes: Array
    """(groups,) [1]."""
    inner: Array
    """(n, w) orthonormal columns that span the covariates less their group means."""
    of_x: Array
    """(groups + w, p) [Z inner]' basis, of orthonormal columns (n, p) that span X."""
    along_x: Array
    """(p, groups + w) products with `basis` from [Z inner]'y."""
    to_u: Array
    """(r, groups + w) u from [Z inner]'y."""
    eigenvalues: Array
    """(r,) all eigenvalues of Z'P0 Z beyond 0, ascending."""
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
    within = inner.T @ basis
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
        inner=inner,
        of_x=np.concatenate([by_group, within]),
        along_x=np.concatenate([(by_group / sizes[:, None]).T, within.T], axis=1),
        to_u=np.concatenate([(vectors * root / sizes[:, None]).T, -(within @ by_group.T @ (vectors / root)).T], axis=1),
        eigenvalues=spectrum.values[member],
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
