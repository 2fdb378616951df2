"""One design shared by many outcomes: the eigenvalues of Z' P0 Z, and the profile of an outcome in their terms.

With P0 = I - X (X'X)^-1 X', nu_i > 0 the r = rank[X Z] - p eigenvalues of Z' P0 Z and u_i an outcome's coordinates,

    Q(lambda) = Q(infinity) + sum_i u_i^2 / (1 + lambda nu_i)
    log det H + log det X'H^-1 X = sum_i log(1 + lambda nu_i)

up to a constant: no covariate and no matrix is left in the search. Equal eigenvalues share a term. The proof for an
outcome is a few dot products of its u_i^2 with constants of the design, see `proof`.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxre.curve import Curve, closed_ratio, known_to_rise_from
from jaxre.profile import Profile
from jaxre.proof import Proof, proof_of, proven
from jaxre.records import record
from jaxre.rows import Array
from jaxre.settings import has_little_to_do

UNROLLED = 48  # eigenvalues up to which the sums are written out, so that they fuse under vmap
LOGS = {8: 8, 4: 2}  # bytes of a number, factors of a determinant that share a logarithm; see `log_of_product`
EQUAL = 1e-11  # relative distance below which eigenvalues are one


@record
class Spectrum:
    """What the profile of an outcome needs of the design; NumPy constants, or traced so that one program serves all."""

    rows: Array
    """() [1], n."""
    degrees: Array
    """() [1], N: n for the full likelihood, n - p for the restricted one."""
    values: Array
    """(r,) distinct eigenvalues nu_i of Z' P0 Z."""
    counts: Array
    """(r,) [1], how often each occurs."""
    log_values: Array | None
    """(l,) the terms of L: the distinct group sizes for the full likelihood, None for the eigenvalues again."""
    log_counts: Array
    """(l,) [1], how often each occurs."""
    size: Array
    """() [1], mean group size."""
    largest: Array
    """() [1], largest group size."""
    proof: Proof
    """what the certificate needs."""

    @property
    def of_log_det(self) -> Array:
        """(l,) the terms of L."""
        return self.values if self.log_values is None else self.log_values


def spectrum_of(
    nu: np.ndarray, sizes: np.ndarray, rows: int, degrees: int, restricted: bool
) -> tuple[Spectrum, np.ndarray]:
    """Spectrum from all eigenvalues (ascending) and group sizes; and to which distinct one each eigenvalue belongs."""
    member = np.concatenate([[0], np.cumsum(np.diff(nu) > EQUAL * nu[-1])])
    counts = np.bincount(member).astype(float)
    values = np.bincount(member, weights=nu) / counts
    log_values, log_counts = values, counts
    if not restricted:
        log_values, log_counts = (column.astype(float) for column in np.unique(sizes, return_counts=True))
    proof = proof_of(values, log_values, log_counts, float(degrees), rows / len(sizes))
    return Spectrum(
        rows=np.float64(rows),
        degrees=np.float64(degrees),
        values=values,
        counts=counts,
        log_values=None if restricted else log_values,
        log_counts=log_counts,
        size=np.float64(rows / len(sizes)),
        largest=np.float64(sizes.max()),
        proof=proof,
    ), member


@record
class Coordinates:
    """An outcome in the coordinates of a spectrum."""

    squares: Array
    """(r,) sums of u_i^2 over equal eigenvalues."""
    floor: Array
    """() Q(infinity)."""
    valid: Array
    """() bool, whether there is an estimate to look for."""


def sums(terms: int, term: Any, *columns: Array) -> tuple[Array, ...]:
    """Sum over i of term(column_1[i], ...), a tuple: written out when there are few, a loop when there are many; in a
    program with little to do all at once."""
    if has_little_to_do():
        return tuple(part.sum(axis=0) for part in term(*columns))
    if terms <= UNROLLED:
        parts = [term(*(column[i] for column in columns)) for i in range(terms)]
        return tuple(sum(rest, first) for first, *rest in zip(*parts, strict=True))
    first = term(*(column[0] for column in columns))
    add = lambda i, total: tuple(a + b for a, b in zip(total, term(*(column[i] for column in columns)), strict=True))
    return jax.lax.fori_loop(1, terms, add, first)


