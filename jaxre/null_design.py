"""What the null distribution of the likelihood ratio needs of a design: its eigenvalues, concrete or traced."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxre.eager import bucket
from jaxre.moments import Strata
from jaxre.profile import degrees
from jaxre.proof import PARTS, Proof
from jaxre.records import record
from jaxre.rows import Array
from jaxre.spectrum import Spectrum, spectrum_of
from jaxre.status import Status


@record
class NullDesign:
    """What the null distribution needs of the design."""

    spectrum: Spectrum
    """eigenvalues and group sizes; with a Proof where the design is concrete, else with one that is not to be used."""
    freedom: Array
    """() [1], n - p - r."""
    valid: Array
    """() bool, whether there is a distribution."""


def concrete_design(strata: Strata, restricted: bool) -> NullDesign:
    """With equal eigenvalues together and a proof, padded to a bucket."""
    nu, counts, rank = _eigenvalues(strata, np)
    nu = np.sort(np.repeat(nu, counts.astype(int)))[-int(rank) :]
    sizes = np.repeat(strata.sizes, strata.counts.astype(int))
    freedom = strata.rows - strata.counts.sum() - strata.within_rank
    rows = int(strata.rows)
    spectrum, _ = spectrum_of(nu, sizes, rows, int(degrees(strata, restricted)), restricted)
    return NullDesign(spectrum=_padded(spectrum), freedom=freedom, valid=np.bool_(True))


def _padded(spectrum: Spectrum) -> Spectrum:
    """The largest eigenvalue and size again, with a count of 0."""
    q, of_log = bucket(len(spectrum.values)), bucket(len(spectrum.log_counts))
    repeat = lambda column, size: np.pad(column, (0, size - len(column)), mode="edge")
    blank = lambda table, size: np.pad(table, [(0, 0)] * (table.ndim - 1) + [(0, size - table.shape[-1])])
    return dataclasses.replace(
        spectrum,
        values=repeat(spectrum.values, q),
        counts=blank(spectrum.counts, q),
        log_values=None if spectrum.log_values is None else repeat(spectrum.log_values, of_log),
        log_counts=blank(spectrum.log_counts, of_log),
        proof=jax.tree.map(lambda table: blank(table, q), spectrum.proof),
    )


def traced_design(strata: Strata, restricted: bool) -> NullDesign:
    """With every eigenvalue for itself and no proof, so that each draw is looked at point by point."""
    valid = strata.status == Status.INTERIOR
    nu, counts, _ = _eigenvalues(strata, jnp)
    nu, counts = jnp.where(valid, nu, 1.0), jnp.where(valid, counts, 1.0)
    nu, counts = _ascending(nu, counts)
    log_values, log_counts = (None, counts) if restricted else _ascending(strata.sizes, strata.counts)
    groups, unknown = strata.counts.sum(), jnp.full((PARTS, len(nu)), jnp.nan, nu.dtype)
    spectrum = Spectrum(
        rows=strata.rows,
        degrees=degrees(strata, restricted),
        values=nu,
        counts=counts,
        log_values=log_values,
        log_counts=log_counts,
        size=strata.rows / groups,
        largest=jnp.where(strata.counts > 0, strata.sizes, 0).max(),
        proof=Proof(slope=unknown, low=unknown, high=unknown),
    )
    freedom = strata.rows - groups - strata.within_rank
    return NullDesign(spectrum=spectrum, freedom=jnp.where(valid, freedom, 1.0), valid=valid)


def _ascending(values: Array, counts: Array) -> tuple[Array, Array]:
    """In ascending order, what does not occur last and as large as the largest."""
    values = jnp.where(counts > 0, values, jnp.where(counts > 0, values, 0).max())
    order = jnp.lexsort((-counts, values))
    return values[order], jnp.asarray(counts)[order]


def _eigenvalues(strata: Strata, xp: Any) -> tuple[Array, Array, Array]:
    """Eigenvalues of Z' P0 Z, how often each occurs, and r, the number of positive ones.

    Z' P0 Z = D - D X (X'X)^-1 X' D with D the sizes and X the group means. In a stratum of m groups of size k, what is
    orthogonal to the columns of X has the eigenvalue k; the rest, q <= min(m, p) directions, is left as R with
    R'R = X'X there. As many directions as there can be are kept: one that is there by rounding alone has R = 0, and k.
    """
    x, k, m = strata.means[:, :-1], strata.sizes, strata.counts
    p = x.shape[1]
    products = m[:, None, None] * x[:, :, None] * x[:, None, :]
    if strata.scatter is not None:
        products = products + strata.scatter[:, :p, :p]
    normal = strata.within_cross[:p, :p] + (k[:, None, None] * products).sum(axis=0)
    if strata.scatter is None or p == 1:
        roots, kept = xp.sqrt(m)[:, None, None] * x[:, None, :], xp.minimum(m, 1)[:, None]
    else:
        squares, vectors = xp.linalg.eigh(products)
        kept = (xp.arange(p) >= p - m[:, None]).astype(squares.dtype)
        roots = (vectors * (xp.sqrt(xp.maximum(squares, 0)) * kept)[:, None, :]).swapaxes(1, 2)
    sides = (k[:, None, None] * roots).reshape(-1, p)
    matrix = xp.diag((k[:, None] * kept).ravel()) - sides @ xp.linalg.inv(normal) @ sides.T
    alone = xp.where(k > 0, m - kept.sum(axis=1), 0)
    rank = m.sum() + strata.within_rank - p
    positive = xp.arange(len(matrix)) >= len(matrix) - (rank - alone.sum())
    nu = xp.concatenate([xp.linalg.eigvalsh(matrix), k])
    return nu, xp.concatenate([positive.astype(nu.dtype), alone]), rank