def log_of_product(values: Array, ratio: Array) -> Array:
    """Sum of log(1 + ratio nu_i) over few values in ascending order, with a logarithm for several of them.

    Each factor is taken relative to the largest, so that no product overflows, and is no less than the smallest value
    over the largest, so that none vanishes while that is above 1e-38 (in single precision 1e-19). The sum is off by a
    few units in the last place of 1.
    """
    logs = LOGS[values.dtype.itemsize]
    most = 1 + ratio * values[-1]
    share = 1 / most
    factors = [(1 + ratio * value) * share for value in values[:-1]]
    blocks = [factors[i : i + logs] for i in range(0, len(factors), logs)]
    return len(values) * jnp.log(most) + sum(jnp.log(math.prod(block)) for block in blocks)


def spectral_profile(spectrum: Spectrum, outcome: Coordinates, ratio: Array, every: Array | None = None) -> Profile:
    """Q and L at a ratio, with derivatives; O(r). With every eigenvalue, also equal ones, L takes fewer logarithms."""

    def of_q(nu: Array, t: Array) -> tuple[Array, ...]:
        shrunk = 1 / (1 + ratio * nu)
        w, part = nu * shrunk, t * shrunk
        return part, part * w, part * w * w, part * w * w * w

    def of_log_det(nu: Array, m: Array) -> tuple[Array, ...]:
        w = nu / (1 + ratio * nu)
        return m * jnp.log1p(ratio * nu), m * w, m * w * w

    def of_both(nu: Array, t: Array, m: Array) -> tuple[Array, ...]:
        shrunk = 1 / (1 + ratio * nu)
        w, part, mw = nu * shrunk, t * shrunk, m * nu * shrunk
        return part, part * w, part * w * w, part * w * w * w, m * jnp.log1p(ratio * nu), mw, mw * w

    nu, t, k, m = spectrum.values, outcome.squares, spectrum.log_values, spectrum.log_counts
    if k is None:
        zeroth, first, second, third, log_det, log_det_1, log_det_2 = sums(len(nu), of_both, nu, t, m)
    else:
        zeroth, first, second, third = sums(len(nu), of_q, nu, t)
        log_det, log_det_1, log_det_2 = sums(len(k), of_log_det, k, m)
    if every is not None and k is None and 1 < len(every) <= UNROLLED and not has_little_to_do():
        log_det = log_of_product(every, ratio)
    return Profile(
        ratio=ratio,
        quadratic=outcome.floor + zeroth,
        quadratic_1=-first,
        quadratic_2=2 * second,
        quadratic_3=-6 * third,
        log_det=log_det,
        log_det_1=log_det_1,
        cancelled=jnp.zeros_like(log_det_1),
        log_det_2=-log_det_2,
        excess=zeroth,
    )


def spectral_curve(data: tuple[Spectrum, Coordinates]) -> Curve:
    """The profile through the spectrum, with the proof that needs no point of it."""
    spectrum, outcome = data
    n, terms = spectrum.degrees, spectrum.log_counts.sum()

    closed = None
    if len(spectrum.values) == len(spectrum.of_log_det) == 1:  # balanced: F is linear in 1 / (1 + lambda nu)
        excess = outcome.squares[0] * (n / spectrum.log_counts[0] - 1)
        closed = closed_ratio(excess / outcome.floor, spectrum.values[0])
    return Curve(
        at=lambda ratio: spectral_profile(spectrum, outcome, ratio),
        n=n,
        count=n,
        floor=outcome.floor,
        size=spectrum.size,
        largest=spectrum.largest,
        valid=outcome.valid,
        rises_from=known_to_rise_from(spectrum.values[0], spectrum.of_log_det[-1], terms / n),
        cancels=False,
        closed=closed,
        proven=proven(spectrum.proof, outcome.squares, outcome.floor),
        look=False,
    )
